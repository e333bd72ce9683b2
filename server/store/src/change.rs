//! Changes of the event table, and keeping only the newest of each event. Pure.

use std::{collections::HashMap, sync::Arc, time::Instant};

use crate::{event::EventState, ids::EventId, position::Position};

/// What happened to an event's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// The row was written: INSERT and MODIFY alike, since a change is a snapshot.
    Put(EventState),
    /// The row was deleted.
    Removed,
}

/// One change of the event table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The event.
    pub event_id: EventId,
    /// Where the change stands in the table's history; `None` for a state that was read from the
    /// table before any change of it was seen.
    pub position: Option<Position>,
    /// What happened.
    pub kind: ChangeKind,
    /// How it was heard of.
    pub heard: Heard,
}

/// How this process came to hear of a change. It says nothing of the change itself, so it makes no
/// difference to anybody who compares two.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// When whoever leads began the reading of the stream that gave it, by this process's clock; `None`
    /// for the states that there were when that one began.
    pub read_at: Option<Instant>,
    /// Where in a trace it belongs, as W3C Trace Context writes it.
    pub traceparent: Option<Arc<str>>,
}

impl PartialEq for Heard {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Heard {}

/// The newest change of each event, and how many older ones it stands for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Conflated {
    /// In stream order of the changes that were kept.
    pub changes: Vec<Change>,
    /// Changes that a newer one of the same event replaced.
    pub dropped: usize,
}

/// Keeps the last change of each event. `changes` are in stream order.
pub fn conflate(changes: Vec<Change>) -> Conflated {
    let total = changes.len();
    let mut last: HashMap<EventId, usize> = HashMap::new();
    for (index, change) in changes.iter().enumerate() {
        last.insert(change.event_id.clone(), index);
    }
    let changes: Vec<_> = changes
        .into_iter()
        .enumerate()
        .filter(|(index, change)| last[&change.event_id] == *index)
        .map(|(_, change)| change)
        .collect();
    Conflated {
        dropped: total - changes.len(),
        changes,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn removed(event: u8, sequence: usize) -> Change {
        Change {
            event_id: EventId::new(event.to_string()).unwrap(),
            position: Some(Position::new("epoch", &sequence.to_string())),
            kind: ChangeKind::Removed,
            heard: Default::default(),
        }
    }

    proptest! {
        #[test]
        fn the_newest_of_each_event_stays_in_order(events in prop::collection::vec(0u8..5, 0..50)) {
            let changes: Vec<_> =
                events.iter().enumerate().map(|(sequence, event)| removed(*event, sequence)).collect();
            let conflated = conflate(changes.clone());
            prop_assert_eq!(conflated.changes.len() + conflated.dropped, changes.len());
            let in_order = conflated.changes.is_sorted_by_key(|change| {
                change.position.as_ref().map(|position| position.sequence().to_owned())
            });
            prop_assert!(in_order);
            for change in &conflated.changes {
                let newest = changes.iter().rfind(|other| other.event_id == change.event_id);
                prop_assert_eq!(newest, Some(change));
            }
            let distinct: std::collections::BTreeSet<_> = events.iter().collect();
            prop_assert_eq!(conflated.changes.len(), distinct.len());
        }
    }
}
