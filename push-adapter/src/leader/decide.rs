//! What a change is worth: fanned out, or for followers of the feed only. Pure.

use std::collections::{BTreeSet, HashMap};

use touchline_store::{
    change::{Change, ChangeKind},
    event::Version,
    ids::{ContentId, EventId},
    lease::{Applied, Progress},
    position::Position,
};

/// What is known of each event that is on: the state that fans were last shown, or are being shown.
#[derive(Debug, Default)]
pub struct Known {
    events: HashMap<EventId, Event>,
}

#[derive(Debug)]
struct Event {
    position: Option<Position>,
    version: Version,
    /// Whom the newest state reaches; `None` where only the last leader's record is known.
    contents: Option<BTreeSet<ContentId>>,
}

/// What a change is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Worth {
    /// Nothing: it was applied before.
    Nothing,
    /// Followers of the feed hear of it; fans are shown what they see already.
    Feed,
    /// Fans are to be shown this state.
    Push(Version),
    /// The event is over for those whom it reached.
    End(BTreeSet<ContentId>),
}

impl Known {
    /// Begins with what the last leader left.
    pub fn new(progress: &Progress) -> Self {
        let events = progress.applied.iter().filter_map(|(event_id, applied)| {
            let event = Event {
                position: Some(applied.position.clone()),
                version: applied.version.clone()?,
                contents: None,
            };
            Some((event_id.clone(), event))
        });
        Self {
            events: events.collect(),
        }
    }

    /// Says what a change is worth and remembers it. `certain`: what fans see is known. The first
    /// changes after a term began are not: the last leader may have fallen in the middle of a state
    /// that it did not record, so a state equal to the recorded one is shown again.
    pub fn judge(&mut self, change: &Change, certain: bool) -> Worth {
        let known = self.events.get_mut(&change.event_id);
        if let Some(known) = &known
            && let (Some(new), Some(old)) = (&change.position, &known.position)
            && new.epoch() == old.epoch()
            && !new.is_after(old)
        {
            return Worth::Nothing;
        }
        let state = match &change.kind {
            ChangeKind::Put(state) => state,
            ChangeKind::Removed => {
                // An event that nobody was shown needs no end.
                return match self.events.remove(&change.event_id) {
                    Some(known) => Worth::End(known.contents.unwrap_or_default()),
                    None => Worth::Feed,
                };
            }
        };
        let version = state.version();
        let same = known.is_some_and(|known| known.version == version);
        let event = Event {
            position: change.position.clone(),
            version: version.clone(),
            contents: Some(state.contents.clone()),
        };
        self.events.insert(change.event_id.clone(), event);
        if same && certain {
            Worth::Feed
        } else {
            Worth::Push(version)
        }
    }

    /// Learns whom an event's row reaches, which the last leader's record does not say.
    pub fn reaches(&mut self, event_id: &EventId, contents: &BTreeSet<ContentId>) {
        if let Some(event) = self.events.get_mut(event_id) {
            event.contents.get_or_insert_with(|| contents.clone());
        }
    }

    /// Where the row's state stands, if it is the one that the last leader recorded.
    pub fn position(&self, event_id: &EventId, version: &Version) -> Option<&Position> {
        let event = self.events.get(event_id)?;
        event
            .position
            .as_ref()
            .filter(|_| event.version == *version)
    }

    /// Whether the newest known state of the event is this version.
    pub fn is(&self, event_id: &EventId, version: &Version) -> bool {
        self.events
            .get(event_id)
            .is_some_and(|event| event.version == *version)
    }

    /// Events that are on as far as is known.
    pub fn events(&self) -> impl Iterator<Item = &EventId> {
        self.events.keys()
    }
}

/// What is recorded of a change once it is through.
pub fn applied(change: &Change) -> Option<(EventId, Applied)> {
    let version = match &change.kind {
        ChangeKind::Put(state) => Some(state.version()),
        ChangeKind::Removed => None,
    };
    let position = change.position.clone()?;
    Some((change.event_id.clone(), Applied { position, version }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use touchline_store::event::{Attribute, EventState};

    use super::*;

    fn put(sequence: u32, attributes: &[(&str, &str)]) -> Change {
        let event_id = EventId::new("1").unwrap();
        let attributes: BTreeMap<_, _> = attributes
            .iter()
            .map(|(name, text)| ((*name).to_owned(), Attribute::Text((*text).to_owned())))
            .collect();
        Change {
            event_id: event_id.clone(),
            position: Some(Position::new("epoch", &sequence.to_string())),
            kind: ChangeKind::Put(EventState {
                event_id,
                attributes,
                contents: [ContentId::new("final").unwrap()].into(),
            }),
        }
    }

    fn removed(sequence: u32) -> Change {
        Change {
            kind: ChangeKind::Removed,
            ..put(sequence, &[])
        }
    }

    fn recorded(change: &Change) -> Known {
        Known::new(&Progress {
            checkpoint: None,
            applied: applied(change).into_iter().collect(),
        })
    }

    #[test]
    fn display_attributes_alone_are_for_the_feed() {
        let mut known = Known::default();
        let goal = put(1, &[("match_event", "GOAL")]);
        assert!(matches!(known.judge(&goal, true), Worth::Push(_)));
        let clock = put(2, &[("match_event", "GOAL"), ("display_clock", "23'")]);
        assert_eq!(known.judge(&clock, true), Worth::Feed);
        assert!(matches!(
            known.judge(&put(3, &[("match_event", "THROW")]), true),
            Worth::Push(_)
        ));
    }

    #[test]
    fn what_was_applied_before_is_worth_nothing() {
        let goal = put(5, &[("match_event", "GOAL")]);
        let mut known = recorded(&goal);
        assert_eq!(known.judge(&goal, false), Worth::Nothing);
        assert_eq!(known.judge(&put(4, &[("a", "b")]), false), Worth::Nothing);
    }

    #[test]
    fn after_a_leaders_death_an_equal_state_is_shown_again() {
        let mut known = recorded(&put(5, &[("match_event", "GOAL")]));
        let again = put(7, &[("match_event", "GOAL")]);
        assert!(matches!(known.judge(&again, false), Worth::Push(_)));
        assert_eq!(
            known.judge(&put(8, &[("match_event", "GOAL")]), true),
            Worth::Feed
        );
    }

    #[test]
    fn the_end_is_for_those_whom_the_event_reached_and_comes_once() {
        let mut known = Known::default();
        known.judge(&put(1, &[]), true);
        let contents = [ContentId::new("final").unwrap()].into();
        assert_eq!(known.judge(&removed(2), true), Worth::End(contents));
        assert_eq!(known.judge(&removed(3), true), Worth::Feed);
    }

    #[test]
    fn an_event_that_comes_back_is_pushed_even_if_it_looks_as_it_did() {
        let mut known = Known::default();
        known.judge(&put(1, &[]), true);
        known.judge(&removed(2), true);
        assert!(matches!(known.judge(&put(3, &[]), true), Worth::Push(_)));
    }
}
