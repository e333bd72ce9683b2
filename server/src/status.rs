//! How errors look to a gRPC caller: a small set of codes, each with `google.rpc` details. The only
//! file that knows `tonic::Status`; nothing internal passes through it to a caller, it goes to the
//! log instead.

use std::{collections::HashMap, error::Error as _, time::Duration};

use futures::stream::BoxStream;
use tonic::{Code, Response, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};
use touchline_store::Error as StoreError;

use crate::{
    error::{Error, RETRY_AFTER},
    recommend::RecommendError,
};

/// What a unary handler gives.
pub(crate) type Reply<T> = Result<Response<T>, Status>;
/// What a streaming handler streams.
pub(crate) type Streamed<T> = BoxStream<'static, Result<T, Status>>;

/// `ErrorInfo.domain` of every error.
const DOMAIN: &str = "touchline";

/// An error as a caller sees it.
struct Seen {
    code: Code,
    /// `ErrorInfo.reason`: stable, for programs.
    reason: &'static str,
    /// For a person; names nothing internal.
    message: String,
    retry_after: Option<Duration>,
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        log(&error);
        let seen = see(&error);
        let mut details = ErrorDetails::with_error_info(seen.reason, DOMAIN, HashMap::new());
        if let Some(delay) = seen.retry_after {
            details.set_retry_info(Some(delay));
        }
        let violations = violations(&error);
        if !violations.is_empty() {
            details.set_bad_request(violations);
        }
        Self::with_error_details(seen.code, seen.message, details)
    }
}

impl Error {
    /// The code and message for one consumer of a batch whose other consumers have an answer.
    pub(crate) fn for_one_consumer(&self) -> (i32, String) {
        let seen = see(self);
        (seen.code as i32, seen.message)
    }
}

fn see(error: &Error) -> Seen {
    let plain = |code, reason| Seen {
        code,
        reason,
        message: error.to_string(),
        retry_after: None,
    };
    let again = |code, reason, delay| Seen {
        retry_after: Some(delay),
        ..plain(code, reason)
    };
    match error {
        Error::Invalid(_) => plain(Code::InvalidArgument, "INVALID_REQUEST"),
        Error::EventNotFound => plain(Code::NotFound, "EVENT_NOT_FOUND"),
        Error::Overloaded { .. } => again(Code::ResourceExhausted, "OVERLOADED", RETRY_AFTER),
        Error::NotReady => again(Code::Unavailable, "NOT_READY", RETRY_AFTER),
        Error::Draining => again(Code::Unavailable, "DRAINING", RETRY_AFTER),
        Error::TooOld => again(Code::Unavailable, "CONNECTION_AGE", RETRY_AFTER),
        Error::DeadlineExceeded => plain(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
        Error::Recommend(cause) => see_recommender(cause),
        Error::Store(cause) => see_store(cause),
    }
}

fn see_recommender(cause: &RecommendError) -> Seen {
    let (code, reason, message, retry_after) = match cause {
        RecommendError::Throttled { retry_after } => (
            Code::ResourceExhausted,
            "RECOMMENDER_THROTTLED",
            "the recommender throttles",
            Some(*retry_after),
        ),
        RecommendError::TimedOut => (
            Code::DeadlineExceeded,
            "RECOMMENDER_TIMED_OUT",
            "the recommender did not answer in time",
            None,
        ),
        RecommendError::Unavailable(_) => (
            Code::Unavailable,
            "RECOMMENDER_UNAVAILABLE",
            "the recommender is not available",
            Some(RETRY_AFTER),
        ),
        RecommendError::Invalid(_) => (
            Code::FailedPrecondition,
            "RECOMMENDER_REFUSED",
            "the recommender refuses this request; the server's log says why",
            None,
        ),
        RecommendError::Unsupported(message) => {
            (Code::Unimplemented, "UNSUPPORTED", *message, None)
        }
    };
    Seen {
        code,
        reason,
        message: message.to_owned(),
        retry_after,
    }
}

fn see_store(cause: &StoreError) -> Seen {
    let (code, reason, retry_after) = match cause {
        StoreError::Invalid { .. } => (Code::InvalidArgument, "INVALID_REQUEST", None),
        StoreError::Conflict(_) => (Code::Aborted, "CONFLICT", None),
        StoreError::Throttled(_) => (
            Code::ResourceExhausted,
            "STORE_THROTTLED",
            Some(RETRY_AFTER),
        ),
        StoreError::Unavailable(_) => (Code::Unavailable, "STORE_UNAVAILABLE", Some(RETRY_AFTER)),
        StoreError::Misconfigured { .. } => (Code::Internal, "MISCONFIGURED", None),
    };
    let message = match cause {
        StoreError::Misconfigured { .. } => {
            "the server is not configured as it must be; its log says how".to_owned()
        }
        other => other.to_string(),
    };
    Seen {
        code,
        reason,
        message,
        retry_after,
    }
}

fn violations(error: &Error) -> Vec<FieldViolation> {
    match error {
        Error::Invalid(violations) => violations
            .iter()
            .map(|violation| FieldViolation::new(&violation.field, &violation.description))
            .collect(),
        Error::Store(StoreError::Invalid { field, reason }) => {
            vec![FieldViolation::new(field, reason)]
        }
        _ => Vec::new(),
    }
}

/// What a caller is not told. Logged here because here it is handled.
fn log(error: &Error) {
    match error {
        Error::Store(cause @ StoreError::Misconfigured { .. }) => {
            tracing::error!(%cause, source = cause.source(), "the store refuses");
        }
        Error::Store(cause @ (StoreError::Unavailable(_) | StoreError::Throttled(_))) => {
            tracing::warn!(%cause, source = cause.source(), "the store does not answer");
        }
        Error::Recommend(cause @ (RecommendError::Unavailable(_) | RecommendError::Invalid(_))) => {
            tracing::warn!(%cause, "the recommender does not answer");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Violation;

    #[test]
    fn every_violation_is_named_at_once() {
        let violation = |field: &str| Violation {
            field: field.to_owned(),
            description: "is wrong".to_owned(),
        };
        let status = Status::from(Error::Invalid(vec![violation("a"), violation("b")]));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let fields: Vec<_> = details
            .bad_request()
            .unwrap()
            .field_violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect();
        assert_eq!(fields, ["a", "b"]);
        assert_eq!(details.error_info().unwrap().domain, "touchline");
    }

    #[test]
    fn internal_text_never_reaches_a_caller() {
        let secret = || "10.0.0.7 said no".to_owned();
        for error in [
            Error::Recommend(RecommendError::Unavailable(secret())),
            Error::Recommend(RecommendError::Invalid(secret())),
            Error::Store(StoreError::Unavailable(secret().into())),
            Error::Store(StoreError::Misconfigured {
                what: secret(),
                source: None,
            }),
        ] {
            let status = Status::from(error);
            assert!(!format!("{status:?}").contains("10.0.0.7"), "{status:?}");
            assert!(status.get_error_details().error_info().is_some());
        }
    }

    #[test]
    fn a_throttle_says_when_to_ask_again() {
        let retry_after = Duration::from_millis(250);
        let status = Status::from(Error::Recommend(RecommendError::Throttled { retry_after }));
        assert_eq!(status.code(), Code::ResourceExhausted);
        let details = status.get_error_details();
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(retry_after));
    }
}
