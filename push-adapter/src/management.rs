//! `/@connections`: API Gateway's management API for the connections of this process's front, so
//! that any AWS SDK posts to them. On a port of its own, never on the fans'.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::{HeaderName, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use touchline_store::ids::ConnectionId;

use crate::connections::{
    Frame, PostError, closing::Closing, connection::Connection, local::Local,
    socket::MESSAGE_BYTES_MAX,
};

/// Serves until `stopping`.
pub async fn serve(
    listener: TcpListener,
    local: Arc<Local>,
    stopping: CancellationToken,
) -> std::io::Result<()> {
    let connection = get(look).post(post).delete(close);
    let router = Router::new()
        .route("/@connections/{id}", connection.clone())
        // The SDK's endpoint ends in the stage.
        .route("/{stage}/@connections/{id}", connection)
        .layer(DefaultBodyLimit::max(MESSAGE_BYTES_MAX))
        .with_state(local);
    axum::serve(listener, router)
        .with_graceful_shutdown(stopping.cancelled_owned())
        .await
}

async fn post(
    State(local): State<Arc<Local>>,
    path: Path<Vec<(String, String)>>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let Ok(body) = body else {
        return refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            "PayloadTooLargeException",
            "the message is larger than 128 KB",
        );
    };
    let Ok(text) = body.try_into() else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "BadRequestException",
            "the message is not UTF-8",
        );
    };
    let text: tokio_tungstenite::tungstenite::Utf8Bytes = text;
    let Some(connection) = find(&local, &path) else {
        return gone();
    };
    match connection.post(Frame::reply(text)) {
        Ok(()) => StatusCode::OK.into_response(),
        Err(PostError::Full) => refuse(
            StatusCode::TOO_MANY_REQUESTS,
            "LimitExceededException",
            "the connection takes no more messages",
        ),
        Err(_) => gone(),
    }
}

async fn look(State(local): State<Arc<Local>>, path: Path<Vec<(String, String)>>) -> Response {
    let Some(connection) = find(&local, &path) else {
        return gone();
    };
    let time = |at: SystemTime| humantime::format_rfc3339_millis(at).to_string();
    let body = json!({
        "connectedAt": time(connection.times.opened_at),
        "lastActiveAt": time(connection.times.last_active_at()),
        "identity": {
            "sourceIp": connection.source_ip.to_string(),
            "userAgent": connection.user_agent,
        },
    });
    axum::Json(body).into_response()
}

async fn close(State(local): State<Arc<Local>>, path: Path<Vec<(String, String)>>) -> Response {
    let Some(connection) = find(&local, &path) else {
        return gone();
    };
    // From here on it is gone for everybody, though its task still says goodbye.
    local.remove(&connection.id);
    connection.close(Closing::going_away("closed by the server"));
    StatusCode::NO_CONTENT.into_response()
}

fn find(local: &Local, path: &[(String, String)]) -> Option<Arc<Connection>> {
    let (_, id) = path.iter().find(|(name, _)| name == "id")?;
    local.get(&ConnectionId::new(id).ok()?)
}

fn gone() -> Response {
    refuse(StatusCode::GONE, "GoneException", "the connection is gone")
}

fn refuse(status: StatusCode, kind: &'static str, message: &str) -> Response {
    let kind = [(HeaderName::from_static("x-amzn-errortype"), kind)];
    (status, kind, axum::Json(json!({ "message": message }))).into_response()
}
