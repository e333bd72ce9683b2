//! Between the opening of the stream and its tip: the rows that were read when it was opened are the
//! newest states, so nothing that the stream still holds of an earlier time is shown in between. Pure.

use std::collections::{BTreeMap, HashSet};

use touchline_store::{
    change::{Change, ChangeKind, Conflated, conflate},
    event::EventState,
    ids::EventId,
    position::Position,
    stream::Checkpoint,
};

use super::decide::Known;

/// A stream that was just opened, and what the rows said after that.
#[derive(Debug)]
pub struct Opened {
    /// Whether it goes on where the last leader stopped; otherwise the rows say what there is.
    pub is_resumed: bool,
    /// Where it begins.
    pub checkpoint: Checkpoint,
    /// The newest states.
    pub rows: BTreeMap<EventId, EventState>,
    /// Events that have a row which cannot be understood: fans keep what they see.
    pub unreadable: HashSet<EventId>,
}

/// What is held back until the stream is read to its tip.
#[derive(Debug)]
pub struct CatchUp {
    began_at: Checkpoint,
    /// What the rows say and fans may not have seen; taken once.
    unseen: Vec<Change>,
    /// The newest change of each event that was read.
    held: Vec<Change>,
}

impl CatchUp {
    /// Compares the rows with what is known of the events.
    pub fn new(known: &Known, opened: Opened) -> Self {
        let Opened {
            is_resumed,
            checkpoint,
            rows,
            unreadable,
        } = opened;
        let ended = known
            .events()
            .filter(|event_id| !rows.contains_key(*event_id) && !unreadable.contains(*event_id))
            .map(|event_id| of_row(event_id.clone(), ChangeKind::Removed));
        let ended: Vec<_> = ended.collect();
        let unseen = rows
            .into_values()
            // What the last leader did show need not be shown again.
            .filter(|state| !is_resumed || !known.is(&state.event_id, &state.version()))
            .map(|state| of_row(state.event_id.clone(), ChangeKind::Put(state)))
            .chain(ended)
            .collect();
        Self {
            began_at: checkpoint,
            unseen,
            held: Vec::new(),
        }
    }

    /// Where the stream began: what was read since is not through.
    pub fn began_at(&self) -> &Checkpoint {
        &self.began_at
    }

    /// Takes what was read, and gives what can be shown: at the tip everything, an event's record
    /// before its row, since the record says where the state stands; before the tip what the rows
    /// say, once.
    pub fn take(&mut self, read: Conflated, is_at_tip: bool) -> Conflated {
        self.held.extend(read.changes);
        let held = conflate(std::mem::take(&mut self.held));
        let dropped = read.dropped + held.dropped;
        let mut unseen = std::mem::take(&mut self.unseen);
        let changes = if is_at_tip {
            let events: HashSet<_> = held.changes.iter().map(|change| &change.event_id).collect();
            unseen.retain(|change| !events.contains(&change.event_id));
            let mut changes = held.changes;
            changes.extend(unseen);
            changes
        } else {
            self.held = held.changes;
            unseen
        };
        Conflated { changes, dropped }
    }

    /// How many changes it holds.
    #[cfg(test)]
    pub(super) fn remembers(&self) -> usize {
        self.unseen.len() + self.held.len()
    }
}

/// The rows for the feed, in the order in which they were last applied; those of which that is not
/// known come last, as the newest.
pub fn newest(known: &Known, rows: &BTreeMap<EventId, EventState>) -> Vec<Change> {
    let mut states: Vec<_> = rows.values().collect();
    states.sort_by_key(|state| {
        let position = known.position(&state.event_id, &state.version());
        let sequence = position.map(Position::sequence);
        (sequence.is_none(), sequence.map(str::to_owned))
    });
    states
        .into_iter()
        .map(|state| of_row(state.event_id.clone(), ChangeKind::Put(state.clone())))
        .collect()
}

fn of_row(event_id: EventId, kind: ChangeKind) -> Change {
    Change {
        event_id,
        position: None,
        kind,
        heard: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use touchline_store::{event::Attribute, lease::Progress};

    use super::{super::decide::applied, *};

    fn state(event: &str, text: &str) -> EventState {
        EventState {
            event_id: EventId::new(event).unwrap(),
            attributes: [("a".to_owned(), Attribute::Text(text.to_owned()))].into(),
            contents: [].into(),
        }
    }

    fn record(event: &str, text: &str, sequence: u32) -> Change {
        Change {
            event_id: EventId::new(event).unwrap(),
            position: Some(Position::new("epoch", &sequence.to_string())),
            kind: ChangeKind::Put(state(event, text)),
            heard: Default::default(),
        }
    }

    fn opened(rows: &[(&str, &str)], is_resumed: bool) -> Opened {
        let rows = rows.iter().map(|(event, text)| state(event, text));
        Opened {
            is_resumed,
            checkpoint: Checkpoint {
                epoch: "epoch".to_owned(),
                shards: [].into(),
            },
            rows: rows.map(|state| (state.event_id.clone(), state)).collect(),
            unreadable: HashSet::new(),
        }
    }

    fn known(changes: &[Change]) -> Known {
        Known::new(&Progress {
            checkpoint: None,
            applied: changes.iter().map(applied).collect(),
        })
    }

    /// Event, text (none: it ended) and whether it comes from a record.
    fn shown(conflated: &Conflated) -> Vec<(&str, Option<&str>, bool)> {
        let changes = conflated.changes.iter();
        changes
            .map(|change| {
                let text = match &change.kind {
                    ChangeKind::Put(state) => Some(state.attributes["a"].as_text()),
                    ChangeKind::Removed => None,
                };
                (change.event_id.as_str(), text, change.position.is_some())
            })
            .collect()
    }

    fn read(changes: Vec<Change>) -> Conflated {
        conflate(changes)
    }

    #[test]
    fn at_the_tip_a_record_comes_before_its_row_and_rows_without_a_record_are_shown() {
        let mut catch_up = CatchUp::new(&known(&[]), opened(&[("1", "b"), ("2", "x")], false));
        let given = catch_up.take(read(vec![record("1", "a", 1), record("1", "b", 2)]), true);
        assert_eq!(
            shown(&given),
            [("1", Some("b"), true), ("2", Some("x"), false)]
        );
        assert_eq!(given.dropped, 1);
    }

    #[test]
    fn before_the_tip_the_rows_are_shown_once_and_nothing_older() {
        let mut catch_up = CatchUp::new(&known(&[]), opened(&[("1", "c")], true));
        let given = catch_up.take(read(vec![record("1", "a", 1)]), false);
        assert_eq!(shown(&given), [("1", Some("c"), false)]);
        let given = catch_up.take(read(vec![record("1", "b", 2), record("2", "x", 3)]), false);
        assert_eq!(shown(&given), []);
        let given = catch_up.take(read(vec![record("1", "c", 4)]), true);
        assert_eq!(
            shown(&given),
            [("2", Some("x"), true), ("1", Some("c"), true)]
        );
    }

    #[test]
    fn what_the_last_leader_showed_is_not_shown_again_when_its_place_is_known() {
        let known = known(&[record("1", "a", 5)]);
        let mut resumed = CatchUp::new(&known, opened(&[("1", "a")], true));
        assert_eq!(shown(&resumed.take(Conflated::default(), true)), []);
        let mut anew = CatchUp::new(&known, opened(&[("1", "a")], false));
        let given = anew.take(Conflated::default(), true);
        assert_eq!(shown(&given), [("1", Some("a"), false)]);
    }

    #[test]
    fn an_event_without_a_row_has_ended_unless_its_row_cannot_be_read() {
        let known = known(&[record("1", "a", 5), record("2", "b", 6)]);
        let mut opened = opened(&[], true);
        opened.unreadable.insert(EventId::new("2").unwrap());
        let given = CatchUp::new(&known, opened).take(Conflated::default(), true);
        assert_eq!(shown(&given), [("1", None, false)]);
    }

    #[test]
    fn the_feed_gets_rows_in_the_order_in_which_they_changed_the_unknown_ones_last() {
        let known = known(&[
            record("1", "a", 9),
            record("2", "b", 3),
            record("3", "c", 1),
        ]);
        let rows = opened(&[("1", "a"), ("2", "b"), ("3", "other")], true).rows;
        let order: Vec<_> = newest(&known, &rows)
            .iter()
            .map(|change| change.event_id.to_string())
            .collect();
        assert_eq!(order, ["2", "1", "3"]);
    }
}
