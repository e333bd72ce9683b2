//! Attribute names, and conversion between rows and the domain. Pure: no row is read or written
//! here, and nowhere else is an attribute's name spelled.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

pub(crate) mod event;
pub(crate) mod item;
pub(crate) mod json;
pub(crate) mod lease;
pub(crate) mod session;
pub(crate) mod stream;

/// One row, by attribute name.
pub(crate) type Row = HashMap<String, AttributeValue>;

/// Hash key of the event table, and of its stream's records.
pub(crate) const EVENT_ID: &str = "event_id";
/// What an event reaches, and what a session watches.
pub(crate) const CONTENT_ID: &str = "content_id";

/// Hash key of the item table.
pub(crate) const ITEM_ID: &str = "item_id";
/// The slot that an item fills.
pub(crate) const ITEM_TYPE: &str = "item_type";

/// Hash key of the session table: the connection's id.
pub(crate) const SESSION_ID: &str = "session_id";
/// The person on a session.
pub(crate) const CONSUMER_ID: &str = "consumer_id";
/// The device that a session runs on.
pub(crate) const DEVICE_ID: &str = "device_id";
/// When the session was opened: ISO-8601 text in UTC, for people; nothing reads it.
pub(crate) const CONNECTED_AT: &str = "connected_at";
/// When the row may go, in seconds since the epoch: the table's TTL attribute.
pub(crate) const EXPIRES_AT: &str = "expires_at";
/// The consumer that the connection's token names; absent where no token was asked for.
pub(crate) const TOKEN_CONSUMER_ID: &str = "token_consumer_id";
/// When that token expires, in seconds since the epoch.
pub(crate) const TOKEN_EXPIRES_AT: &str = "token_expires_at";
/// The management endpoint of the front that holds the connection.
pub(crate) const ENDPOINT: &str = "endpoint";
/// 2 where the fan asked for the envelope; absent otherwise.
pub(crate) const PROTOCOL: &str = "protocol";
/// `content_id#NN`: hash key of the audience index.
pub(crate) const AUDIENCE_KEY: &str = "audience_key";
/// When the session registered, in milliseconds since the epoch: range key of the audience index.
pub(crate) const REGISTERED_AT: &str = "registered_at";
/// Name of the sparse index on the session table.
pub(crate) const AUDIENCE_INDEX: &str = "audience";

/// Hash key of the lease table.
pub(crate) const LEASE_KEY: &str = "lease_key";

/// Why a row cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreadable(pub(crate) String);

impl From<crate::ids::InvalidId> for Unreadable {
    fn from(invalid: crate::ids::InvalidId) -> Self {
        Self(invalid.to_string())
    }
}

/// Text as an attribute.
pub(crate) fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// A number as an attribute.
pub(crate) fn number(number: &(impl std::fmt::Display + ?Sized)) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// Text, or a number as its text: the prototype stored what clients sent.
pub(crate) fn as_text(value: &AttributeValue) -> Option<&str> {
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => Some(text),
        _ => None,
    }
}

/// The text of an attribute that must be there.
pub(crate) fn required<'a>(row: &'a Row, name: &str) -> Result<&'a str, Unreadable> {
    match row.get(name) {
        Some(AttributeValue::S(text)) => Ok(text),
        Some(_) => Err(Unreadable(format!("{name} is no text"))),
        None => Err(Unreadable(format!("{name} is missing"))),
    }
}
