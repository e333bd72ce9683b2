//! What can go wrong while a call is served, in terms of what the caller can do about it. Does not
//! know how gRPC says it: that is `status`.

use std::time::Duration;

use crate::recommend::RecommendError;

/// One field of a request that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field as the caller wrote it, such as `interactions[3].item_id`.
    pub field: String,
    /// What is wrong, and what would be accepted.
    pub description: String,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be accepted; all that is wrong with it at once.
    #[error("{}", describe(.0))]
    Invalid(Vec<Violation>),
    /// The event has no row.
    #[error("there is no such event")]
    EventNotFound,
    /// A limit of this server is reached.
    #[error("{limit} is reached")]
    Overloaded {
        /// Which limit, for a person to read.
        limit: &'static str,
    },
    /// The catalog was not loaded yet.
    #[error("the server is not ready yet")]
    NotReady,
    /// This server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// The stream has been open for as long as one may be.
    #[error("the stream has reached its greatest age; ask again")]
    TooOld,
    /// The call's time is over.
    #[error("the deadline has passed")]
    DeadlineExceeded,
    /// The recommender has no answer.
    #[error(transparent)]
    Recommend(#[from] RecommendError),
    /// The store has no answer.
    #[error(transparent)]
    Store(#[from] touchline_store::Error),
}

impl Error {
    /// The store took longer than this server gives it, whatever the caller's deadline is.
    pub(crate) fn store_silent() -> Self {
        Self::Store(touchline_store::Error::Unavailable(
            "no answer in time".into(),
        ))
    }
}

/// How long a caller waits before it asks again, where nothing better is known.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(500);

fn describe(violations: &[Violation]) -> String {
    let each: Vec<_> = violations
        .iter()
        .map(|violation| format!("{}: {}", violation.field, violation.description))
        .collect();
    each.join("; ")
}
