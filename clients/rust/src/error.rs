//! What can go wrong with a call, in terms of what the caller can do. Does not know which call.

use std::{error::Error as _, fmt, time::Duration};

use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt;

/// One field of a request that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field, as the proto file names it, such as `event.event_id`.
    pub field: String,
    /// What is wrong with it, and what would be accepted.
    pub description: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.field, self.description)
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint's address cannot be one. Mend the configuration.
    #[error("{endpoint:?} is no address of a server, such as http://127.0.0.1:50051")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        #[source]
        source: tonic::transport::Error,
    },
    /// The request cannot be accepted. Asking again does not help; the violations say what to mend.
    #[error("{}", invalid_text(.violations, .status))]
    Invalid {
        /// The fields that are wrong, where the service named them.
        violations: Vec<Violation>,
        /// What the service answered.
        status: Status,
    },
    /// There is no such row.
    #[error("{}", .0.message())]
    NotFound(Status),
    /// Somebody else was there first, or the state does not allow it. Look again, then decide.
    #[error("{}", .0.message())]
    Conflict(Status),
    /// The caller may not do this. Mend the credentials.
    #[error("{}", .0.message())]
    Denied(Status),
    /// Too much is asked of the service. Ask again after the delay.
    #[error("{}", .status.message())]
    Throttled {
        /// How long to wait at least, where the service said so.
        retry_after: Option<Duration>,
        /// What the service answered.
        status: Status,
    },
    /// The service cannot be reached, or cannot serve now. Ask again later.
    #[error("{}", unavailable_text(.status))]
    Unavailable {
        /// How long to wait at least, where the service said so.
        retry_after: Option<Duration>,
        /// What the service answered, or what stood in the way of reaching it.
        status: Status,
    },
    /// No answer came within the deadline; whether a write was done is not known.
    #[error("no answer within the deadline")]
    TimedOut(Status),
    /// The service failed, or answered what this client cannot read. A person should look.
    #[error("{} ({})", .0.message(), .0.code())]
    Failed(Status),
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Throttled { .. } | Self::Unavailable { .. } | Self::TimedOut(_)
        )
    }

    /// How long the service asked to wait before the next attempt.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after, .. } | Self::Unavailable { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }

    /// Whether the service could not even be reached: nothing of the call has happened.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unavailable { status, .. } if connect_error(status).is_some())
    }

    /// An answer that no version of the service gives.
    pub(crate) fn unreadable(what: &str) -> Self {
        Self::Failed(Status::internal(format!(
            "the answer cannot be read: {what}"
        )))
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Self::Invalid {
                violations: violations(&status),
                status,
            },
            Code::NotFound => Self::NotFound(status),
            Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => {
                Self::Conflict(status)
            }
            Code::Unauthenticated | Code::PermissionDenied => Self::Denied(status),
            Code::ResourceExhausted => Self::Throttled {
                retry_after: retry_delay(&status),
                status,
            },
            Code::Unavailable => Self::Unavailable {
                retry_after: retry_delay(&status),
                status,
            },
            Code::DeadlineExceeded => Self::TimedOut(status),
            // The channel ends a call at its deadline as cancelled; so does nobody else here.
            Code::Cancelled if caused_by::<TimeoutExpired>(&status).is_some() => {
                Self::TimedOut(status)
            }
            // What a service answers has no cause here: this is a connection that broke in the
            // middle of an answer.
            Code::Cancelled | Code::Unknown | Code::Internal if status.source().is_some() => {
                Self::Unavailable {
                    retry_after: None,
                    status,
                }
            }
            _ => Self::Failed(status),
        }
    }
}

/// Whether another replica may answer what this one did not: it could not be reached, broke off, or
/// does not serve yet or any more. What it says about the recommender or the store is an answer.
pub(crate) fn fails_over(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => status.get_details_error_info().is_none() || does_not_serve(status),
        Code::Cancelled | Code::Unknown | Code::Internal => {
            status.source().is_some() && caused_by::<TimeoutExpired>(status).is_none()
        }
        _ => false,
    }
}

/// Whether nothing of a call that was not answered can have happened.
pub(crate) fn never_began(status: &Status) -> bool {
    connect_error(status).is_some() || does_not_serve(status)
}

fn does_not_serve(status: &Status) -> bool {
    let info = status.get_details_error_info();
    info.is_some_and(|info| matches!(info.reason.as_str(), "NOT_READY" | "DRAINING"))
}

fn violations(status: &Status) -> Vec<Violation> {
    let details = status.get_details_bad_request();
    details
        .into_iter()
        .flat_map(|bad_request| bad_request.field_violations)
        .map(|violation| Violation {
            field: violation.field,
            description: violation.description,
        })
        .collect()
}

fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

fn invalid_text(violations: &[Violation], status: &Status) -> String {
    if violations.is_empty() {
        return status.message().to_owned();
    }
    let texts: Vec<_> = violations.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// The operating system's word where there is one ("connection refused" says more than
/// "transport error"), otherwise the service's.
fn unavailable_text(status: &Status) -> String {
    match (caused_by::<std::io::Error>(status), status.code()) {
        (Some(error), _) => error.to_string(),
        (None, Code::Unavailable) => status.message().to_owned(),
        (None, _) => "the connection broke".to_owned(),
    }
}

fn connect_error(status: &Status) -> Option<&tonic::ConnectError> {
    caused_by(status)
}

fn caused_by<E: std::error::Error + 'static>(status: &Status) -> Option<&E> {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use tonic_types::{BadRequest, RetryInfo};

    use super::*;

    #[test]
    fn a_bad_request_names_its_fields() {
        let details = BadRequest::with_violation("event.event_id", "must not be empty").into();
        let status =
            Status::with_error_details_vec(Code::InvalidArgument, "invalid", vec![details]);
        let error = Error::from(status);
        assert_eq!(error.to_string(), "event.event_id: must not be empty");
        assert!(!error.is_transient());
    }

    #[test]
    fn a_throttle_says_how_long_to_wait() {
        let delay = Duration::from_millis(250);
        let details = RetryInfo::new(Some(delay)).into();
        let status = Status::with_error_details_vec(Code::ResourceExhausted, "full", vec![details]);
        let error = Error::from(status);
        assert!(error.is_transient());
        assert_eq!(error.retry_after(), Some(delay));
    }

    #[test]
    fn what_a_replica_says_of_the_recommender_is_an_answer_and_that_it_does_not_serve_is_none() {
        let unavailable = |reason: &str| {
            let info = tonic_types::ErrorInfo::new(reason, "touchline", []).into();
            Status::with_error_details_vec(Code::Unavailable, "no", vec![info])
        };
        for reason in ["NOT_READY", "DRAINING"] {
            let status = unavailable(reason);
            assert!(fails_over(&status) && never_began(&status), "{reason}");
        }
        assert!(!fails_over(&unavailable("RECOMMENDER_UNAVAILABLE")));
        let unknown = Status::unavailable("of whoever stands between");
        assert!(fails_over(&unknown) && !never_began(&unknown));
        assert!(!fails_over(&Status::deadline_exceeded("slow")));
    }

    #[test]
    fn a_failure_is_not_asked_again() {
        assert!(!Error::from(Status::internal("broken")).is_transient());
        assert!(!Error::from(Status::unimplemented("older server")).is_transient());
    }
}
