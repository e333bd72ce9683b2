//! Why the front closes a connection, as the fan is told (docs/websocket.md has the table).

use std::time::Duration;

use tokio_tungstenite::tungstenite::{Error, Utf8Bytes, error::ProtocolError};

/// What a connection is closed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// WebSocket close code (RFC 6455, 7.4.1).
    pub code: u16,
    /// For a person to read; where the fan shall come back later, JSON with `retry_after_ms`.
    pub reason: Utf8Bytes,
}

impl Closing {
    /// Messages are text.
    pub const BINARY: Self = Self::new(1003, "binary messages are not supported");

    /// What a fan is told who breaks the protocol or a limit of it; `None` where nobody can be told.
    pub fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Capacity(_) => Some(Self::new(1009, "the message is too large")),
            Error::Utf8(_) => Some(Self::new(1007, "the message is not UTF-8")),
            // The fan left without a word.
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
            Error::Protocol(_) => Some(Self::new(1002, "the message breaks the protocol")),
            _ => None,
        }
    }

    /// A code, and a reason of at most 123 bytes.
    pub const fn new(code: u16, reason: &'static str) -> Self {
        Self {
            code,
            reason: Utf8Bytes::from_static(reason),
        }
    }

    /// The connection has had its time: the fan may come back at once.
    pub const fn going_away(reason: &'static str) -> Self {
        Self::new(1001, reason)
    }

    /// The front goes away: the fan shall come back, to another one, after this long.
    pub fn restarting(retry_after: Duration) -> Self {
        Self::later(1012, "the server restarts", retry_after)
    }

    /// The front cannot serve the fan at the moment.
    pub fn unavailable(retry_after: Duration) -> Self {
        Self::later(1013, "try again later", retry_after)
    }

    /// The fan's token has expired (a code of the application's range: 4401 as in HTTP's 401).
    pub const fn expired() -> Self {
        Self::new(4401, "the token has expired")
    }

    /// The fan breaks a rule of the house: coming back does not help.
    pub const fn policy(reason: &'static str) -> Self {
        Self::new(1008, reason)
    }

    fn later(code: u16, reason: &str, retry_after: Duration) -> Self {
        let retry_after_ms = retry_after.as_millis();
        let reason = format!(r#"{{"retry_after_ms":{retry_after_ms},"reason":"{reason}"}}"#);
        Self {
            code,
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fan_who_shall_come_back_is_told_when() {
        let closing = Closing::restarting(Duration::from_millis(850));
        assert_eq!(closing.code, 1012);
        let reason = r#"{"retry_after_ms":850,"reason":"the server restarts"}"#;
        assert_eq!(closing.reason.as_str(), reason);
    }

    #[test]
    fn no_reason_is_longer_than_a_close_frame() {
        for closing in [
            Closing::restarting(Duration::MAX),
            Closing::unavailable(Duration::MAX),
            Closing::expired(),
        ] {
            assert!(closing.reason.len() <= 123, "{closing:?}");
        }
    }
}
