//! Bytes as the texts of a component set: fields that end at a byte which no text has. Every sequence of
//! bytes is a set, so nothing is thrown away.

use touchline_proto::v1::{Component, ComponentSet};

/// Ends a field: never part of UTF-8.
const END: u8 = 0xff;

/// Components of a set at most: a set has a handful.
const COMPONENTS_MAX: usize = 64;

/// What an envelope is made of.
#[derive(Debug)]
pub struct Fields {
    /// The event's id; no id where it is empty or too long.
    pub event_id: String,
    /// The event's version.
    pub version: String,
    /// Epoch and sequence, where there is a position.
    pub position: Option<(String, String)>,
    /// The recommendation.
    pub recommendation_id: String,
    /// What is shown.
    pub set: ComponentSet,
}

/// Reads the fields; those that are missing are empty.
pub fn read(bytes: &[u8]) -> Fields {
    let (first, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let mut texts = bytes
        .split(|byte| *byte == END)
        .map(|field| String::from_utf8_lossy(field).into_owned());
    let mut text = || texts.next().unwrap_or_default();
    let (event_id, version, set_id) = (text(), text(), text());
    let position = (first & 1 == 0).then(|| (text(), text()));
    let recommendation_id = text();
    let rest: Vec<String> = texts.take(COMPONENTS_MAX * 4).collect();
    let set = ComponentSet {
        set_id,
        components: rest.chunks(4).map(component).collect(),
        // Values that the contract does not know yet among them.
        origin: i32::from(first >> 1 & 0b111),
        freshness: i32::from(first >> 4 & 0b111),
        ..ComponentSet::default()
    };
    Fields {
        event_id,
        version,
        position,
        recommendation_id,
        set,
    }
}

/// Item type and id, `rank score`, and lines of `name=value`.
fn component(texts: &[String]) -> Component {
    let text = |index: usize| texts.get(index).map(String::as_str).unwrap_or_default();
    let (rank, score) = text(2).split_once(' ').unwrap_or_default();
    let attributes = text(3).split('\n').filter_map(|line| line.split_once('='));
    Component {
        item_type: text(0).to_owned(),
        item_id: text(1).to_owned(),
        rank: rank.parse().unwrap_or(u32::MAX),
        // Infinite and no number at all among them.
        score: score.parse().unwrap_or(f64::NAN),
        attributes: attributes
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        ..Component::default()
    }
}
