//! What can go wrong with the store, in terms of what a caller can do about it.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

use crate::ids::InvalidId;

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What a caller can do something about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was given cannot be accepted; asking again does not help.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, attribute or flag as the caller knows it.
        field: String,
        /// What is wrong, and what would be accepted.
        reason: String,
    },
    /// A condition did not hold: somebody else was there first, or the row is gone.
    #[error("{0}")]
    Conflict(String),
    /// The store asks for less; back off and ask again.
    #[error("the store throttles")]
    Throttled(#[source] Source),
    /// The store cannot be reached or fails; ask again later.
    #[error("the store is not available")]
    Unavailable(#[source] Source),
    /// The store refuses for a reason that a person must mend: a missing table, a denied action.
    #[error("{what}")]
    Misconfigured {
        /// What is wrong and what to do.
        what: String,
        /// What the store said.
        #[source]
        source: Option<Source>,
    },
}

impl From<InvalidId> for Error {
    fn from(invalid: InvalidId) -> Self {
        Self::Invalid {
            field: invalid.field().to_owned(),
            reason: invalid.to_string(),
        }
    }
}

impl Error {
    /// What a failed call means to a caller. `what` names the table or thing that was called.
    pub(crate) fn from_sdk<E, R>(what: &str, error: SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        if let SdkError::ConstructionFailure(_) = error {
            return Self::Misconfigured {
                what: format!("{what}: the request could not be made"),
                source: Some(Box::new(error)),
            };
        }
        let message = error.message().unwrap_or_default().to_owned();
        match error.code() {
            Some("ConditionalCheckFailedException") => {
                Self::Conflict(format!("{what}: the row is not as expected"))
            }
            Some("TransactionCanceledException") if message.contains("ConditionalCheckFailed") => {
                Self::Conflict(format!("{what}: a row is not as expected"))
            }
            Some(
                "TransactionCanceledException"
                | "TransactionConflictException"
                | "TransactionInProgressException"
                | "ProvisionedThroughputExceededException"
                | "ThrottlingException"
                | "RequestLimitExceeded"
                | "LimitExceededException",
            ) => Self::Throttled(Box::new(error)),
            Some(
                code @ ("ResourceNotFoundException"
                | "AccessDeniedException"
                | "UnrecognizedClientException"
                | "InvalidSignatureException"
                | "MissingAuthenticationTokenException"
                | "MissingAuthenticationToken"
                | "ExpiredTokenException"),
            ) => Self::Misconfigured {
                what: format!("{what}: {code}: {message}"),
                source: Some(Box::new(error)),
            },
            Some("ValidationException" | "ItemCollectionSizeLimitExceededException") => {
                Self::Invalid {
                    field: what.to_owned(),
                    reason: message,
                }
            }
            _ => Self::Unavailable(Box::new(error)),
        }
    }
}
