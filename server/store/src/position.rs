//! Where a change stands in the history of the event table. Says nothing about when it happened.

use std::{fmt, sync::Arc};

/// Digits of a sequence number in a position: the longest that DynamoDB Streams gives
/// (API reference, StreamRecord, `SequenceNumber`: 21 to 40 characters).
const SEQUENCE_DIGITS: usize = 40;

/// Digits of a lease's counter, and of a reading under it, in the position of a row.
const COUNTER_DIGITS: usize = 20;
const READING_DIGITS: usize = 6;

/// A place in the history of the event table: the stream's identity and the change's sequence
/// number in it. Only positions of one epoch can be compared.
///
/// A state that was read from its row, because nobody knows which record wrote it, stands between two
/// records: after the last one of its event that was applied. Its sequence is that one's, a `~`, the
/// counter of the lease under which it was read, and which reading of the rows it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    epoch: Arc<str>,
    sequence: Arc<str>,
}

impl Position {
    /// A position from the stream's identity and a sequence number as the stream gives it.
    pub fn new(epoch: impl Into<Arc<str>>, sequence_number: &str) -> Self {
        let (record, row) = match sequence_number.split_once('~') {
            Some((record, row)) => (record, Some(row)),
            None => (sequence_number, None),
        };
        let digits = record.trim_start_matches('0');
        let record = format!("{digits:0>SEQUENCE_DIGITS$}");
        let sequence = match row {
            Some(row) => format!("{record}~{row}"),
            None => record,
        };
        Self {
            epoch: epoch.into(),
            sequence: sequence.into(),
        }
    }

    /// The position of a state that was read from its row, in this `reading` of the rows under a lease
    /// with this `counter`, when `last` was the last change of its event that was applied in this
    /// epoch.
    pub fn of_row(epoch: &str, last: Option<&Self>, (counter, reading): (u64, u32)) -> Self {
        let last = last.map_or("", Self::sequence);
        let record = last.split_once('~').map_or(last, |(record, _)| record);
        let row = format!("{counter:0>COUNTER_DIGITS$}.{reading:0>READING_DIGITS$}");
        Self::new(epoch, &format!("{record}~{row}"))
    }

    /// Whether it is the position of a row.
    pub fn is_of_row(&self) -> bool {
        self.sequence.contains('~')
    }

    /// Identity of the stream.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The sequence number, zero-padded so that text order is stream order.
    pub fn sequence(&self) -> &str {
        &self.sequence
    }

    /// Whether this position is of the same epoch as `other` and comes later in it.
    pub fn is_after(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.sequence > other.sequence
    }
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
    fn a_row_stands_between_the_last_record_that_was_applied_and_the_next() {
        let record = |sequence| Position::new("epoch", sequence);
        let row = |last: Option<&Position>, counter, reading| {
            Position::of_row("epoch", last, (counter, reading))
        };
        let first = row(None, 1, 1);
        assert!(first.is_of_row() && record("1").is_after(&first));
        let later = row(Some(&record("41")), 2, 9);
        assert!(later.is_after(&record("41")) && record("42").is_after(&later));
        assert!(row(Some(&later), 2, 10).is_after(&later), "read once more");
        assert!(
            row(Some(&later), 10, 1).is_after(&later),
            "read by who led later"
        );
        // As it travels and comes back.
        assert_eq!(Position::new("epoch", later.sequence()), later);
    }

    #[test]
    fn positions_of_two_epochs_are_not_ordered() {
        let (one, two) = (Position::new("one", "1"), Position::new("two", "2"));
        assert!(!one.is_after(&two) && !two.is_after(&one));
    }
}
