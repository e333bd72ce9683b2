//! A connection's row as its readers see it. Does not know how it is found: that is `sessions`.

use std::time::SystemTime;

use crate::ids::{ConnectionId, ConsumerId, ContentId, DeviceId};

/// Which messages a fan is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// The prototype's: `{"<item_type>": "<item_id>", …}`.
    #[default]
    V1,
    /// The envelope with version, position, origin and components.
    V2,
}

/// What a fan says of itself in `sendmessage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The person.
    pub consumer_id: ConsumerId,
    /// The device.
    pub device_id: DeviceId,
    /// What is watched.
    pub content_id: ContentId,
    /// The messages that the fan understands.
    pub protocol: Protocol,
}

/// Whose token a connection was opened with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenHolder {
    /// The person.
    pub consumer_id: ConsumerId,
    /// From when on the token is none; `None` where it does not say.
    pub expires_at: Option<SystemTime>,
}

/// A connection whose token has expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredSession {
    /// The connection, and the row's key.
    pub connection_id: ConnectionId,
    /// Where it is closed.
    pub endpoint: Option<String>,
}

/// A session that has registered: part of an audience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The connection, and the row's key.
    pub connection_id: ConnectionId,
    /// The person.
    pub consumer_id: ConsumerId,
    /// What is watched; `None` where the prototype left a row without it readable.
    pub content_id: Option<ContentId>,
    /// The messages that the fan understands.
    pub protocol: Protocol,
    /// Where messages for this connection are posted: the management endpoint of the front that
    /// holds it, such as `https://{api}.execute-api.{region}.amazonaws.com/dev`. `None` on rows that
    /// the prototype wrote.
    pub endpoint: Option<String>,
}
