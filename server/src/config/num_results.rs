//! How many items a recommender is asked for when the caller does not say. Pure: how large the
//! catalog is, it is told.

use std::{fmt, str::FromStr};

use crate::recommend::NUM_RESULTS_MAX;

/// What is accepted.
const ACCEPTED: &str = "1 to 500 is accepted, or `all`";

/// Items that the recommender is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumResults {
    /// So many, 1 to 500. Slots whose items all stand further down stay empty.
    Count(u32),
    /// As many as there are, so that every slot is filled; 500 at most.
    All,
}

impl NumResults {
    /// How many that is, with so many items in the catalog.
    pub fn of(self, catalog_items: usize) -> usize {
        match self {
            Self::Count(count) => count as usize,
            Self::All => catalog_items.clamp(1, NUM_RESULTS_MAX as usize),
        }
    }

    /// Whether it can be asked for; otherwise, what would be accepted.
    pub(super) fn check(self) -> Result<(), &'static str> {
        match self {
            Self::Count(count) if !(1..=NUM_RESULTS_MAX).contains(&count) => Err(ACCEPTED),
            Self::Count(_) | Self::All => Ok(()),
        }
    }
}

impl FromStr for NumResults {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = match text {
            "all" => Self::All,
            count => Self::Count(count.parse().map_err(|_| ACCEPTED)?),
        };
        read.check().map(|()| read)
    }
}

impl fmt::Display for NumResults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(formatter),
            Self::All => formatter.write_str("all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_from_1_to_500_is_read_and_so_is_all() {
        assert_eq!("1".parse(), Ok(NumResults::Count(1)));
        assert_eq!("500".parse(), Ok(NumResults::Count(500)));
        assert_eq!("all".parse(), Ok(NumResults::All));
        for bad in ["0", "501", "", "-1", "ALL", "1.5", "99999999999"] {
            assert_eq!(bad.parse::<NumResults>(), Err(ACCEPTED), "{bad}");
        }
    }

    #[test]
    fn all_is_the_whole_catalog_within_what_can_be_asked_for() {
        for (items, asked) in [(0, 1), (1, 1), (40, 40), (500, 500), (501, 500)] {
            assert_eq!(NumResults::All.of(items), asked);
            assert_eq!(NumResults::Count(10).of(items), 10);
        }
    }
}
