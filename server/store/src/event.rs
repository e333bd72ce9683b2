//! One live event and its state: context, version and routing. Does not know how the row that
//! holds it is written.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::ids::{ContentId, EventId};

/// Attributes whose name starts so are carried along and decide nothing.
pub const DISPLAY_PREFIX: &str = "display_";

/// The context keys of the prototype, in its order. Data, not an enum: `--context-keys` replaces
/// them.
pub const DEFAULT_CONTEXT_KEYS: [&str; 5] = [
    "MATCH_EVENT",
    "MATCH_TIMING",
    "SCORE_DIFFERENCE",
    "MATCH_TYPE",
    "MATCH_VENUE",
];

/// One attribute of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// Text, a number's text or a boolean's: what can be part of a context. The prototype passes
    /// the text of whatever the attribute holds.
    Text(String),
    /// Anything else (binary, list, map, null), as canonical JSON: part of the version, never of
    /// a context.
    Other(String),
}

impl Attribute {
    /// The attribute as text, whatever it is.
    pub fn as_text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Other(text) => text,
        }
    }
}

/// One event's attributes at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventState {
    /// The event.
    pub event_id: EventId,
    /// Everything that the row holds beside its key and `content_id`.
    pub attributes: BTreeMap<String, Attribute>,
    /// The contents that the event reaches; empty: every session.
    pub contents: BTreeSet<ContentId>,
}

/// Equal versions: nothing changed that decides anything. 16 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(String);

impl Version {
    /// Takes a version that was computed elsewhere.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the recommender is asked with, apart from the consumer: value by upper-case key.
pub type Context = BTreeMap<String, String>;

impl EventState {
    /// The hash of all that decides: every attribute that is not a display attribute, and the
    /// contents.
    pub fn version(&self) -> Version {
        let mut hash = Sha256::new();
        let mut part = |tag: u8, text: &str| {
            hash.update([tag]);
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        part(b'e', self.event_id.as_str());
        for (name, attribute) in &self.attributes {
            if !name.starts_with(DISPLAY_PREFIX) {
                part(b'n', name);
                match attribute {
                    Attribute::Text(text) => part(b't', text),
                    Attribute::Other(json) => part(b'o', json),
                }
            }
        }
        for content in &self.contents {
            part(b'c', content.as_str());
        }
        Version(hex::encode(&hash.finalize()[..8]))
    }

    /// The context under the given upper-case keys. An attribute that is missing or has no text is
    /// left out (the prototype fails on it); callers count `keys.len() - context.len()`.
    pub fn context(&self, keys: &[String]) -> Context {
        keys.iter()
            .filter_map(|key| {
                let name = key.to_lowercase();
                match self.attributes.get(&name) {
                    Some(Attribute::Text(text)) if !text.is_empty() => {
                        Some((key.clone(), text.clone()))
                    }
                    _ => None,
                }
            })
            .collect()
    }

    /// The attributes that have a text, by name: what a context can be made of, and what travels in
    /// messages. Others count in the version alone, so that a state decides the same wherever it is
    /// asked for.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes
            .iter()
            .filter_map(|(name, attribute)| match attribute {
                Attribute::Text(text) => Some((name.as_str(), text.as_str())),
                Attribute::Other(_) => None,
            })
    }

    /// Whether the event reaches sessions that watch `content`.
    pub fn reaches(&self, content: &ContentId) -> bool {
        self.contents.is_empty() || self.contents.contains(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(attributes: &[(&str, &str)]) -> EventState {
        EventState {
            event_id: EventId::new("1").unwrap(),
            attributes: attributes
                .iter()
                .map(|(name, text)| ((*name).to_owned(), Attribute::Text((*text).to_owned())))
                .collect(),
            contents: BTreeSet::new(),
        }
    }

    #[test]
    fn display_attributes_are_no_part_of_the_version() {
        let plain = state(&[("match_event", "GOAL")]);
        let clocked = state(&[("match_event", "GOAL"), ("display_clock", "23'")]);
        assert_eq!(plain.version(), clocked.version());
        assert_ne!(
            plain.version(),
            state(&[("match_event", "PENALTY")]).version()
        );
        assert_eq!(plain.version().as_str().len(), 16);
    }

    #[test]
    fn names_and_values_never_run_together_in_the_version() {
        assert_ne!(
            state(&[("ab", "c")]).version(),
            state(&[("a", "bc")]).version()
        );
    }

    #[test]
    fn a_missing_attribute_is_left_out_of_the_context() {
        let keys = DEFAULT_CONTEXT_KEYS.map(str::to_owned);
        let context = state(&[("match_event", "GOAL"), ("score_difference", "1")]).context(&keys);
        assert_eq!(
            context.into_iter().collect::<Vec<_>>(),
            [
                ("MATCH_EVENT".to_owned(), "GOAL".to_owned()),
                ("SCORE_DIFFERENCE".to_owned(), "1".to_owned())
            ]
        );
    }

    #[test]
    fn an_event_without_contents_reaches_everybody() {
        let content = ContentId::new("final").unwrap();
        let mut event = state(&[]);
        assert!(event.reaches(&content));
        event.contents.insert(ContentId::new("other").unwrap());
        assert!(!event.reaches(&content));
    }
}
