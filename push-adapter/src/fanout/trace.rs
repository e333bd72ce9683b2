//! The spans of a fan-out: the walk itself, and the posts of each batch. What they say is how many, never
//! to whom.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use touchline_runtime::traces::{Kind, Place, Span};

use super::{Round, walk::Look};
use crate::connections::PostError;

/// What a fan-out is part of. The span of the change ends when nobody holds it any more.
#[derive(Debug, Clone)]
pub(super) struct Part {
    place: Place,
    _change: Option<Arc<Span>>,
}

impl Part {
    pub(super) fn of(change: Span) -> Self {
        Self {
            place: change.place(),
            _change: change.is_recording().then(|| Arc::new(change)),
        }
    }

    /// Of the same change, which does not wait for what comes now.
    pub(super) fn ended(self) -> Self {
        Self {
            _change: None,
            ..self
        }
    }

    pub(super) fn begin(&self, look: Look) -> Span {
        let name = match look {
            Look::Everyone => "fan_out",
            Look::Late(_) => "second_look",
        };
        self.place.begin(name, Kind::Internal)
    }
}

/// A fan-out has come to an end, or is begun again.
pub(super) fn finish(mut span: Span, round: &Round) {
    span.count("touchline.audience", round.audience);
    span.count("touchline.pushed", round.pushed);
    span.count("touchline.gone", round.gone);
    span.count("touchline.failed", round.failed);
    let milliseconds = usize::try_from(round.change_to_last.as_millis());
    span.count(
        "touchline.change_to_last_ms",
        milliseconds.unwrap_or(usize::MAX),
    );
    if round.superseded {
        span.say("touchline.outcome", "superseded");
    }
}

/// The posts of one batch: a span from the first of them until each was posted or dropped. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Posts(Option<Arc<Counted>>);

#[derive(Debug)]
struct Counted {
    span: Mutex<Span>,
    outcomes: [AtomicUsize; OUTCOMES.len()],
}

/// What becomes of a post.
const OUTCOMES: [&str; 8] = [
    "touchline.delivered",
    "touchline.gone",
    "touchline.full",
    "touchline.refused",
    "touchline.throttled",
    "touchline.unavailable",
    "touchline.superseded",
    "touchline.lapsed",
];

impl Posts {
    pub(super) fn begin(place: &Place) -> Self {
        let span = place.begin("post", Kind::Producer);
        Self(span.is_recording().then(|| {
            Arc::new(Counted {
                span: Mutex::new(span),
                outcomes: Default::default(),
            })
        }))
    }

    /// One of them was posted, or was not.
    pub(super) fn count(&self, posted: &Result<(), PostError>) {
        let Some(counted) = &self.0 else {
            return;
        };
        let outcome = match posted {
            Ok(()) => 0,
            Err(PostError::Gone) => 1,
            Err(PostError::Full) => 2,
            Err(PostError::Refused(_)) => 3,
            Err(PostError::Throttled) => 4,
            Err(PostError::Unavailable(_)) => 5,
            Err(PostError::Superseded) => 6,
            Err(PostError::Lapsed) => 7,
        };
        counted.outcomes[outcome].fetch_add(1, Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // No code that holds the lock can panic half-way through a change.
        let span = self.span.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (name, count) in OUTCOMES.into_iter().zip(&mut self.outcomes) {
            let count = *count.get_mut();
            if count > 0 {
                span.count(name, count);
            }
        }
    }
}
