//! Leaders that die at any moment, over the real decisions of `decide` and `ledger`: every fan ends
//! on the newest state. Does no I/O; stands in for the shell in `term`.

use std::collections::BTreeMap;

use proptest::prelude::*;
use touchline_store::{
    change::{Change, ChangeKind},
    event::{Attribute, EventState},
    ids::EventId,
    lease::Progress,
    position::Position,
    stream::{Checkpoint, ShardProgress},
};

use super::{
    decide::{Known, Worth, applied},
    ledger::{Ending, Ledger},
};

const FANS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// The producer writes one of a few states, so that old ones come back.
    Write(u8),
    /// The leader reads to the tip.
    Read,
    /// The fan-out that runs reaches one fan.
    Serve(usize),
    /// The fan-out that runs reaches everybody.
    Finish,
    /// What is through is recorded.
    Record,
    /// The leader dies; another one takes over from what was recorded.
    Die,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..3).prop_map(Step::Write),
        3 => Just(Step::Read),
        2 => (0..FANS).prop_map(Step::Serve),
        2 => Just(Step::Finish),
        2 => Just(Step::Record),
        1 => Just(Step::Die),
    ]
}

struct Leader {
    known: Known,
    ledger: Ledger,
    read: usize,
    certain: bool,
    running: Option<(u64, u8)>,
}

#[derive(Default)]
struct World {
    stream: Vec<u8>,
    fans: [Option<u8>; FANS],
    recorded: Progress,
}

fn event_id() -> EventId {
    EventId::new("1").unwrap()
}

fn change(index: usize, state: u8) -> Change {
    let text = Attribute::Text(state.to_string());
    Change {
        event_id: event_id(),
        position: Some(Position::new("epoch", &index.to_string())),
        kind: ChangeKind::Put(EventState {
            event_id: event_id(),
            attributes: BTreeMap::from([("match_event".to_owned(), text)]),
            contents: [].into(),
        }),
    }
}

fn checkpoint(read: usize) -> Checkpoint {
    let after = ShardProgress::After(read.to_string());
    Checkpoint {
        epoch: "epoch".to_owned(),
        shards: BTreeMap::from([("shard".to_owned(), after)]),
    }
}

impl World {
    fn leader(&self) -> Leader {
        let read =
            self.recorded.checkpoint.as_ref().map_or(
                0,
                |checkpoint| match &checkpoint.shards["shard"] {
                    ShardProgress::After(read) => read.parse().unwrap(),
                    other => panic!("{other:?}"),
                },
            );
        Leader {
            known: Known::new(&self.recorded),
            ledger: Ledger::default(),
            read,
            certain: false,
            running: None,
        }
    }

    fn take(&mut self, leader: &mut Leader, step: &Step) {
        match step {
            Step::Write(state) => self.stream.push(*state),
            Step::Read => self.read(leader),
            Step::Serve(fan) => {
                if let Some((_, state)) = leader.running {
                    self.fans[*fan] = Some(state);
                }
            }
            Step::Finish => {
                if let Some((batch, state)) = leader.running.take() {
                    self.fans = [Some(state); FANS];
                    leader.ledger.finish(batch, &event_id(), Ending::Complete);
                }
            }
            Step::Record => {
                if let Some(done) = leader.ledger.take_done() {
                    self.recorded.checkpoint = Some(done.checkpoint);
                    self.recorded.applied.extend(done.applied);
                }
            }
            Step::Die => *leader = self.leader(),
        }
    }

    fn read(&self, leader: &mut Leader) {
        let tip = self.stream.len();
        let mut through = None;
        let mut push = None;
        if tip > leader.read {
            let state = self.stream[tip - 1];
            let change = change(tip, state);
            let worth = leader.known.judge(&change, leader.certain);
            if worth != Worth::Nothing {
                through = applied(&change);
            }
            push = matches!(worth, Worth::Push(_)).then_some(state);
        }
        leader.read = tip;
        leader.certain = true;
        let in_flight = push.map(|_| event_id());
        let batch = leader.ledger.open(checkpoint(tip), through, in_flight);
        if let Some(state) = push
            && let Some((older, _)) = leader.running.replace((batch, state))
        {
            leader.ledger.finish(older, &event_id(), Ending::Superseded);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_fan_ends_on_the_newest_state_whenever_leaders_die(
        steps in prop::collection::vec(step(), 0..60)
    ) {
        let mut world = World::default();
        let mut leader = world.leader();
        for step in steps.iter().chain(&[Step::Read, Step::Finish]) {
            world.take(&mut leader, step);
        }
        let newest = world.stream.last().copied();
        prop_assert_eq!(world.fans, [newest; FANS]);
    }
}
