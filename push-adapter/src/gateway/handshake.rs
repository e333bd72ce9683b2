//! A fan's handshake: where it comes from, TLS, the path, the page's origin, the token, the upgrade.
//! What is refused is refused before the upgrade, with an HTTP status. Knows no message.

use std::{io, net::IpAddr};

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ORIGIN, SEC_WEBSOCKET_PROTOCOL},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::{
    Error,
    error::ProtocolError,
    handshake::{
        machine::TryParse,
        server::{Request, Response, create_response, write_response},
    },
};
use touchline_auth::{Identity, Refused, offer::Offer};

use super::{Gateway, places::Place, proxy};
use crate::{
    config::FanAccess,
    connections::{connection::Opening, socket::Socket},
};

/// A handshake's request line and headers (API Gateway quotas: 10,240 bytes).
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Longest name of a fan's software that is kept.
const USER_AGENT_CHARACTERS_MAX: usize = 128;

/// A fan who may come in.
pub(super) struct Shaken {
    pub(super) socket: Socket,
    pub(super) opening: Opening,
}

/// An answer in place of the upgrade.
struct Denied {
    status: StatusCode,
    body: &'static str,
    why: Why,
}

/// As it is counted.
enum Why {
    Forbidden,
    Unauthenticated,
    Origin,
    AddressFull,
    Throttled,
    Invalid,
}

impl Denied {
    /// What API Gateway answers where there is no such stage, or to who may not come in.
    const fn forbidden(why: Why) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            body: r#"{"message":"Forbidden"}"#,
            why,
        }
    }

    /// What is no handshake, or one of a version that is not spoken here (RFC 6455, 4.4).
    fn invalid(error: &Error) -> Self {
        tracing::debug!(%error, "no handshake");
        let is_version = matches!(
            error,
            Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader)
        );
        Self {
            status: match is_version {
                true => StatusCode::UPGRADE_REQUIRED,
                false => StatusCode::BAD_REQUEST,
            },
            body: r#"{"message":"Bad Request"}"#,
            why: Why::Invalid,
        }
    }

    const fn too_many(why: Why) -> Self {
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            body: r#"{"message":"Too Many Requests"}"#,
            why,
        }
    }
}

/// What API Gateway answers where its authorizer knows nobody.
const UNAUTHORIZED: Denied = Denied {
    status: StatusCode::UNAUTHORIZED,
    body: r#"{"message":"Unauthorized"}"#,
    why: Why::Unauthenticated,
};
const UNAVAILABLE: Denied = Denied {
    status: StatusCode::SERVICE_UNAVAILABLE,
    body: r#"{"message":"Service Unavailable"}"#,
    why: Why::Unauthenticated,
};

/// `None`: it came to nothing, and the fan was told as far as it can hear.
pub(super) async fn shake_hands(
    gateway: &Gateway,
    mut stream: TcpStream,
    address: IpAddr,
    place: &mut Place,
) -> Option<Shaken> {
    let shaking = async {
        let address = match gateway.access.proxy_protocol {
            true => proxy::read(&mut stream).await?.unwrap_or(address),
            false => address,
        };
        let Some(tls) = &gateway.tls else {
            let shaken = greet(gateway, &mut stream, address, place).await?;
            return Ok(shaken.map(|(opening, rest)| (Socket::new(stream, None, rest), opening)));
        };
        let mut stream = tls.handshake(stream).await?;
        let shaken = greet(gateway, &mut stream, address, place).await?;
        let (stream, session) = stream.into_inner();
        Ok(shaken.map(|(opening, rest)| (Socket::new(stream, Some(session), rest), opening)))
    };
    match shaking.await {
        Ok(Some((socket, opening))) => Some(Shaken { socket, opening }),
        Ok(None) => None,
        Err(error) => {
            let error: io::Error = error;
            tracing::debug!(%error, "a handshake failed");
            gateway.metrics.front.refused.invalid.inc();
            None
        }
    }
}

/// The handshake proper. `None`: the fan was denied and told so.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    gateway: &Gateway,
    stream: &mut S,
    address: IpAddr,
    place: &mut Place,
) -> io::Result<Option<(Opening, Vec<u8>)>> {
    let (request, rest) = match read(stream).await {
        Ok(read) => read,
        Err(Error::Io(error)) => return Err(error),
        Err(error) => return deny(gateway, stream, Denied::invalid(&error)).await,
    };
    let address = forwarded(request.headers(), &gateway.access).unwrap_or(address);
    let offer = offer(&request);
    let identity = match admit(gateway, &request, &offer, address, place).await {
        Ok(identity) => identity,
        Err(denied) => return deny(gateway, stream, denied).await,
    };
    match answer(&request, &offer) {
        Ok(answer) => stream.write_all(&answer).await?,
        Err(error) => return deny(gateway, stream, Denied::invalid(&error)).await,
    }
    let user_agent = request.headers().get("user-agent");
    let user_agent = user_agent.and_then(|agent| agent.to_str().ok());
    let opening = Opening {
        id: super::connection_id(),
        source_ip: address,
        user_agent: user_agent.map(|agent| {
            let kept: String = agent.chars().take(USER_AGENT_CHARACTERS_MAX).collect();
            kept.into()
        }),
        identity,
    };
    Ok(Some((opening, rest)))
}

/// The fan's address as the proxies before this front say: the one that the outermost trusted proxy
/// saw. What stands further left was written by whoever sent it.
fn forwarded(headers: &HeaderMap, access: &FanAccess) -> Option<IpAddr> {
    let hops = usize::from(access.forwarded_hops);
    let place = hops.checked_sub(1)?;
    let headers: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let mut addresses = headers.iter().rev().flat_map(|value| value.rsplit(','));
    addresses.nth(place)?.trim().parse().ok()
}

/// The request, and what the fan sent after it.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(Request, Vec<u8>), Error> {
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

/// Where the request carries a token, and which protocol is answered.
pub fn offer(request: &Request) -> Offer {
    let protocols = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let protocols = protocols.filter_map(|value| value.to_str().ok());
    Offer::read(request.uri().query(), protocols)
}

/// Whose token it is; `None` where none is asked for.
async fn admit(
    gateway: &Gateway,
    request: &Request,
    offer: &Offer,
    address: IpAddr,
    place: &mut Place,
) -> Result<Option<Identity>, Denied> {
    if !gateway.rates.allow_handshake(address) {
        return Err(Denied::too_many(Why::Throttled));
    }
    if !place.of(address) {
        return Err(Denied::too_many(Why::AddressFull));
    }
    if request.uri().path().trim_matches('/') != gateway.stage {
        return Err(Denied::forbidden(Why::Forbidden));
    }
    let origin = request.headers().get(ORIGIN);
    if !origin.is_none_or(|origin| gateway.access.allows_origin(origin)) {
        return Err(Denied::forbidden(Why::Origin));
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
        return Err(Denied::forbidden(Why::Forbidden));
    }
    Ok(Some(identity))
}

/// The answer that makes it a WebSocket.
pub fn answer(request: &Request, offer: &Offer) -> Result<Vec<u8>, Error> {
    let mut response: Response = create_response(request)?;
    if let Some(accept) = offer.accept {
        let accept = HeaderValue::from_static(accept);
        response
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, accept);
    }
    let mut answer = Vec::with_capacity(256);
    write_response(&mut answer, &response)?;
    Ok(answer)
}

async fn deny<S: AsyncWrite + Unpin, T>(
    gateway: &Gateway,
    stream: &mut S,
    denied: Denied,
) -> io::Result<Option<T>> {
    let refused = &gateway.metrics.front.refused;
    match denied.why {
        Why::Forbidden => refused.forbidden.inc(),
        Why::Unauthenticated => refused.unauthenticated.inc(),
        Why::Origin => refused.origin.inc(),
        Why::AddressFull => refused.address_full.inc(),
        Why::Throttled => refused.throttled.inc(),
        Why::Invalid => refused.invalid.inc(),
    };
    // A fan who does not take it learns by the closed connection.
    let _ = stream.write_all(&denied.bytes()).await;
    let _ = stream.shutdown().await;
    Ok(None)
}

impl Denied {
    fn bytes(&self) -> Vec<u8> {
        let Self { status, body, .. } = self;
        let challenge = match *status {
            StatusCode::UPGRADE_REQUIRED => "sec-websocket-version: 13\r\n",
            StatusCode::UNAUTHORIZED => "www-authenticate: Bearer\r\n",
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "retry-after: 5\r\n",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_trusted_proxies_added_says_where_a_fan_is() {
        let mut headers = HeaderMap::new();
        headers.append(
            "x-forwarded-for",
            HeaderValue::from_static("6.6.6.6, 10.0.0.1"),
        );
        headers.append("x-forwarded-for", HeaderValue::from_static("10.0.0.2"));
        let with = |forwarded_hops| {
            let access = FanAccess {
                forwarded_hops,
                ..crate::PushArgs::default().fan_access
            };
            forwarded(&headers, &access).map(|address| address.to_string())
        };
        assert_eq!(with(0), None);
        assert_eq!(with(1).as_deref(), Some("10.0.0.2"));
        assert_eq!(with(2).as_deref(), Some("10.0.0.1"));
        assert_eq!(with(4), None);
    }
}
