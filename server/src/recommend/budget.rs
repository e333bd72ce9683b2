//! How often Personalize may be asked, and who comes first. The bucket is every process's
//! ([`touchline_runtime::bucket`]); who waits for a token, in which order, is [`queue`]'s.

pub mod queue;

/// Who a token is for. The first of these that waits gets the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits for the answer.
    Caller,
    /// Fans are sent the answer.
    Push,
    /// Somebody was served from another source, and a better answer may follow.
    Refresh,
    /// Nobody needs it yet.
    Prefetch,
}

impl Priority {
    /// All of them, the first served first.
    pub const ALL: [Self; 4] = [Self::Caller, Self::Push, Self::Refresh, Self::Prefetch];

    /// The part of a full bucket that is left for whoever comes next.
    fn reserve(self) -> f64 {
        match self {
            Self::Prefetch => 0.5,
            _ => 0.0,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Push => "push",
            Self::Refresh => "refresh",
            Self::Prefetch => "prefetch",
        }
    }
}
