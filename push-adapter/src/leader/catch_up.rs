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
    /// Compares the rows, read under the lease with this counter and for the how-many-eth time, with
    /// what is known of the events.
    pub fn new(known: &Known, opened: Opened, read: (u64, u32)) -> Self {
        let stamp = Stamp {
            known,
            epoch: &opened.checkpoint.epoch,
            read,
        };
        let ended = known
            .events()
            .filter(|event_id| {
                !opened.rows.contains_key(*event_id) && !opened.unreadable.contains(*event_id)
            })
            .map(|event_id| stamp.change(event_id.clone(), ChangeKind::Removed));
        let ended: Vec<_> = ended.collect();
        let unseen = opened
            .rows
            .into_values()
            // What the last leader did show need not be shown again.
            .filter(|state| !opened.is_resumed || !known.is(&state.event_id, &state.version()))
            .map(|state| stamp.change(state.event_id.clone(), ChangeKind::Put(state)))
            .chain(ended)
            .collect();
        Self {
            began_at: opened.checkpoint,
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
}

/// The rows for the feed, in the order in which they were last applied.
pub fn newest(known: &Known, opened: &Opened, read: (u64, u32)) -> Vec<Change> {
    let stamp = Stamp {
        known,
        epoch: &opened.checkpoint.epoch,
        read,
    };
    let mut changes: Vec<_> = opened
        .rows
        .values()
        .map(|state| {
            let change = stamp.change(state.event_id.clone(), ChangeKind::Put(state.clone()));
            let position = known.position(&state.event_id, &state.version());
            Change {
                position: position.cloned().or(change.position),
                ..change
            }
        })
        .collect();
    changes.sort_by_key(|change| {
        let sequence = change.position.as_ref().map(Position::sequence);
        (change.position.is_none(), sequence.map(str::to_owned))
    });
    changes
}

/// Gives rows their place.
struct Stamp<'a> {
    known: &'a Known,
    epoch: &'a str,
    /// Counter of the lease, and number of the reading under it.
    read: (u64, u32),
}

impl Stamp<'_> {
    /// A row's state comes after the last one of its event that was applied, and after what an earlier
    /// holder of the lease read from the row; every record that was not read yet comes after it.
    fn change(&self, event_id: EventId, kind: ChangeKind) -> Change {
        let last = self.known.last(&event_id);
        let last = last.filter(|last| last.epoch() == self.epoch);
        Change {
            position: Some(Position::of_row(self.epoch, last, self.read)),
            event_id,
            kind,
        }
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
                let position = change.position.as_ref().unwrap();
                (change.event_id.as_str(), text, !position.is_of_row())
            })
            .collect()
    }

    fn read(changes: Vec<Change>) -> Conflated {
        conflate(changes)
    }

    #[test]
    fn at_the_tip_a_record_comes_before_its_row_and_rows_without_a_record_are_shown() {
        let mut catch_up = CatchUp::new(
            &known(&[]),
            opened(&[("1", "b"), ("2", "x")], false),
            (1, 1),
        );
        let given = catch_up.take(read(vec![record("1", "a", 1), record("1", "b", 2)]), true);
        assert_eq!(
            shown(&given),
            [("1", Some("b"), true), ("2", Some("x"), false)]
        );
        assert_eq!(given.dropped, 1);
    }

    #[test]
    fn before_the_tip_the_rows_are_shown_once_and_nothing_older() {
        let mut catch_up = CatchUp::new(&known(&[]), opened(&[("1", "c")], true), (1, 1));
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
        let mut resumed = CatchUp::new(&known, opened(&[("1", "a")], true), (1, 1));
        assert_eq!(shown(&resumed.take(Conflated::default(), true)), []);
        let mut anew = CatchUp::new(&known, opened(&[("1", "a")], false), (1, 1));
        let given = anew.take(Conflated::default(), true);
        assert_eq!(shown(&given), [("1", Some("a"), false)]);
    }

    #[test]
    fn an_event_without_a_row_has_ended_unless_its_row_cannot_be_read() {
        let known = known(&[record("1", "a", 5), record("2", "b", 6)]);
        let mut opened = opened(&[], true);
        opened.unreadable.insert(EventId::new("2").unwrap());
        let given = CatchUp::new(&known, opened, (1, 1)).take(Conflated::default(), true);
        assert_eq!(shown(&given), [("1", None, false)]);
    }

    #[test]
    fn the_feed_gets_rows_in_the_order_in_which_they_changed() {
        let known = known(&[
            record("1", "a", 9),
            record("2", "b", 3),
            record("3", "c", 1),
        ]);
        let opened = opened(&[("1", "a"), ("2", "b"), ("3", "other")], true);
        let order: Vec<_> = newest(&known, &opened, (1, 1))
            .iter()
            .map(|change| change.event_id.to_string())
            .collect();
        assert_eq!(order, ["3", "2", "1"]);
    }

    #[test]
    fn a_row_comes_after_what_was_applied_and_before_what_is_not_read_yet() {
        let applied = record("1", "a", 9);
        let known = known(std::slice::from_ref(&applied));
        let row = |counter| {
            let mut catch_up = CatchUp::new(&known, opened(&[("1", "b")], true), (counter, 1));
            let given = catch_up.take(Conflated::default(), true);
            given.changes[0].position.clone().unwrap()
        };
        assert!(row(3).is_after(&applied.position.unwrap()));
        assert!(row(12).is_after(&row(3)), "a later holder read it later");
        assert!(record("1", "c", 10).position.unwrap().is_after(&row(12)));
    }
}
