//! What a message says of itself, found without parsing it: which state it answers and where that
//! stands, and a hash of all that is the same whenever the same set is shown in the same state. Pure.

use std::ops::Range;

use memchr::memmem::Finder;

use crate::gateway::hash::Hash;

/// What is looked at of a message of protocol 2.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Envelope<'a> {
    /// The state's version.
    pub(super) version: &'a [u8],
    /// Where the state stands; `None` for one that stands nowhere.
    pub(super) position: Option<(&'a [u8], &'a [u8])>,
    /// Of everything but position and freshness.
    pub(super) hash: u64,
}

/// Finds the keys that are looked at.
#[derive(Debug)]
pub(super) struct Reader {
    version: Finder<'static>,
    epoch: Finder<'static>,
    sequence: Finder<'static>,
    freshness: Finder<'static>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            version: Finder::new("\"version\":"),
            epoch: Finder::new("\"epoch\":"),
            sequence: Finder::new("\"sequence\":"),
            freshness: Finder::new("\"freshness\":"),
        }
    }

    /// Reads a message; `None` where a key is missing or a value is no plain text.
    pub(super) fn read<'a>(&self, message: &'a [u8]) -> Option<Envelope<'a>> {
        let version = value(&self.version, message)?;
        let epoch = value(&self.epoch, message)?;
        let sequence = value(&self.sequence, message)?;
        let mut left_out = [
            epoch.clone(),
            sequence.clone(),
            value(&self.freshness, message)?,
        ];
        left_out.sort_unstable_by_key(|value| value.start);
        let mut hash = Hash::default();
        let mut from = 0;
        for value in left_out {
            hash.add(&message[from..value.start]);
            from = value.end;
        }
        hash.add(&message[from..]);
        let position = unquoted(&message[epoch]).zip(unquoted(&message[sequence]));
        Some(Envelope {
            version: unquoted(&message[version])?,
            position,
            hash: hash.0,
        })
    }
}

/// Where the value stands that follows a key: `null`, or a text with its quotes.
fn value(key: &Finder<'_>, message: &[u8]) -> Option<Range<usize>> {
    let begin = key.find(message)? + key.needle().len();
    let value = &message[begin..];
    if value.starts_with(b"null") {
        return Some(begin..begin + 4);
    }
    let text = value.strip_prefix(b"\"")?;
    let length = memchr::memchr(b'"', text)?;
    // What is read here never needs an escape.
    (!text[..length].contains(&b'\\')).then_some(begin..begin + length + 2)
}

fn unquoted(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sequence: &str, freshness: &str, rest: &str) -> String {
        format!(
            r#"{{"type":"components","event_id":"1","version":"5f1c","set_id":"a0","epoch":"e","sequence":{sequence},"origin":"personalize","freshness":"{freshness}","recommendation_id":"","components":[{rest}]}}"#
        )
    }

    #[test]
    fn position_and_freshness_alone_leave_the_hash_as_it_is() {
        let reader = Reader::new();
        let read = |message: &str| reader.read(message.as_bytes()).unwrap().hash;
        let one = read(&message("\"07\"", "live", "1"));
        assert_eq!(one, read(&message("\"108\"", "cached", "1")));
        assert_ne!(one, read(&message("\"07\"", "live", "2")));
    }

    #[test]
    fn version_and_position_are_found() {
        let reader = Reader::new();
        let text = message("\"07\"", "live", "");
        let read = reader.read(text.as_bytes()).unwrap();
        assert_eq!(read.version, b"5f1c");
        assert_eq!(read.position, Some((&b"e"[..], &b"07"[..])));
        let text = message("null", "live", "");
        assert_eq!(reader.read(text.as_bytes()).unwrap().position, None);
        assert_eq!(reader.read(br#"{"status": "success"}"#), None);
    }
}
