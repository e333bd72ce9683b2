//! The spans of calls: part of their caller's trace, where the caller names one. What they say of an
//! answer is where it came from, never whose it is.

use tonic::{Request, Status};
use touchline_auth::{Identity, Scope};
use touchline_runtime::traces::{Kind, Place, Span, TRACEPARENT};

use super::Api;
use crate::{
    error::Error,
    recommend::{
        Origin,
        serving::{Chunk, Freshness},
    },
    sets::Decided,
    watch::Seen,
};

/// Answers by their origin and by their freshness, in the order of these.
const ORIGINS: [&str; Origin::ALL.len()] = [
    "touchline.origin.personalize",
    "touchline.origin.cohort",
    "touchline.origin.embedded",
    "touchline.origin.popular",
];
const FRESHNESSES: [&str; Freshness::ALL.len()] = [
    "touchline.freshness.live",
    "touchline.freshness.cached",
    "touchline.freshness.stale",
];

/// What no fan may: the scopes of applications and of those who run them.
const BEYOND_ONESELF: [Scope; 4] = [
    Scope::ComponentsAny,
    Scope::EventsWrite,
    Scope::FeedbackAny,
    Scope::Admin,
];

impl Api {
    /// The span of a call.
    pub(super) fn span<T>(&self, request: &Request<T>, name: &'static str) -> Span {
        if !self.traces.is_on() {
            return Span::default();
        }
        let place = match decides(request) {
            true => {
                let traceparent = request.metadata().get(TRACEPARENT);
                self.traces
                    .place(traceparent.and_then(|value| value.to_str().ok()))
            }
            false => Place::default(),
        };
        self.traces.begin(name, Kind::Server, &place)
    }
}

/// Whether it is for the caller to say where in a trace the call belongs, and with it whether it is
/// traced. Not for a fan: what anybody sends shall not decide what a collector is sent.
fn decides<T>(request: &Request<T>) -> bool {
    // Absent while authentication is off.
    let identity = request.extensions().get::<Identity>();
    identity.is_none_or(|identity| {
        BEYOND_ONESELF
            .iter()
            .any(|scope| identity.scopes.has(*scope))
    })
}

/// A call has failed: in a word to whoever reads traces, and to the caller.
pub(super) fn failed(span: &mut Span, error: Error) -> Status {
    let status = Status::from(error);
    span.fail(status.code().description());
    status
}

/// Says of which state a call is.
pub(super) fn say_state(span: &mut Span, seen: &Seen) {
    if span.is_recording() {
        span.say(
            "touchline.event_id",
            seen.state.event_id.as_str().to_owned(),
        );
        span.say("touchline.version", seen.version.as_str().to_owned());
    }
}

/// The span of a batch, which ends with its last answer, or when nobody waits for more.
#[derive(Debug)]
pub(super) struct Answering {
    span: Span,
    origins: [usize; ORIGINS.len()],
    freshnesses: [usize; FRESHNESSES.len()],
    unanswered: usize,
}

impl Answering {
    pub(super) fn new(span: Span) -> Self {
        Self {
            span,
            origins: Default::default(),
            freshnesses: Default::default(),
            unanswered: 0,
        }
    }

    /// These are given.
    pub(super) fn count(&mut self, chunk: &Chunk<Decided>) {
        if !self.span.is_recording() {
            return;
        }
        for (_, decided) in chunk {
            match decided {
                // Their numbers are their places in the lists of all.
                Ok(decided) => {
                    self.origins[decided.origin as usize] += 1;
                    self.freshnesses[decided.freshness as usize] += 1;
                }
                Err(_) => self.unanswered += 1,
            }
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let origins = ORIGINS.into_iter().zip(self.origins);
        let freshnesses = FRESHNESSES.into_iter().zip(self.freshnesses);
        let unanswered = [("touchline.unanswered", self.unanswered)];
        for (name, count) in origins.chain(freshnesses).chain(unanswered) {
            if count > 0 {
                self.span.count(name, count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use touchline_auth::Scopes;

    use super::*;

    #[test]
    fn fans_do_not_decide_what_is_traced() {
        let decided = |scope: Scope| {
            let mut request = Request::new(());
            request.extensions_mut().insert(Identity {
                consumer_id: Some("ann".to_owned()),
                scopes: Scopes::NONE.granting([scope]),
                expires_at: None,
            });
            decides(&request)
        };
        assert_eq!(
            Scope::ALL.map(decided),
            [false, true, false, true, false, true, true]
        );
        assert!(decides(&Request::new(())), "nobody is asked who they are");
    }

    #[test]
    fn a_name_stands_where_its_origin_or_freshness_does() {
        for (place, origin) in Origin::ALL.into_iter().enumerate() {
            assert_eq!(origin as usize, place);
            assert!(ORIGINS[place].ends_with(origin.as_str()), "{origin:?}");
        }
        for (place, freshness) in Freshness::ALL.into_iter().enumerate() {
            assert_eq!(freshness as usize, place);
            let name = FRESHNESSES[place];
            assert!(name.ends_with(freshness.as_str()), "{freshness:?}");
        }
    }
}
