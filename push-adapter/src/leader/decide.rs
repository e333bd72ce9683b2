//! What a change is worth: fanned out, or for followers of the feed only. Pure.

use std::collections::{BTreeSet, HashMap, VecDeque};

use touchline_store::{
    change::{Change, ChangeKind},
    event::Version,
    ids::{ContentId, EventId},
    lease::{Applied, Progress},
    position::Position,
};

/// Ended events that are remembered, so that an older record does not bring one back.
const ENDED_MAX: usize = 10_000;

/// What is known of each event: the state that fans were last shown, or are being shown.
#[derive(Debug, Default)]
pub struct Known {
    events: HashMap<EventId, Event>,
    /// Events that ended, oldest first; some have begun again since.
    ended: VecDeque<EventId>,
    /// Whether everything that the last leader may have shown has been read.
    is_settled: bool,
}

#[derive(Debug)]
struct Event {
    position: Option<Position>,
    /// `None` once it ended.
    version: Option<Version>,
    /// Whom the newest state reaches; `None` where only the last leader's record is known.
    contents: Option<BTreeSet<ContentId>>,
    /// Whether it is recorded that fans may see the event.
    is_recorded: bool,
    /// Whether this term showed it. Of what the last leader recorded it is not known whether fans
    /// still see it: it may have fallen in the middle of a later state that it did not record.
    is_own: bool,
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
        let mut known = Self::default();
        for (event_id, applied) in &progress.applied {
            let event = Event {
                position: applied.position.clone(),
                version: applied.version.clone(),
                contents: None,
                is_recorded: applied.version.is_some(),
                is_own: false,
            };
            known.remember(event_id, event);
        }
        known
    }

    /// Says what a change is worth and remembers it.
    pub fn judge(&mut self, change: &Change) -> Worth {
        let known = self.events.get(&change.event_id);
        if let Some(known) = known
            && let (Some(new), Some(old)) = (&change.position, &known.position)
            && new.epoch() == old.epoch()
            && !new.is_after(old)
        {
            return Worth::Nothing;
        }
        let is_certain = self.is_settled || known.is_some_and(|known| known.is_own);
        let (version, contents, worth) = match &change.kind {
            ChangeKind::Put(state) => {
                let version = state.version();
                let is_same = known.is_some_and(|known| known.version.as_ref() == Some(&version));
                let worth = match is_same && is_certain {
                    true => Worth::Feed,
                    false => Worth::Push(version.clone()),
                };
                (Some(version), Some(state.contents.clone()), worth)
            }
            ChangeKind::Removed => {
                let is_on = known.is_some_and(|known| known.version.is_some());
                let contents = known.and_then(|known| known.contents.clone());
                // An event that nobody was shown needs no end.
                let worth = match is_on || !is_certain {
                    true => Worth::End(contents.unwrap_or_default()),
                    false => Worth::Feed,
                };
                (None, None, worth)
            }
        };
        // A row says nothing of its place; a state that is known by it keeps the one it has.
        let same = known.filter(|known| known.version == version);
        let position = change.position.clone();
        let event = Event {
            position: position.or_else(|| same.and_then(|known| known.position.clone())),
            is_recorded: version.is_some() && known.is_some_and(|known| known.is_recorded),
            version,
            contents,
            is_own: true,
        };
        self.remember(&change.event_id, event);
        worth
    }

    fn remember(&mut self, event_id: &EventId, event: Event) {
        if event.version.is_none() {
            self.ended.push_back(event_id.clone());
        }
        self.events.insert(event_id.clone(), event);
        while self.ended.len() > ENDED_MAX {
            let oldest = self.ended.pop_front().expect("it is longer than nothing");
            let is_ended = |event: &Event| event.version.is_none();
            if self.events.get(&oldest).is_some_and(is_ended) {
                self.events.remove(&oldest);
            }
        }
    }

    /// Whether an event is on of which nothing is recorded yet; it counts as recorded from now on.
    /// Whoever leads next must know that fans may see it, or its end could be missed with the record of
    /// it.
    pub fn announce(&mut self, event_id: &EventId) -> bool {
        match self.events.get_mut(event_id) {
            Some(event) if event.version.is_some() && !event.is_recorded => {
                event.is_recorded = true;
                true
            }
            _ => false,
        }
    }

    /// Whether an event is on.
    pub fn is_on(&self, event_id: &EventId) -> bool {
        let event = self.events.get(event_id);
        event.is_some_and(|event| event.version.is_some())
    }

    /// The stream was read to its tip, and with it all that the last leader may have shown.
    pub fn settle(&mut self) {
        self.is_settled = true;
    }

    /// Learns whom an event's row reaches, which the last leader's record does not say.
    pub fn reaches(&mut self, event_id: &EventId, contents: &BTreeSet<ContentId>) {
        if let Some(event) = self.events.get_mut(event_id) {
            event.contents.get_or_insert_with(|| contents.clone());
        }
    }

    /// Where the row's state stands, if it is the one that was last applied.
    pub fn position(&self, event_id: &EventId, version: &Version) -> Option<&Position> {
        let event = self.events.get(event_id)?;
        event
            .position
            .as_ref()
            .filter(|_| event.version.as_ref() == Some(version))
    }

    /// Whether the newest known state of the event is this version.
    pub fn is(&self, event_id: &EventId, version: &Version) -> bool {
        let event = self.events.get(event_id);
        event.is_some_and(|event| event.version.as_ref() == Some(version))
    }

    /// Events that are on as far as is known.
    pub fn events(&self) -> impl Iterator<Item = &EventId> {
        let events = self.events.iter();
        events
            .filter(|(_, event)| event.version.is_some())
            .map(|(event_id, _)| event_id)
    }
}

/// What is recorded of a change once it is through.
pub fn applied(change: &Change) -> (EventId, Applied) {
    let version = match &change.kind {
        ChangeKind::Put(state) => Some(state.version()),
        ChangeKind::Removed => None,
    };
    let position = change.position.clone();
    (change.event_id.clone(), Applied { position, version })
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
            heard: Default::default(),
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
            applied: [applied(change)].into(),
        })
    }

    /// Of a term that has read everything.
    fn settled() -> Known {
        let mut known = Known::default();
        known.settle();
        known
    }

    #[test]
    fn display_attributes_alone_are_for_the_feed() {
        let mut known = Known::default();
        let goal = put(1, &[("match_event", "GOAL")]);
        assert!(matches!(known.judge(&goal), Worth::Push(_)));
        let clock = put(2, &[("match_event", "GOAL"), ("display_clock", "23'")]);
        assert_eq!(known.judge(&clock), Worth::Feed);
        assert!(matches!(
            known.judge(&put(3, &[("match_event", "THROW")])),
            Worth::Push(_)
        ));
    }

    #[test]
    fn what_was_applied_before_is_worth_nothing() {
        let goal = put(5, &[("match_event", "GOAL")]);
        let mut known = recorded(&goal);
        assert_eq!(known.judge(&goal), Worth::Nothing);
        assert_eq!(known.judge(&put(4, &[("a", "b")])), Worth::Nothing);
    }

    #[test]
    fn after_a_leaders_death_an_equal_state_is_shown_again() {
        let mut known = recorded(&put(5, &[("match_event", "GOAL")]));
        let again = put(7, &[("match_event", "GOAL")]);
        assert!(matches!(known.judge(&again), Worth::Push(_)));
        assert_eq!(
            known.judge(&put(8, &[("match_event", "GOAL")])),
            Worth::Feed
        );
    }

    #[test]
    fn the_end_is_for_those_whom_the_event_reached_and_comes_once() {
        let mut known = Known::default();
        known.judge(&put(1, &[]));
        let contents = [ContentId::new("final").unwrap()].into();
        assert_eq!(known.judge(&removed(2)), Worth::End(contents));
        assert_eq!(known.judge(&removed(3)), Worth::Feed);
    }

    #[test]
    fn an_event_that_comes_back_is_pushed_even_if_it_looks_as_it_did() {
        let mut known = Known::default();
        known.judge(&put(1, &[]));
        known.judge(&removed(2));
        assert!(matches!(known.judge(&put(3, &[])), Worth::Push(_)));
    }

    #[test]
    fn an_end_that_the_last_leader_may_have_begun_is_told_again_until_all_is_read() {
        let mut known = recorded(&removed(5));
        assert_eq!(known.judge(&removed(5)), Worth::Nothing);
        assert_eq!(known.judge(&removed(7)), Worth::End(BTreeSet::new()));
        let mut unknown = Known::default();
        assert!(matches!(unknown.judge(&removed(1)), Worth::End(_)));
        assert_eq!(settled().judge(&removed(1)), Worth::Feed);
    }

    #[test]
    fn an_older_record_does_not_bring_an_ended_event_back() {
        let mut known = recorded(&removed(5));
        assert_eq!(known.judge(&put(4, &[])), Worth::Nothing);
        assert_eq!(known.events().count(), 0);
    }

    #[test]
    fn a_state_that_was_shown_from_its_row_is_not_shown_again_by_its_record() {
        let mut known = Known::default();
        let row = Change {
            position: None,
            ..put(0, &[("match_event", "GOAL")])
        };
        assert!(matches!(known.judge(&row), Worth::Push(_)));
        let record = put(9, &[("match_event", "GOAL")]);
        assert_eq!(known.judge(&record), Worth::Feed);
        assert_eq!(known.judge(&row), Worth::Feed);
        let event_id = EventId::new("1").unwrap();
        let Worth::Push(version) = settled().judge(&record) else {
            panic!("a first state is shown");
        };
        assert_eq!(
            known.position(&event_id, &version),
            record.position.as_ref()
        );
    }

    #[test]
    fn ended_events_are_remembered_in_bounds() {
        let mut known = settled();
        for event in 0..=ENDED_MAX {
            let event_id = EventId::new(event.to_string()).unwrap();
            let change = |kind| Change {
                event_id: event_id.clone(),
                position: None,
                kind,
                heard: Default::default(),
            };
            known.judge(&change(ChangeKind::Removed));
        }
        assert_eq!(known.events.len(), ENDED_MAX);
    }
}
