//! What each consumer is shown in each state, as the server said it over gRPC: what fans hold their
//! messages against. Digests only, and of what is shown, not of how it is written. Pure.

use anyhow::{Context, Result};
use prost::Message;
use serde_json::Value;
use touchline_client::proto;

use super::{
    hash::Hash,
    script::{EVENT, STATES},
};

/// Scores are compared to so many parts of one: JSON's readers differ in a number's last digit.
const SCORE_PARTS: f64 = 1e6;

/// Everybody's sets.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Book {
    /// Version of each state, by its number.
    #[prost(string, repeated, tag = "1")]
    pub(super) versions: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    pub(super) consumers: Vec<Consumer>,
}

/// One consumer's sets.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Consumer {
    #[prost(string, tag = "1")]
    pub(super) consumer_id: String,
    /// Digest of the message of protocol 1 in each state, by its number.
    #[prost(fixed64, repeated, tag = "2")]
    pub(super) first: Vec<u64>,
    /// The same of protocol 2.
    #[prost(fixed64, repeated, tag = "3")]
    pub(super) second: Vec<u64>,
}

impl Consumer {
    /// One whose sets are still to be noted.
    pub(super) fn new(consumer_id: &str) -> Self {
        Self {
            consumer_id: consumer_id.to_owned(),
            first: vec![0; STATES],
            second: vec![0; STATES],
        }
    }

    /// Notes what they are shown in a state.
    pub(super) fn note(
        &mut self,
        state: usize,
        version: &str,
        id: &str,
        set: &proto::ComponentSet,
    ) {
        self.first[state] = first_of(set);
        self.second[state] = second_of(version, id, set);
    }
}

/// Digest of what protocol 1 shows of a set: the first item of each type, in their order.
fn first_of(set: &proto::ComponentSet) -> u64 {
    let mut types: Vec<&str> = Vec::new();
    let mut digest = Digest::default();
    for component in &set.components {
        if !types.contains(&&*component.item_type) {
            types.push(&component.item_type);
            digest.text(&component.item_type);
            digest.text(&component.item_id);
        }
    }
    digest.end()
}

/// The same of a message of protocol 1; `None` for what is no such message.
pub(super) fn first_in(message: &[u8]) -> Option<u64> {
    let message: serde_json::Map<String, Value> = serde_json::from_slice(message).ok()?;
    let mut digest = Digest::default();
    for (item_type, item_id) in &message {
        digest.text(item_type);
        digest.text(item_id.as_str()?);
    }
    Some(digest.end())
}

/// Digest of what protocol 2 says of a set in a state, but for position and freshness.
fn second_of(version: &str, recommendation_id: &str, set: &proto::ComponentSet) -> u64 {
    let mut digest = Digest::default();
    let origin = set.origin().as_str_name().trim_start_matches("ORIGIN_");
    let origin = origin.to_lowercase();
    for text in [EVENT, version, &set.set_id, recommendation_id, &origin] {
        digest.text(text);
    }
    for component in &set.components {
        digest.text(&component.item_type);
        digest.text(&component.item_id);
        digest.number(f64::from(component.rank));
        digest.number(component.score * SCORE_PARTS);
        let attributes = component.attributes.iter();
        digest.attributes(
            attributes
                .map(|(name, value)| (&**name, &**value))
                .collect(),
        );
    }
    digest.end()
}

/// The same of a message of protocol 2; an error names what is missing in it.
pub(super) fn second_in(message: &[u8]) -> Result<u64> {
    let message: Value = serde_json::from_slice(message)?;
    let mut digest = Digest::default();
    for name in [
        "event_id",
        "version",
        "set_id",
        "recommendation_id",
        "origin",
    ] {
        digest.text(text(&message, name)?);
    }
    let components = message["components"].as_array().context("no components")?;
    for component in components {
        digest.text(text(component, "item_type")?);
        digest.text(text(component, "item_id")?);
        digest.number(component["rank"].as_f64().context("no rank")?);
        digest.number(component["score"].as_f64().context("no score")? * SCORE_PARTS);
        let attributes = component["attributes"].as_object();
        let attributes = attributes.context("no attributes")?.iter();
        let attributes = attributes.map(|(name, value)| Some((&**name, value.as_str()?)));
        let attributes: Option<Vec<_>> = attributes.collect();
        digest.attributes(attributes.context("an attribute is no text")?);
    }
    Ok(digest.end())
}

/// The id of the set in a message of protocol 2.
pub(super) fn set_id_in(message: &[u8]) -> Result<u64> {
    let message: Value = serde_json::from_slice(message)?;
    Ok(u64::from_str_radix(text(&message, "set_id")?, 16)?)
}

fn text<'a>(message: &'a Value, name: &str) -> Result<&'a str> {
    message[name].as_str().with_context(|| format!("no {name}"))
}

/// A hash of texts and numbers, one after the other.
#[derive(Default)]
struct Digest(Hash);

impl Digest {
    fn text(&mut self, text: &str) {
        self.0.add(text.as_bytes());
    }

    fn number(&mut self, number: f64) {
        self.0.add(&number.round().to_le_bytes());
    }

    /// However they are ordered.
    fn attributes(&mut self, mut attributes: Vec<(&str, &str)>) {
        attributes.sort_unstable();
        self.number(attributes.len() as f64);
        for (name, value) in attributes {
            self.text(name);
            self.text(value);
        }
    }

    /// Never 0, which stands for no digest.
    fn end(self) -> u64 {
        self.0.0.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> proto::ComponentSet {
        let component = |item_type: &str, item_id: &str, rank| proto::Component {
            item_type: item_type.to_owned(),
            item_id: item_id.to_owned(),
            rank,
            score: 0.023_456_789_012_345_67,
            attributes: [("b", "2"), ("a", "1")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..proto::Component::default()
        };
        let mut set = proto::ComponentSet {
            set_id: "a0".to_owned(),
            components: vec![component("PLAYER", "P-1", 1), component("POLL", "Q-1", 3)],
            ..proto::ComponentSet::default()
        };
        set.set_origin(proto::Origin::Personalize);
        set
    }

    const SECOND: &str = r#"{"type":"components","event_id":"1","version":"v","set_id":"a0",
        "epoch":null,"sequence":null,"origin":"personalize","freshness":"live",
        "recommendation_id":"r","components":[
            {"item_type":"PLAYER","item_id":"P-1","rank":1,"score":0.02345678901234567,
                "attributes":{"a":"1","b":"2"}},
            {"item_type":"POLL","item_id":"Q-1","rank":3,"score":0.02345678901234567,
                "attributes":{"b":"2","a":"1"}}]}"#;

    #[test]
    fn a_message_has_the_digest_of_the_set_that_it_shows() {
        let digest = second_of("v", "r", &set());
        assert_eq!(second_in(SECOND.as_bytes()).unwrap(), digest);
        let first = br#"{"PLAYER": "P-1", "POLL": "Q-1"}"#;
        assert_eq!(first_in(first), Some(first_of(&set())));
        assert_eq!(first_in(br#"{"PLAYER": 1}"#), None);
    }

    #[test]
    fn protocol_1_shows_the_first_of_each_type_in_order() {
        let mut more = set();
        more.components.push(proto::Component {
            item_id: "P-2".to_owned(),
            ..more.components[0].clone()
        });
        assert_eq!(first_of(&more), first_of(&set()));
        more.components.swap(0, 1);
        assert_ne!(first_of(&more), first_of(&set()));
    }

    #[test]
    fn whatever_is_shown_makes_another_digest() {
        let digest = second_of("v", "r", &set());
        for (from, to) in [
            ("P-1", "P-2"),
            ("\"v\"", "\"w\""),
            ("\"r\"", "\"s\""),
            ("rank\":3", "rank\":2"),
            ("0.023456", "0.024456"),
            ("{\"a\":\"1\"", "{\"a\":\"3\""),
            ("personalize", "cohort"),
        ] {
            let other = SECOND.replacen(from, to, 1);
            assert_ne!(second_in(other.as_bytes()).unwrap(), digest, "{from}");
        }
        assert!(second_in(b"{}").is_err());
    }
}
