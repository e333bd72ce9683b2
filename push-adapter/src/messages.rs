//! What fans are sent, byte for byte. Pure, and encoded once for all fans who are shown the same:
//! only the recommendation id differs from fan to fan.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use prost::{DecodeError, Message as _};
use serde::Serialize;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use touchline_proto::{
    received::{self, ComponentSet, Place},
    v1::{Component, Freshness, Origin},
};
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

/// What all messages about one state have in common.
#[derive(Debug)]
pub struct StateText {
    /// Up to the set's id.
    head: String,
    /// From there to the origin.
    position: String,
}

impl StateText {
    /// Prepares it once.
    pub fn new(event_id: &EventId, version: &Version, position: Option<&Position>) -> Self {
        let (event_id, version) = (json(event_id.as_str()), json(version.as_str()));
        let (epoch, sequence) = (
            json(&position.map(Position::epoch)),
            json(&position.map(Position::sequence)),
        );
        Self {
            head: format!(
                r#"{{"type":"components","event_id":{event_id},"version":{version},"set_id":"#
            ),
            position: format!(r#","epoch":{epoch},"sequence":{sequence},"origin":""#),
        }
    }
}

/// One component set in one event state, ready for any fan of either protocol.
#[derive(Debug)]
pub struct EncodedSet {
    state: Arc<StateText>,
    set_id: String,
    origin: &'static str,
    freshness: &'static str,
    components: Vec<(Arc<Fragment>, Place)>,
    first: OnceLock<Utf8Bytes>,
    anonymous: OnceLock<Utf8Bytes>,
}

impl EncodedSet {
    /// Prepares the set for the state that it was asked for.
    ///
    /// # Errors
    /// A component is no message.
    pub fn new(
        set: ComponentSet,
        state: &Arc<StateText>,
        fragments: &Fragments,
    ) -> Result<Self, DecodeError> {
        let components = set.components.iter();
        Ok(Self {
            origin: origin(set.origin()),
            freshness: freshness(set.freshness()),
            components: components
                .map(|component| fragments.of(component))
                .collect::<Result<_, _>>()?,
            state: state.clone(),
            set_id: set.set_id,
            first: OnceLock::new(),
            anonymous: OnceLock::new(),
        })
    }

    /// Hash of what the set shows.
    pub fn set_id(&self) -> &str {
        &self.set_id
    }

    /// The message for a fan of this protocol.
    pub fn message(&self, protocol: Protocol, recommendation_id: &str) -> Utf8Bytes {
        match protocol {
            Protocol::V1 => self.first.get_or_init(|| self.first()).clone(),
            Protocol::V2 if recommendation_id.is_empty() => {
                self.anonymous.get_or_init(|| self.envelope("")).clone()
            }
            Protocol::V2 => self.envelope(recommendation_id),
        }
    }

    fn envelope(&self, recommendation_id: &str) -> Utf8Bytes {
        let state = &self.state;
        let components = self.components.iter();
        let fragments: usize = components
            .map(|(fragment, _)| fragment.head.len() + fragment.tail.len() + PLACE_BYTES)
            .sum();
        let texts = state.head.len() + state.position.len() + recommendation_id.len();
        let mut text = Vec::with_capacity(texts + fragments + ENVELOPE_BYTES);
        text.extend_from_slice(state.head.as_bytes());
        write(&mut text, &self.set_id);
        text.extend_from_slice(state.position.as_bytes());
        text.extend_from_slice(self.origin.as_bytes());
        text.extend_from_slice(b"\",\"freshness\":\"");
        text.extend_from_slice(self.freshness.as_bytes());
        text.extend_from_slice(b"\",\"recommendation_id\":");
        write(&mut text, recommendation_id);
        text.extend_from_slice(b",\"components\":[");
        for (index, (fragment, place)) in self.components.iter().enumerate() {
            if index > 0 {
                text.push(b',');
            }
            text.extend_from_slice(fragment.head.as_bytes());
            write(&mut text, &place.rank);
            text.extend_from_slice(b",\"score\":");
            // JSON has no word for what is no number.
            let score = Some(place.score).filter(|score| score.is_finite());
            write(&mut text, &score.unwrap_or(0.0));
            text.extend_from_slice(fragment.tail.as_bytes());
        }
        text.extend_from_slice(b"]}");
        Utf8Bytes::try_from(text).expect("it is made of texts")
    }

    /// The prototype's message: the first item of each type, in the ranking's order.
    fn first(&self) -> Utf8Bytes {
        let mut text = String::from("{");
        for (index, (fragment, _)) in self.components.iter().enumerate() {
            // A set has a handful of types, so looking back is cheaper than hashing.
            let before = &self.components[..index];
            if before
                .iter()
                .any(|(other, _)| other.item_type == fragment.item_type)
            {
                continue;
            }
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&fragment.entry);
        }
        text.push('}');
        text.into()
    }
}

/// Room for what an envelope has beside its texts: names, set id, quotes.
const ENVELOPE_BYTES: usize = 192;

/// Room for a component's rank and score.
const PLACE_BYTES: usize = 48;

/// Items whose texts are kept. A catalog has some dozens; what is pushed out is made again.
const FRAGMENTS_MAX: usize = 10_000;

/// What a component's text says of its item: the same for every fan who is shown it.
#[derive(Debug)]
struct Fragment {
    item_type: String,
    /// Protocol 1: type and id.
    entry: String,
    /// Protocol 2, up to the rank.
    head: String,
    /// Protocol 2, from the score on.
    tail: String,
}

/// The texts of the items that were shown lately, by what the server sends of them.
#[derive(Debug, Default)]
pub struct Fragments(RwLock<HashMap<Box<[u8]>, Arc<Fragment>>>);

impl Fragments {
    fn of(&self, component: &[u8]) -> Result<(Arc<Fragment>, Place), DecodeError> {
        let mut item = Vec::with_capacity(component.len());
        let place = received::split(component, &mut item)?;
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(fragment) = known.get(&item[..]) {
            return Ok((fragment.clone(), place));
        }
        drop(known);
        let fragment = Arc::new(Fragment::new(&Component::decode(&*item)?));
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= FRAGMENTS_MAX {
            known.clear();
        }
        known.insert(item.into(), fragment.clone());
        Ok((fragment, place))
    }
}

impl Fragment {
    fn new(item: &Component) -> Self {
        let (item_type, item_id) = (json(&item.item_type), json(&item.item_id));
        let attributes = json(&item.attributes);
        Self {
            entry: format!("{item_type}:{item_id}"),
            head: format!(r#"{{"item_type":{item_type},"item_id":{item_id},"rank":"#),
            tail: format!(r#","attributes":{attributes}}}"#),
            item_type: item.item_type.clone(),
        }
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

fn write<T: Serialize + ?Sized>(text: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(text, value).expect("texts and numbers are always JSON");
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

    fn of(components: &[Component], position: Option<&Position>) -> EncodedSet {
        let set = ComponentSet {
            set_id: "5e7".to_owned(),
            components: components
                .iter()
                .map(|component| component.encode_to_vec().into())
                .collect(),
            origin: Origin::Embedded.into(),
            freshness: Freshness::Live.into(),
        };
        let event_id = EventId::new("1").unwrap();
        let state = StateText::new(&event_id, &Version::from_text("abc"), position);
        EncodedSet::new(set, &Arc::new(state), &Fragments::default()).unwrap()
    }

    fn set(position: Option<&Position>) -> EncodedSet {
        let components = [
            component("PLAYER", "ITEM_ID_18", 1),
            component("GENERAL", "ITEM_ID_9", 2),
            component("PLAYER", "ITEM_ID_1", 3),
        ];
        of(&components, position)
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
        assert_eq!(of(&[], None).message(Protocol::V1, "").as_str(), "{}");
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
