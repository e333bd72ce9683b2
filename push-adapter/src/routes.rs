//! What a fan's connecting, registering and leaving do to its session, and what the fan is told: plain
//! functions over the sessions, for the gateway here and for Lambdas. They never post themselves.

use tokio_tungstenite::tungstenite::Utf8Bytes;
use touchline_auth::{Identity, Refused as TokenRefused, Verifier};
use touchline_store::{
    Error,
    ids::{ConnectionId, ConsumerId},
    session::{Protocol, Registration, TokenHolder},
};

use crate::{messages, sessions::Sessions};

pub mod registration;

use registration::{Refused, Registering};

/// What the prototype's handlers return. Each body is itself JSON-encoded, quotes included.
const PROCESSED: &str = "\"successfully processed client message...\"";
const DEFAULT: &str = "\"successfully handled default route\"";
const DISCONNECTED: &str = "\"successfully deleted session on disconnect\"";

/// What a route came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// HTTP status of the integration's answer.
    pub status: u16,
    /// Its body. No route has a response, so it reaches nobody.
    pub body: String,
    /// What is posted to the connection.
    pub post: Option<Utf8Bytes>,
    /// The registration that is stored now.
    pub registered: Option<Registering>,
    /// Who the fan is from now on, for longer than before.
    pub renewed: Option<Identity>,
}

/// The route that a message selects by `$request.body.action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `sendmessage`.
    SendMessage,
    /// `refresh`, where tokens are asked for.
    Refresh,
    /// `$default`: not JSON, no object, or no known action.
    Default,
}

/// Selects the route of a message. Without tokens there is nothing to refresh, and no such route.
pub fn select(body: &str, has_tokens: bool) -> Route {
    let Ok(serde_json::Value::Object(object)) = serde_json::from_str(body) else {
        return Route::Default;
    };
    match object.get("action").and_then(serde_json::Value::as_str) {
        Some("sendmessage") => Route::SendMessage,
        Some("refresh") if has_tokens => Route::Refresh,
        Some(_) | None => Route::Default,
    }
}

/// `$connect`: opens the session. `endpoint` is where messages for it are posted, `identity`
/// whose token was presented, where one was asked for.
pub async fn connect(
    sessions: &dyn Sessions,
    connection: &ConnectionId,
    endpoint: &str,
    identity: Option<&Identity>,
) -> Outcome {
    let holder = match identity.map(holder).transpose() {
        Ok(holder) => holder,
        Err(NoConsumer) => {
            return Outcome {
                status: 403,
                body: "\"the token names no consumer\"".to_owned(),
                ..failed(None)
            };
        }
    };
    let opened = sessions.open(connection, endpoint, holder.as_ref());
    match opened.await {
        Ok(()) => done(PROCESSED, None),
        Err(error) => {
            tracing::warn!(%error, "a session could not be opened");
            failed(None)
        }
    }
}

/// `sendmessage`: registers the fan. On an error nothing is stored, and the fan is told why.
pub async fn sendmessage(
    sessions: &dyn Sessions,
    connection: &ConnectionId,
    request_id: &str,
    body: &str,
    identity: Option<&Identity>,
) -> Outcome {
    let registering = match registration::parse(body, identity) {
        Ok(registering) => registering,
        Err(refused) => {
            let status = if refused.code == "forbidden" {
                403
            } else {
                400
            };
            return Outcome {
                status,
                ..refuse(connection, request_id, &refused)
            };
        }
    };
    match register(sessions, connection, &registering.registration).await {
        Ok(()) => {
            // A fan of protocol 2 is answered with a component set.
            let first = registering.registration.protocol == Protocol::V1;
            Outcome {
                registered: Some(registering),
                ..done(PROCESSED, first.then(|| messages::REGISTERED.into()))
            }
        }
        Err((status, refused)) => Outcome {
            status,
            ..refuse(connection, request_id, &refused)
        },
    }
}

/// `refresh`: the connection is good for as long as this token is, which must be of the same consumer.
/// What is refused changes nothing.
pub async fn refresh(
    sessions: &dyn Sessions,
    verifier: &Verifier,
    connection: &ConnectionId,
    body: &str,
) -> Outcome {
    let refuse = |status, code, message: &str| {
        let text = messages::error(code, message);
        Outcome {
            status,
            body: text.to_string(),
            post: Some(text),
            ..done("", None)
        }
    };
    let message: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let Some(token) = message.get("token").and_then(serde_json::Value::as_str) else {
        return refuse(400, "invalid", "token is missing; text is needed");
    };
    let identity = match verifier.verify(token).await {
        Ok(identity) => identity,
        Err(refused @ TokenRefused::Unavailable) => {
            return refuse(500, "unavailable", &refused.to_string());
        }
        Err(refused) => return refuse(401, "unauthenticated", &refused.to_string()),
    };
    let Ok(holder) = holder(&identity) else {
        return refuse(403, "forbidden", "the token names no consumer");
    };
    match sessions.renew(connection, &holder).await {
        Ok(()) => Outcome {
            renewed: Some(identity),
            ..done(PROCESSED, Some(messages::refreshed(holder.expires_at)))
        },
        Err(Error::Conflict(_)) => {
            let message = "the session is closed, or was opened with another consumer's token";
            refuse(403, "forbidden", message)
        }
        Err(error) => {
            tracing::warn!(%error, "a session could not be renewed");
            refuse(
                500,
                "unavailable",
                "the session could not be renewed; send it again",
            )
        }
    }
}

/// The identity is no consumer's.
struct NoConsumer;

fn holder(identity: &Identity) -> Result<TokenHolder, NoConsumer> {
    let consumer_id = identity.consumer_id.as_deref().ok_or(NoConsumer)?;
    Ok(TokenHolder {
        consumer_id: ConsumerId::new(consumer_id).map_err(|_| NoConsumer)?,
        expires_at: identity.expires_at,
    })
}

/// `$default`: tells the fan which key to use.
pub fn default() -> Outcome {
    done(DEFAULT, Some(messages::DEFAULT_ROUTE.into()))
}

/// A message that names a route which is not for messages changes nothing.
pub fn nothing() -> Outcome {
    done(DEFAULT, None)
}

/// `$disconnect`: ends the session; an unknown id is fine.
pub async fn disconnect(sessions: &dyn Sessions, connection: &ConnectionId) -> Outcome {
    match sessions.close(connection).await {
        Ok(()) => done(DISCONNECTED, None),
        Err(error) => {
            tracing::debug!(%error, "a session could not be closed");
            failed(None)
        }
    }
}

async fn register(
    sessions: &dyn Sessions,
    connection: &ConnectionId,
    registration: &Registration,
) -> Result<(), (u16, Refused)> {
    let Err(error) = sessions.register(connection, registration).await else {
        return Ok(());
    };
    let (status, code, message) = match &error {
        Error::Conflict(_) => (410, "gone", "this session is closed; connect again"),
        Error::Invalid { .. } => (400, "invalid", "the registration cannot be stored"),
        Error::Throttled(_) | Error::Unavailable(_) | Error::Misconfigured { .. } => {
            tracing::warn!(%error, "a registration could not be stored");
            (
                500,
                "unavailable",
                "the registration could not be stored; send it again",
            )
        }
    };
    let refused = Refused {
        protocol: registration.protocol,
        code,
        message: message.to_owned(),
    };
    Err((status, refused))
}

fn refuse(connection: &ConnectionId, request_id: &str, refused: &Refused) -> Outcome {
    let text = match refused.protocol {
        Protocol::V1 => {
            messages::api_gateway_error(&refused.message, connection.as_str(), request_id)
        }
        Protocol::V2 => messages::error(refused.code, &refused.message),
    };
    Outcome {
        status: 400,
        body: text.to_string(),
        post: Some(text),
        registered: None,
        renewed: None,
    }
}

fn done(body: &str, post: Option<Utf8Bytes>) -> Outcome {
    Outcome {
        status: 200,
        body: body.to_owned(),
        post,
        registered: None,
        renewed: None,
    }
}

fn failed(post: Option<Utf8Bytes>) -> Outcome {
    Outcome {
        status: 500,
        body: "\"the session table is not available\"".to_owned(),
        post,
        registered: None,
        renewed: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_action_of_a_json_object_selects_a_route() {
        let select = |body: &str| super::select(body, false);
        assert_eq!(select(r#"{"action":"sendmessage"}"#), Route::SendMessage);
        let refresh = r#"{"action":"refresh","token":"a.b.c"}"#;
        assert_eq!(select(refresh), Route::Default);
        assert_eq!(super::select(refresh, true), Route::Refresh);
        assert_eq!(
            select(r#"{"action":"sendmess\u0061ge"}"#),
            Route::SendMessage
        );
        for body in [
            "",
            "hello",
            "null",
            "7",
            "[]",
            r#"["sendmessage"]"#,
            "{}",
            r#"{"action":null}"#,
            r#"{"action":7}"#,
            r#"{"action":"$connect"}"#,
            r#"{"action":"SendMessage"}"#,
        ] {
            assert_eq!(select(body), Route::Default, "{body}");
        }
        let deep = format!(
            r#"{{"action":"sendmessage","x":{}1{}}}"#,
            "[".repeat(9_999),
            "]".repeat(9_999)
        );
        assert_eq!(select(&deep), Route::Default);
    }

    #[test]
    fn the_default_route_answers_the_prototypes_text_quotes_included() {
        let outcome = default();
        assert_eq!(outcome.status, 200);
        assert_eq!(outcome.body, "\"successfully handled default route\"");
        assert_eq!(
            outcome.post.unwrap().as_str(),
            "\"this is default route. please use right action key\""
        );
    }
}
