//! Which context of each event stands. Work for one that was superseded is worth nothing; whoever
//! does such work holds a [`Standing`] and is told. Keeps no history and asks nobody.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_util::sync::CancellationToken;
use touchline_store::{event::Context, ids::EventId, position::Position};

/// Events that are remembered; work for others is never superseded.
const EVENTS_MAX: usize = 10_000;

/// Tells when the context that some work is for no longer stands.
#[derive(Debug, Clone, Default)]
pub struct Standing(Arc<CancellationToken>);

impl Standing {
    /// Whether another context stands by now.
    pub fn is_superseded(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until another context stands.
    pub async fn superseded(&self) {
        self.0.cancelled().await;
    }

    fn supersede(&self) {
        self.0.cancel();
    }
}

/// What an event's state means to a recommender.
#[derive(Debug, Clone)]
pub struct Situation {
    /// The context. Equal ones of one event are one allocation.
    pub context: Arc<Context>,
    /// Whether it stands; `None` where nobody can tell.
    pub standing: Option<Standing>,
    /// The context that it replaced just now.
    pub replaced: Option<Arc<Context>>,
}

impl Situation {
    /// A context of its own, which nothing supersedes.
    pub fn alone(context: impl Into<Arc<Context>>) -> Self {
        Self {
            context: context.into(),
            standing: None,
            replaced: None,
        }
    }
}

/// The contexts that stand.
#[derive(Debug, Default)]
pub struct Standings {
    current: Mutex<HashMap<EventId, Current>>,
}

#[derive(Debug)]
struct Current {
    context: Arc<Context>,
    position: Option<Position>,
    standing: Standing,
}

impl Standings {
    /// Takes a state that was seen. The newest one stands, as far as positions tell; one without a
    /// position is news.
    pub fn observe(
        &self,
        event_id: &EventId,
        position: Option<&Position>,
        context: Arc<Context>,
    ) -> Situation {
        // No code that holds the lock can panic half-way through a change.
        let mut all = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.len();
        let Some(current) = all.get_mut(event_id) else {
            let current = Current {
                context,
                position: position.cloned(),
                standing: Standing::default(),
            };
            let situation = current.situation(None);
            if count >= EVENTS_MAX {
                let standing = None;
                return Situation {
                    standing,
                    ..situation
                };
            }
            all.insert(event_id.clone(), current);
            return situation;
        };
        let is_old = match (&current.position, position) {
            (Some(known), Some(new)) => known.is_after(new),
            _ => false,
        };
        if current.context == context {
            if !is_old && position.is_some() && current.position.as_ref() != position {
                current.position = position.cloned();
            }
            return current.situation(None);
        }
        if is_old {
            let old = Standing::default();
            old.supersede();
            return Situation {
                context,
                standing: Some(old),
                replaced: None,
            };
        }
        current.standing.supersede();
        let replaced = std::mem::replace(
            current,
            Current {
                context,
                position: position.cloned(),
                standing: Standing::default(),
            },
        );
        current.situation(Some(replaced.context))
    }

    /// The event is over.
    pub fn end(&self, event_id: &EventId) {
        let mut all = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = all.remove(event_id) {
            current.standing.supersede();
        }
    }
}

impl Current {
    fn situation(&self, replaced: Option<Arc<Context>>) -> Situation {
        Situation {
            context: self.context.clone(),
            standing: Some(self.standing.clone()),
            replaced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> EventId {
        EventId::new("1").unwrap()
    }

    fn context(event: &str) -> Arc<Context> {
        let context = [("MATCH_EVENT".to_owned(), event.to_owned())];
        Arc::new(context.into())
    }

    fn position(sequence: &str) -> Position {
        Position::new("2022".to_owned(), sequence)
    }

    #[test]
    fn a_newer_context_supersedes_and_an_equal_one_stands() {
        let standings = Standings::default();
        let goal = standings.observe(&event(), Some(&position("1")), context("GOAL"));
        let clock = standings.observe(&event(), Some(&position("2")), context("GOAL"));
        assert!(Arc::ptr_eq(&goal.context, &clock.context));
        assert!(clock.replaced.is_none());
        let card = standings.observe(&event(), Some(&position("3")), context("CARD"));
        assert_eq!(card.replaced.unwrap()["MATCH_EVENT"], "GOAL");
        assert!(goal.standing.unwrap().is_superseded());
        assert!(!card.standing.unwrap().is_superseded());
    }

    #[test]
    fn an_old_state_that_comes_late_supersedes_nothing() {
        let standings = Standings::default();
        let new = standings.observe(&event(), Some(&position("3")), context("CARD"));
        let old = standings.observe(&event(), Some(&position("1")), context("GOAL"));
        assert!(!new.standing.unwrap().is_superseded());
        assert!(old.standing.unwrap().is_superseded());
        assert_eq!(old.context["MATCH_EVENT"], "GOAL");
    }

    #[test]
    fn what_ended_is_superseded() {
        let standings = Standings::default();
        let goal = standings.observe(&event(), None, context("GOAL"));
        standings.end(&event());
        assert!(goal.standing.unwrap().is_superseded());
    }

    #[test]
    fn a_bounded_number_of_events_is_remembered() {
        let standings = Standings::default();
        for number in 0..=EVENTS_MAX {
            let event = EventId::new(number.to_string()).unwrap();
            let situation = standings.observe(&event, None, context("GOAL"));
            assert_eq!(situation.standing.is_some(), number < EVENTS_MAX);
        }
    }
}
