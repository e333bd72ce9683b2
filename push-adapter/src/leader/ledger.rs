//! How far the leader came: batches of changes in the order of the stream, and what of them is still
//! being fanned out. The checkpoint never passes a change that a fan may still lack. Pure.

use std::collections::{HashMap, HashSet, VecDeque};

use touchline_store::{event::Version, ids::EventId, lease::Applied, stream::Checkpoint};

/// What a half-served state is recorded as: equal to no version, so that whoever leads next shows
/// the newest one.
pub fn half_served() -> Version {
    Version::from_text("half-served")
}

/// The batches that are not recorded yet.
#[derive(Debug, Default)]
pub struct Ledger {
    batches: VecDeque<Batch>,
    opened: u64,
}

#[derive(Debug)]
struct Batch {
    number: u64,
    checkpoint: Checkpoint,
    applied: HashMap<EventId, Applied>,
    in_flight: HashSet<EventId>,
}

/// What can be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The stream was read to here, and all of it is through.
    pub checkpoint: Checkpoint,
    /// What was applied since the last record.
    pub applied: Vec<(EventId, Applied)>,
}

/// How a fan-out ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every fan was served or cannot be.
    Complete,
    /// A newer state of the same event took over.
    Superseded,
}

impl Ledger {
    /// Notes a batch: what the stream's checkpoint was after it, what is recorded of its changes
    /// once they are through, and which of them are being fanned out. Returns its number.
    pub fn open(
        &mut self,
        checkpoint: Checkpoint,
        applied: impl IntoIterator<Item = (EventId, Applied)>,
        in_flight: impl IntoIterator<Item = EventId>,
    ) -> u64 {
        self.opened += 1;
        self.batches.push_back(Batch {
            number: self.opened,
            checkpoint,
            applied: applied.into_iter().collect(),
            in_flight: in_flight.into_iter().collect(),
        });
        self.merge();
        self.opened
    }

    /// Notes that a fan-out ended.
    pub fn finish(&mut self, number: u64, event_id: &EventId, ending: Ending) {
        let batch = self.batches.iter_mut().find(|batch| batch.number == number);
        let Some(batch) = batch else {
            return;
        };
        if batch.in_flight.remove(event_id)
            && ending == Ending::Superseded
            && let Some(applied) = batch.applied.get_mut(event_id)
        {
            applied.version = Some(half_served());
        }
        self.merge();
    }

    /// Takes out what can be recorded: the batches before the oldest one in flight.
    pub fn take_done(&mut self) -> Option<Done> {
        let mut done: Option<(Checkpoint, HashMap<EventId, Applied>)> = None;
        while let Some(batch) = self
            .batches
            .pop_front_if(|batch| batch.in_flight.is_empty())
        {
            let (checkpoint, applied) =
                done.get_or_insert_with(|| (batch.checkpoint.clone(), HashMap::new()));
            *checkpoint = batch.checkpoint;
            applied.extend(batch.applied);
        }
        done.map(|(checkpoint, applied)| Done {
            checkpoint,
            applied: applied.into_iter().collect(),
        })
    }

    /// How many batches are not recorded yet.
    #[cfg(test)]
    pub(super) fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Two neighbours that are through are one, so there are at most twice as many batches as
    /// fan-outs in flight.
    fn merge(&mut self) {
        let mut index = 1;
        while index < self.batches.len() {
            let through = |batch: &Batch| batch.in_flight.is_empty();
            if through(&self.batches[index - 1]) && through(&self.batches[index]) {
                let newer = self.batches.remove(index).expect("the index is in range");
                let older = &mut self.batches[index - 1];
                older.number = newer.number;
                older.checkpoint = newer.checkpoint;
                older.applied.extend(newer.applied);
            } else {
                index += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use touchline_store::{position::Position, stream::ShardProgress};

    use super::*;

    fn checkpoint(sequence: u64) -> Checkpoint {
        let after = ShardProgress::After(sequence.to_string());
        Checkpoint {
            epoch: "epoch".to_owned(),
            shards: BTreeMap::from([("shard".to_owned(), after)]),
        }
    }

    fn event(name: &str) -> EventId {
        EventId::new(name).unwrap()
    }

    fn applied(name: &str, sequence: u64) -> (EventId, Applied) {
        let applied = Applied {
            position: Some(Position::new("epoch", &sequence.to_string())),
            version: Some(Version::from_text(sequence.to_string())),
        };
        (event(name), applied)
    }

    #[test]
    fn the_checkpoint_waits_for_the_oldest_fan_out() {
        let mut ledger = Ledger::default();
        let first = ledger.open(checkpoint(1), [applied("a", 1)], [event("a")]);
        let second = ledger.open(checkpoint(2), [applied("b", 2)], [event("b")]);
        ledger.open(checkpoint(3), [applied("c", 3)], []);
        ledger.finish(second, &event("b"), Ending::Complete);
        assert_eq!(ledger.take_done(), None);
        ledger.finish(first, &event("a"), Ending::Complete);
        let done = ledger.take_done().unwrap();
        assert_eq!(done.checkpoint, checkpoint(3));
        assert_eq!(done.applied.len(), 3);
        assert_eq!(ledger.take_done(), None);
    }

    #[test]
    fn a_superseded_state_holds_nothing_up_and_is_recorded_as_half_served() {
        let mut ledger = Ledger::default();
        let first = ledger.open(checkpoint(1), [applied("a", 1)], [event("a")]);
        let second = ledger.open(checkpoint(2), [applied("a", 2)], [event("a")]);
        ledger.finish(first, &event("a"), Ending::Superseded);
        let done = ledger.take_done().unwrap();
        assert_eq!(done.checkpoint, checkpoint(1));
        let version = done.applied[0].1.version.clone();
        assert_eq!(version, Some(half_served()));
        ledger.finish(second, &event("a"), Ending::Complete);
        let done = ledger.take_done().unwrap();
        assert_eq!(done.applied, [applied("a", 2)]);
    }

    proptest! {
        #[test]
        fn the_checkpoint_never_passes_a_fan_out_and_catches_up_when_all_are_through(
            sizes in prop::collection::vec(0usize..3, 1..30),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..100),
        ) {
            let mut ledger = Ledger::default();
            let mut open = Vec::new();
            for (index, size) in sizes.iter().enumerate() {
                let sequence = index as u64 + 1;
                let events: Vec<_> = (0..*size).map(|n| event(&format!("{index}-{n}"))).collect();
                let number = ledger.open(checkpoint(sequence), [], events.clone());
                open.extend(events.into_iter().map(|event| (number, sequence, event)));
            }
            let mut recorded = 0;
            for pick in order {
                if open.is_empty() {
                    break;
                }
                let (number, _, event) = open.swap_remove(pick.index(open.len()));
                ledger.finish(number, &event, Ending::Complete);
                if let Some(done) = ledger.take_done() {
                    let ShardProgress::After(sequence) = &done.checkpoint.shards["shard"] else {
                        unreachable!();
                    };
                    let sequence: u64 = sequence.parse().unwrap();
                    prop_assert!(sequence > recorded);
                    recorded = sequence;
                    prop_assert!(open.iter().all(|(_, other, _)| *other > recorded));
                }
                prop_assert!(ledger.batches.len() <= 2 * open.len() + 1);
            }
            for (number, _, event) in open {
                ledger.finish(number, &event, Ending::Complete);
            }
            if let Some(done) = ledger.take_done() {
                prop_assert_eq!(done.checkpoint, checkpoint(sizes.len() as u64));
            } else {
                prop_assert_eq!(recorded, sizes.len() as u64);
            }
        }
    }
}
