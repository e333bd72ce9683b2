//! Where a change stands in the history of the event table. Says nothing about when it happened.

use std::{fmt, sync::Arc};

/// Digits of a sequence number in a position: the longest that DynamoDB Streams gives
/// (API reference, StreamRecord, `SequenceNumber`: 21 to 40 characters).
const SEQUENCE_DIGITS: usize = 40;

/// Digits of a lease's counter, and of an opening of the stream under it, in a position.
const COUNTER_DIGITS: usize = 20;
const OPENING_DIGITS: usize = 6;

/// A place in the history of the event table. Of a record: the stream's identity and the record's
/// sequence number in it. Only positions of one epoch can be compared.
///
/// What a leader says has a place in the history of leading: the epoch is the lease row's, and before
/// the sequence number stand the counter of its lease and how often it has opened a stream. So it comes
/// after all that an earlier leader said, however late that arrives, and after all that it said itself
/// before a gap or of another stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    epoch: Arc<str>,
    sequence: Arc<str>,
}

impl Position {
    /// A position from the stream's identity and a sequence number as the stream gives it, or the
    /// sequence of another position.
    pub fn new(epoch: impl Into<Arc<str>>, sequence: &str) -> Self {
        let sequence = match sequence.contains('.') {
            true => sequence.into(),
            false => padded(sequence).into(),
        };
        Self {
            epoch: epoch.into(),
            sequence,
        }
    }

    /// What a leader says of a record, or of a row: that comes before every record that is read after
    /// it was.
    pub fn said(epoch: impl Into<Arc<str>>, by: Opening, record: Option<&Self>) -> Self {
        let Opening { counter, opening } = by;
        let record = record.map_or_else(|| padded(""), |record| record.sequence.to_string());
        let by = format!("{counter:0>COUNTER_DIGITS$}.{opening:0>OPENING_DIGITS$}");
        Self {
            epoch: epoch.into(),
            sequence: format!("{by}.{record}").into(),
        }
    }

    /// Identity of the stream.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The sequence, zero-padded so that text order is the order of the history.
    pub fn sequence(&self) -> &str {
        &self.sequence
    }

    /// Whether this position is of the same epoch as `other` and comes later in it.
    pub fn is_after(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.sequence > other.sequence
    }
}

/// One opening of the stream by a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Counter of the lease.
    pub counter: u64,
    /// How often the stream was opened in this term.
    pub opening: u32,
}

fn padded(sequence_number: &str) -> String {
    let digits = sequence_number.trim_start_matches('0');
    format!("{digits:0>SEQUENCE_DIGITS$}")
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.epoch, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_order_is_stream_order(a in any::<u128>(), b in any::<u128>()) {
            let (first, second) = (
                Position::new("epoch", &a.to_string()),
                Position::new("epoch", &format!("000{b}")),
            );
            prop_assert_eq!(a > b, first.is_after(&second));
        }
    }

    #[test]
    fn what_is_said_later_comes_later_and_a_row_before_the_records_that_follow() {
        let said = |counter, opening, record: Option<&str>| {
            let record = record.map(|record| Position::new("epoch", record));
            Position::said("epoch", Opening { counter, opening }, record.as_ref())
        };
        let in_order = [
            said(2, 1, None),
            said(2, 1, Some("41")),
            said(2, 1, Some("100")),
            said(2, 2, None),
            said(10, 1, None),
            said(10, 1, Some("7")),
        ];
        assert!(in_order.is_sorted_by(|one, other| other.is_after(one)));
        // As it travels and comes back.
        let travelled = Position::new("epoch", in_order[1].sequence());
        assert_eq!(travelled, in_order[1]);
    }

    #[test]
    fn positions_of_two_epochs_are_not_ordered() {
        let (one, two) = (Position::new("one", "1"), Position::new("two", "2"));
        assert!(!one.is_after(&two) && !two.is_after(&one));
    }
}
