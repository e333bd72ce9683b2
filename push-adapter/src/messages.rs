//! What fans are sent, byte for byte. Pure, and encoded once for all fans who are shown the same:
//! only the recommendation id differs from fan to fan.

use std::sync::OnceLock;

use serde::{Serialize, ser::SerializeMap};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use touchline_proto::v1::{Component, ComponentSet, Freshness, Origin};
use touchline_store::{event::Version, ids::EventId, position::Position, session::Protocol};

/// What a fan is told when a message has no known action (the prototype's text, which is JSON).
pub const DEFAULT_ROUTE: &str = "\"this is default route. please use right action key\"";

/// What a fan is told when a registration is through (the prototype's text).
pub const REGISTERED: &str = "{\"status\": \"success\"}";

/// What a fan is told when a token was taken in place of the one before, and until when it is good.
pub fn refreshed(expires_at: Option<std::time::SystemTime>) -> Utf8Bytes {
    let since = expires_at.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let expires_at = since.map(|since| since.as_secs());
    serde_json::json!({"type": "refreshed", "expires_at": expires_at})
        .to_string()
        .into()
}

/// One component set in one event state, ready for any fan of either protocol.
#[derive(Debug)]
pub struct EncodedSet {
    set_id: String,
    components: Vec<Component>,
    first: OnceLock<Utf8Bytes>,
    /// Protocol 2, up to and from the recommendation id.
    head: String,
    tail: String,
    anonymous: OnceLock<Utf8Bytes>,
}

impl EncodedSet {
    /// Prepares the set for the state that it was asked for.
    pub fn new(
        set: ComponentSet,
        event_id: &EventId,
        version: &Version,
        position: Option<&Position>,
    ) -> Self {
        let head = json(&Head {
            kind: "components",
            event_id: event_id.as_str(),
            version: version.as_str(),
            set_id: &set.set_id,
            epoch: position.map(Position::epoch),
            sequence: position.map(Position::sequence),
            origin: origin(set.origin()),
            freshness: freshness(set.freshness()),
        });
        // The object stays open: the recommendation id and the components follow.
        let head = format!("{},\"recommendation_id\":", &head[..head.len() - 1]);
        let components: Vec<_> = set.components.iter().map(ComponentText::from).collect();
        let tail = format!(",\"components\":{}}}", json(&components));
        Self {
            set_id: set.set_id,
            components: set.components,
            first: OnceLock::new(),
            head,
            tail,
            anonymous: OnceLock::new(),
        }
    }

    /// Hash of what the set shows.
    pub fn set_id(&self) -> &str {
        &self.set_id
    }

    /// The message for a fan of this protocol.
    pub fn message(&self, protocol: Protocol, recommendation_id: &str) -> Utf8Bytes {
        match protocol {
            Protocol::V1 => self.first.get_or_init(|| first(&self.components)).clone(),
            Protocol::V2 if recommendation_id.is_empty() => {
                self.anonymous.get_or_init(|| self.envelope("")).clone()
            }
            Protocol::V2 => self.envelope(recommendation_id),
        }
    }

    fn envelope(&self, recommendation_id: &str) -> Utf8Bytes {
        let id = json(recommendation_id);
        let mut text = String::with_capacity(self.head.len() + id.len() + self.tail.len());
        text.push_str(&self.head);
        text.push_str(&id);
        text.push_str(&self.tail);
        text.into()
    }
}

/// Tells a fan of protocol 2 that an event's row was deleted.
pub fn ended(event_id: &EventId, position: Option<&Position>) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Ended<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        event_id: &'a str,
        epoch: Option<&'a str>,
        sequence: Option<&'a str>,
    }
    json(&Ended {
        kind: "ended",
        event_id: event_id.as_str(),
        epoch: position.map(Position::epoch),
        sequence: position.map(Position::sequence),
    })
    .into()
}

/// Tells a fan of protocol 2 what went wrong.
pub fn error(code: &str, message: &str) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Error<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        code: &'a str,
        message: &'a str,
    }
    json(&Error {
        kind: "error",
        code,
        message,
    })
    .into()
}

/// Tells a fan what went wrong in the shape of API Gateway's own error.
pub fn api_gateway_error(message: &str, connection_id: &str, request_id: &str) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Error<'a> {
        message: &'a str,
        connection_id: &'a str,
        request_id: &'a str,
    }
    json(&Error {
        message,
        connection_id,
        request_id,
    })
    .into()
}

#[derive(Serialize)]
struct Head<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    event_id: &'a str,
    version: &'a str,
    set_id: &'a str,
    epoch: Option<&'a str>,
    sequence: Option<&'a str>,
    origin: &'static str,
    freshness: &'static str,
}

#[derive(Serialize)]
struct ComponentText<'a> {
    item_type: &'a str,
    item_id: &'a str,
    rank: u32,
    score: f64,
    attributes: &'a std::collections::BTreeMap<String, String>,
}

impl<'a> From<&'a Component> for ComponentText<'a> {
    fn from(component: &'a Component) -> Self {
        Self {
            item_type: &component.item_type,
            item_id: &component.item_id,
            rank: component.rank,
            // JSON has no word for what is no number.
            score: if component.score.is_finite() {
                component.score
            } else {
                0.0
            },
            attributes: &component.attributes,
        }
    }
}

/// The prototype's message: the first item of each type, in the ranking's order.
fn first(components: &[Component]) -> Utf8Bytes {
    struct First<'a>(&'a [Component]);
    impl Serialize for First<'_> {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            for (index, component) in self.0.iter().enumerate() {
                // A set has a handful of types, so looking back is cheaper than hashing.
                let seen = |other: &Component| other.item_type == component.item_type;
                if !self.0[..index].iter().any(seen) {
                    map.serialize_entry(&component.item_type, &component.item_id)?;
                }
            }
            map.end()
        }
    }
    json(&First(components)).into()
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Unspecified => "unspecified",
        Origin::Personalize => "personalize",
        Origin::Cohort => "cohort",
        Origin::Embedded => "embedded",
        Origin::Popular => "popular",
    }
}

fn freshness(freshness: Freshness) -> &'static str {
    match freshness {
        Freshness::Unspecified => "unspecified",
        Freshness::Live => "live",
        Freshness::Cached => "cached",
        Freshness::Stale => "stale",
    }
}

fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("text, numbers and maps with text keys are always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(item_type: &str, item_id: &str, rank: u32) -> Component {
        Component {
            item_type: item_type.to_owned(),
            item_id: item_id.to_owned(),
            rank,
            score: 0.5,
            attributes: [("item_label".to_owned(), "L\"1".to_owned())].into(),
            ..Component::default()
        }
    }

    fn set(position: Option<&Position>) -> EncodedSet {
        let set = ComponentSet {
            set_id: "5e7".to_owned(),
            components: vec![
                component("PLAYER", "ITEM_ID_18", 1),
                component("GENERAL", "ITEM_ID_9", 2),
                component("PLAYER", "ITEM_ID_1", 3),
            ],
            origin: Origin::Embedded.into(),
            freshness: Freshness::Live.into(),
            ..ComponentSet::default()
        };
        let event_id = EventId::new("1").unwrap();
        EncodedSet::new(set, &event_id, &Version::from_text("abc"), position)
    }

    #[test]
    fn protocol_1_is_the_prototypes_object_with_its_keys_in_order_of_first_occurrence() {
        let message = set(None).message(Protocol::V1, "ignored");
        assert_eq!(
            message.as_str(),
            r#"{"PLAYER":"ITEM_ID_18","GENERAL":"ITEM_ID_9"}"#
        );
    }

    #[test]
    fn an_empty_ranking_posts_an_empty_object() {
        assert_eq!(first(&[]).as_str(), "{}");
    }

    #[test]
    fn protocol_2_carries_the_position_and_every_component() {
        let position = Position::new("epoch", "7");
        let message = set(Some(&position)).message(Protocol::V2, "rec\"1");
        insta::assert_snapshot!(message.as_str(), @r#"{"type":"components","event_id":"1","version":"abc","set_id":"5e7","epoch":"epoch","sequence":"0000000000000000000000000000000000000007","origin":"embedded","freshness":"live","recommendation_id":"rec\"1","components":[{"item_type":"PLAYER","item_id":"ITEM_ID_18","rank":1,"score":0.5,"attributes":{"item_label":"L\"1"}},{"item_type":"GENERAL","item_id":"ITEM_ID_9","rank":2,"score":0.5,"attributes":{"item_label":"L\"1"}},{"item_type":"PLAYER","item_id":"ITEM_ID_1","rank":3,"score":0.5,"attributes":{"item_label":"L\"1"}}]}"#);
    }

    #[test]
    fn a_message_without_position_says_so() {
        let message = set(None).message(Protocol::V2, "");
        let message: serde_json::Value = serde_json::from_str(&message).unwrap();
        assert!(message["epoch"].is_null() && message["sequence"].is_null());
        assert_eq!(message["recommendation_id"], "");
    }

    #[test]
    fn fans_who_are_shown_the_same_share_one_text() {
        let set = set(None);
        for protocol in [Protocol::V1, Protocol::V2] {
            let (one, other) = (set.message(protocol, ""), set.message(protocol, ""));
            assert_eq!(one.as_str().as_ptr(), other.as_str().as_ptr());
        }
    }

    #[test]
    fn errors_are_typed_for_protocol_2_and_api_gateways_own_for_protocol_1() {
        assert_eq!(
            error("invalid", "no").as_str(),
            r#"{"type":"error","code":"invalid","message":"no"}"#
        );
        assert_eq!(
            api_gateway_error("no", "c", "r").as_str(),
            r#"{"message":"no","connectionId":"c","requestId":"r"}"#
        );
        assert_eq!(
            ended(&EventId::new("1").unwrap(), Some(&Position::new("e", "7"))).as_str(),
            r#"{"type":"ended","event_id":"1","epoch":"e","sequence":"0000000000000000000000000000000000000007"}"#
        );
    }
}
