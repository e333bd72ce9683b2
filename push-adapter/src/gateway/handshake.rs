//! A fan's handshake: the path, the token, the upgrade. What is refused is refused before the upgrade,
//! with an HTTP status. Knows no message.

use http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error,
        error::ProtocolError,
        handshake::{
            machine::TryParse,
            server::{Request, Response, create_response, write_response},
        },
        protocol::{Role, WebSocketConfig},
    },
};
use touchline_auth::{Identity, Refused, offer::Offer};

use super::Gateway;
use crate::management::MESSAGE_BYTES_MAX;

/// Largest frame that a fan may send (API Gateway quotas: WebSocket frame size 32 KB).
const FRAME_BYTES_MAX: usize = 32 << 10;

/// What waits in user space for one socket; beyond, the fan does not read.
const WRITE_BUFFER_BYTES_MAX: usize = 512 << 10;

/// Read at once from one socket. Fans say little, so ten thousand of them take 40 MB at most.
const READ_BUFFER_BYTES: usize = 4 << 10;

/// A handshake's request line and headers (API Gateway quotas: 10,240 bytes).
const HEAD_BYTES_MAX: usize = 16 << 10;

/// A fan who may come in.
pub(super) struct Shaken {
    pub(super) socket: WebSocketStream<TcpStream>,
    pub(super) user_agent: Option<String>,
    /// Whose token was presented, where one is asked for.
    pub(super) identity: Option<Identity>,
}

/// An answer in place of the upgrade.
struct Denied {
    status: StatusCode,
    body: &'static str,
}

/// What API Gateway answers where there is no such stage, or to who may not come in.
const FORBIDDEN: Denied = Denied {
    status: StatusCode::FORBIDDEN,
    body: r#"{"message":"Forbidden"}"#,
};
/// What API Gateway answers where its authorizer knows nobody.
const UNAUTHORIZED: Denied = Denied {
    status: StatusCode::UNAUTHORIZED,
    body: r#"{"message":"Unauthorized"}"#,
};
const UNAVAILABLE: Denied = Denied {
    status: StatusCode::SERVICE_UNAVAILABLE,
    body: r#"{"message":"Service Unavailable"}"#,
};

/// `None`: it came to nothing, and the fan was told as far as it can hear.
pub(super) async fn shake_hands(gateway: &Gateway, mut stream: TcpStream) -> Option<Shaken> {
    let refused = &gateway.metrics.front.refused;
    let (request, rest) = match read(&mut stream).await {
        Ok(read) => read,
        Err(error) => {
            tracing::debug!(%error, "a handshake failed");
            refused.invalid.inc();
            return None;
        }
    };
    let offer = offer(&request);
    let identity = match admit(gateway, &request, &offer).await {
        Ok(identity) => identity,
        Err(denied) => {
            match denied.status {
                StatusCode::FORBIDDEN => refused.forbidden.inc(),
                _ => refused.unauthenticated.inc(),
            };
            // A fan who does not take it learns by the closed connection.
            let _ = stream.write_all(&denied.bytes()).await;
            let _ = stream.shutdown().await;
            return None;
        }
    };
    match upgrade(&mut stream, &request, &offer).await {
        Ok(()) => {}
        Err(error) => {
            tracing::debug!(%error, "a handshake failed");
            refused.invalid.inc();
            return None;
        }
    }
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(READ_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let socket =
        WebSocketStream::from_partially_read(stream, rest, Role::Server, Some(config)).await;
    let user_agent = request.headers().get("user-agent");
    let user_agent = user_agent.and_then(|agent| agent.to_str().ok());
    Some(Shaken {
        socket,
        user_agent: user_agent.map(|agent| agent.chars().take(256).collect()),
        identity,
    })
}

/// The request, and what the fan sent after it.
async fn read(stream: &mut TcpStream) -> Result<(Request, Vec<u8>), Error> {
    let mut head = Vec::with_capacity(1 << 10);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(Error::Protocol(ProtocolError::HandshakeIncomplete));
        }
        if let Some((length, request)) = Request::try_parse(&head)? {
            return Ok((request, head.split_off(length)));
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(Error::AttackAttempt);
        }
    }
}

fn offer(request: &Request) -> Offer {
    let protocols = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let protocols = protocols.filter_map(|value| value.to_str().ok());
    Offer::read(request.uri().query(), protocols)
}

/// Whose token it is; `None` where none is asked for.
async fn admit(
    gateway: &Gateway,
    request: &Request,
    offer: &Offer,
) -> Result<Option<Identity>, Denied> {
    if request.uri().path().trim_matches('/') != gateway.stage {
        return Err(FORBIDDEN);
    }
    let Some(verifier) = &gateway.verifier else {
        return Ok(None);
    };
    let token = offer.token.as_deref().unwrap_or_default();
    let identity = verifier.verify(token).await.map_err(|refused| {
        tracing::debug!(reason = refused.reason(), "a fan's token is not accepted");
        match refused {
            Refused::Unavailable => UNAVAILABLE,
            _ => UNAUTHORIZED,
        }
    })?;
    // A fan has to be somebody.
    if identity.consumer_id.is_none() {
        return Err(FORBIDDEN);
    }
    Ok(Some(identity))
}

async fn upgrade(stream: &mut TcpStream, request: &Request, offer: &Offer) -> Result<(), Error> {
    let mut response: Response = create_response(request)?;
    if let Some(accept) = offer.accept {
        let accept = HeaderValue::from_static(accept);
        response
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, accept);
    }
    let mut answer = Vec::with_capacity(256);
    write_response(&mut answer, &response)?;
    stream.write_all(&answer).await?;
    Ok(())
}

impl Denied {
    fn bytes(&self) -> Vec<u8> {
        let Self { status, body } = self;
        let challenge = match *status {
            StatusCode::UNAUTHORIZED => "www-authenticate: Bearer\r\n",
            _ => "",
        };
        format!(
            "HTTP/1.1 {status}\r\n{challenge}content-type: application/json\r\ncontent-length: \
             {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}
