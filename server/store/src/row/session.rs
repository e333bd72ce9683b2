//! Rows of the session table, the prototype's left-overs among them. Reads nothing but what a
//! fan-out needs: this is the path that each fan's row takes at each change.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::types::AttributeValue;

use super::{
    CONSUMER_ID, CONTENT_ID, ENDPOINT, EXPIRES_AT, PROTOCOL, Row, SESSION_ID, TOKEN_EXPIRES_AT,
    as_text,
};
use crate::{
    ids::{ConnectionId, ConsumerId, ContentId},
    session::{ExpiredSession, Protocol, Session},
};

/// Shards of one content in the audience index. A row keeps its own; readers read all.
pub(crate) const AUDIENCE_SHARDS: u32 = 8;

/// How long a row outlives `$connect` at most: API Gateway's limit on a connection (developer
/// guide, "WebSocket API quotas": 2 hours), and ten minutes for clocks that differ.
pub(crate) const SESSION_LIFETIME: Duration = Duration::from_secs(2 * 60 * 60 + 10 * 60);

/// What a fan-out needs of a row.
pub(crate) const PROJECTION: [&str; 7] = [
    SESSION_ID,
    CONSUMER_ID,
    CONTENT_ID,
    PROTOCOL,
    ENDPOINT,
    EXPIRES_AT,
    TOKEN_EXPIRES_AT,
];

/// Reads a row as part of an audience; `None` when it is none: not registered, expired, or not to
/// be understood. A numeric id, which the prototype stored as it came, is read as its text; ids of
/// any other type, and over-long ones, are no ids.
pub(crate) fn from_row(row: &Row, now: SystemTime) -> Option<Session> {
    // A row whose token has expired is no audience either: nothing reaches who may no longer see it.
    if has_passed(row, EXPIRES_AT, now) || has_passed(row, TOKEN_EXPIRES_AT, now) {
        return None;
    }
    let AttributeValue::S(connection_id) = row.get(SESSION_ID)? else {
        return None;
    };
    let consumer_id = ConsumerId::new(as_text(row.get(CONSUMER_ID)?)?).ok()?;
    let content_id = ContentId::new(as_text(row.get(CONTENT_ID)?)?).ok()?;
    Some(Session {
        connection_id: ConnectionId::new(connection_id).ok()?,
        consumer_id,
        content_id: Some(content_id),
        protocol: match row.get(PROTOCOL).and_then(as_text) {
            Some("2") => Protocol::V2,
            _ => Protocol::V1,
        },
        endpoint: match row.get(ENDPOINT) {
            Some(AttributeValue::S(endpoint)) if !endpoint.is_empty() => Some(endpoint.clone()),
            _ => None,
        },
    })
}

/// Reads a row only as far as it takes to close its connection.
pub(crate) fn expired(row: &Row) -> Option<ExpiredSession> {
    Some(ExpiredSession {
        connection_id: ConnectionId::new(as_text(row.get(SESSION_ID)?)?).ok()?,
        endpoint: match row.get(ENDPOINT) {
            Some(AttributeValue::S(endpoint)) if !endpoint.is_empty() => Some(endpoint.clone()),
            _ => None,
        },
    })
}

/// TTL deletes late (within days, says the developer guide), so readers look themselves.
fn has_passed(row: &Row, name: &str, now: SystemTime) -> bool {
    let Some(AttributeValue::N(expires_at)) = row.get(name) else {
        return false;
    };
    let now_seconds = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    expires_at
        .parse::<f64>()
        .is_ok_and(|expires_at| expires_at <= now_seconds)
}

/// The audience key of one shard of a content.
pub(crate) fn shard_key(content: &str, shard: u32) -> String {
    format!("{content}#{shard:02}")
}

/// The audience key of a session: its shard follows from its connection alone, so it stays.
pub(crate) fn audience_key(content: &str, connection: &str) -> String {
    shard_key(content, fnv1a(connection) % AUDIENCE_SHARDS)
}

/// A stable hash: the key is stored, so it must be the same in every build.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::row::{number, text};

    const NOW_SECONDS: u64 = 1_671_379_200;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW_SECONDS)
    }

    fn registered() -> Row {
        Row::from([
            (SESSION_ID.to_owned(), text("connection")),
            (CONSUMER_ID.to_owned(), text("ana")),
            (CONTENT_ID.to_owned(), text("final")),
        ])
    }

    fn with(name: &str, value: AttributeValue) -> Option<Session> {
        let mut row = registered();
        row.insert(name.to_owned(), value);
        from_row(&row, now())
    }

    fn without(name: &str) -> Option<Session> {
        let mut row = registered();
        row.remove(name);
        from_row(&row, now())
    }

    fn session() -> Session {
        Session {
            connection_id: ConnectionId::new("connection").unwrap(),
            consumer_id: ConsumerId::new("ana").unwrap(),
            content_id: Some(ContentId::new("final").unwrap()),
            protocol: Protocol::V1,
            endpoint: None,
        }
    }

    #[test]
    fn seed_row_17_rows_left_behind_are_read_as_text_or_skipped() {
        // A row of the prototype, which has no attribute of Touchline and need not name a device.
        assert_eq!(from_row(&registered(), now()), Some(session()));
        let read = with(CONSUMER_ID, number(&42)).unwrap();
        assert_eq!(read.consumer_id.as_str(), "42");
        let read = with(CONTENT_ID, number(&7)).unwrap();
        assert_eq!(read.content_id.unwrap().as_str(), "7");
        for name in [CONSUMER_ID, CONTENT_ID] {
            let object = AttributeValue::M([("id".to_owned(), text("ana"))].into());
            for odd in [
                AttributeValue::Null(true),
                object,
                text(""),
                AttributeValue::Bool(true),
                text("x".repeat(100_000)),
            ] {
                assert_eq!(with(name, odd.clone()), None, "{name} {odd:?}");
            }
            assert_eq!(without(name), None, "{name}");
        }
    }

    #[test]
    fn the_protocol_is_1_unless_the_row_says_2() {
        for (value, expected) in [
            (number(&2), Protocol::V2),
            (text("2"), Protocol::V2),
            (number(&1), Protocol::V1),
            (number(&3), Protocol::V1),
            (AttributeValue::Null(true), Protocol::V1),
        ] {
            assert_eq!(with(PROTOCOL, value).unwrap().protocol, expected);
        }
    }

    #[test]
    fn seed_row_11_an_expired_row_is_no_audience_though_it_is_still_there() {
        assert_eq!(with(EXPIRES_AT, number(&NOW_SECONDS)), None);
        assert_eq!(with(EXPIRES_AT, number(&1)), None);
        assert!(with(EXPIRES_AT, number(&(NOW_SECONDS + 1))).is_some());
        // An expiry that cannot be understood is none: DynamoDB's TTL ignores it as well.
        assert!(with(EXPIRES_AT, text("yesterday")).is_some());
    }

    #[test]
    fn the_endpoint_is_where_to_post() {
        let endpoint = with(ENDPOINT, text("http://127.0.0.1:8082")).unwrap();
        assert_eq!(endpoint.endpoint.as_deref(), Some("http://127.0.0.1:8082"));
        assert_eq!(with(ENDPOINT, text("")).unwrap().endpoint, None);
    }

    #[test]
    fn an_audience_key_is_the_same_in_every_build() {
        assert_eq!(audience_key("final", "connection"), "final#01");
        assert_eq!(audience_key("final", ""), "final#05");
    }

    proptest! {
        #[test]
        fn every_audience_key_is_one_that_readers_read(content in ".{1,9}", connection in ".{1,9}") {
            let key = audience_key(&content, &connection);
            let read: Vec<_> =
                (0..AUDIENCE_SHARDS).map(|shard| shard_key(&content, shard)).collect();
            prop_assert!(read.contains(&key));
        }
    }
}
