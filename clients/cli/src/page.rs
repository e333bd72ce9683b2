//! The page that `touchline local` serves: six fans' phones, the match, a control desk. Phones are
//! fans of the gateway like any other; nothing that a fan receives comes from here.
//!
//! - [`desk`](self): what the page knows and can do; `fields`: reading what it sends;
//! - `guard`: who is answered at all; `assets`: the files; `live`: what is told as it happens;
//! - `figures`: pushes a second, counted.

mod assets;
mod desk;
mod fields;
mod figures;
mod follow;
mod guard;
mod live;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::broadcast};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use touchline_client::Client;
use touchline_push::Round;

pub use self::desk::Desk;
use crate::{match_file::Match, replay::Remote};

/// Largest body of a request, in bytes: an event with its text is a tenth of it.
const BODY_BYTES_MAX: usize = 4096;
/// How long open answers may take to end once shutdown began.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// What the page is made of.
#[derive(Debug)]
pub struct PageParts {
    /// The server.
    pub client: Client,
    /// The gateway's address, as a fan takes it.
    pub gateway: String,
    /// The match on the timeline.
    pub game: Match,
    /// The hand on its replay.
    pub remote: Remote,
    /// The finished fan-outs.
    pub rounds: broadcast::Receiver<Round>,
}

/// Serves the page on `listener` until `shutdown`. Returns at once; `tasks` ends when all has.
pub fn start(
    listener: TcpListener,
    parts: PageParts,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Arc<Desk> {
    let PageParts {
        client,
        gateway,
        game,
        remote,
        rounds,
    } = parts;
    let desk = Arc::new(Desk::new(client, gateway, game, remote, shutdown.clone()));
    let following = follow::state(desk.clone());
    tasks.spawn(shutdown.clone().run_until_cancelled_owned(following));
    let counting = follow::rounds(desk.clone(), rounds);
    tasks.spawn(shutdown.clone().run_until_cancelled_owned(counting));
    tasks.spawn(serve(listener, desk.clone(), shutdown.clone()));
    desk
}

async fn serve(listener: TcpListener, desk: Arc<Desk>, shutdown: CancellationToken) {
    let ending = {
        let shutdown = shutdown.clone();
        async move {
            shutdown.cancelled().await;
            tokio::time::sleep(END_TIMEOUT).await;
        }
    };
    let serving =
        axum::serve(listener, router(desk)).with_graceful_shutdown(shutdown.cancelled_owned());
    tokio::select! {
        served = serving => if let Err(error) = served {
            tracing::error!(%error, "the page is no longer served");
        },
        // A browser that does not let go must not hold up the end.
        () = ending => {}
    }
}

fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/", get(assets::index))
        .route("/{file}", get(assets::file))
        .route("/api/page", get(page))
        .route("/api/live", get(live::live))
        .route("/api/fire", post(desk::fire))
        .route("/api/replay", post(desk::replay))
        .route("/api/tap", post(desk::tap))
        .fallback(async || Refused::new(StatusCode::NOT_FOUND, "there is nothing here"))
        .method_not_allowed_fallback(async || {
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(desk.clone(), guard::guard))
        // For who supervises the process, by whatever name; says nothing of the match.
        .route("/healthz", get(async || "ok\n"))
        .with_state(desk)
}

async fn page(State(desk): State<Arc<Desk>>) -> Json<Value> {
    Json(desk.page())
}

/// A request that is not done, as the page reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refused {
    status: StatusCode,
    field: Option<String>,
    message: String,
}

impl Refused {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            field: None,
            message: message.into(),
        }
    }

    fn field(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: Some(name.into()),
            ..Self::new(StatusCode::BAD_REQUEST, message)
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "field": self.field, "message": self.message } });
        (self.status, Json(body)).into_response()
    }
}
