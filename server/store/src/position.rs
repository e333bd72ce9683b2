//! Where a change stands in the history of the event table. Says nothing about when it happened.

use std::{fmt, sync::Arc};

/// Digits of a sequence number in a position: the longest that DynamoDB Streams gives
/// (API reference, StreamRecord, `SequenceNumber`: 21 to 40 characters).
const SEQUENCE_DIGITS: usize = 40;

/// A place in the history of the event table: the stream's identity and the change's sequence
/// number in it. Only positions of one epoch can be compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    epoch: Arc<str>,
    sequence: Arc<str>,
}

impl Position {
    /// A position from the stream's identity and a sequence number as the stream gives it.
    pub fn new(epoch: impl Into<Arc<str>>, sequence_number: &str) -> Self {
        let digits = sequence_number.trim_start_matches('0');
        Self {
            epoch: epoch.into(),
            sequence: format!("{digits:0>SEQUENCE_DIGITS$}").into(),
        }
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
    fn positions_of_two_epochs_are_not_ordered() {
        let (one, two) = (Position::new("one", "1"), Position::new("two", "2"));
        assert!(!one.is_after(&two) && !two.is_after(&one));
    }
}
