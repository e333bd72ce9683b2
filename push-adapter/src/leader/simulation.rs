//! Random histories of adapters that crash, sleep, lose their lease and their answers, over the real
//! decisions: `lease::Watched`, `course` and the store's lineage. The world stands in for DynamoDB, its
//! stream, the network and the fans; a process for the shell in `term`, `lease` and `reader`.
//!
//! A history follows from its seed alone. `TOUCHLINE_HISTORIES` says how many are run and
//! `TOUCHLINE_HISTORY` runs one; a history that breaks an invariant prints its seed.

mod fans;
mod history;
mod process;
mod stream;
mod world;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use history::History;

/// What can go wrong, and how often it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Crash,
    Duplicate,
    LostResponse,
    Theft,
    PauseBeforePost,
    Split,
    Trim,
    Throttle,
    Skew,
    SameMillisecond,
    NewStream,
    ExpiredIterator,
}

/// How often each fault struck.
type Struck = BTreeMap<Fault, u64>;

/// What keeps the invariants; each can be taken out, to show that it is what does.
#[derive(Debug, Clone, Copy)]
struct Guards {
    conditional_checkpoint: bool,
    early_stop: bool,
    children_after_parents: bool,
    gap_snapshot: bool,
    second_look: bool,
}

const ALL: Guards = Guards {
    conditional_checkpoint: true,
    early_stop: true,
    children_after_parents: true,
    gap_snapshot: true,
    second_look: true,
};

/// Histories a run, where nobody says otherwise.
const HISTORIES: u64 = 10_000;
/// Histories in which a guard's absence must show.
const HISTORIES_WITHOUT_GUARD: u64 = 20_000;
/// How often each fault must have struck for a run to mean something.
const STRUCK_MIN: u64 = 1_000;

/// Runs histories on both cores; gives how often each fault struck, or the first history that broke an
/// invariant.
fn run(histories: u64, guards: Guards) -> Result<Struck, (u64, String)> {
    let next = AtomicU64::new(0);
    let worker = || {
        let mut struck = Struck::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= histories {
                return Ok(struck);
            }
            match History::new(seed, guards).run() {
                Ok(more) => {
                    for (fault, count) in more {
                        *struck.entry(fault).or_default() += count;
                    }
                }
                Err(violation) => {
                    // The others need not go on.
                    next.store(histories, Ordering::Relaxed);
                    return Err((seed, violation));
                }
            }
        }
    };
    thread::scope(|scope| {
        let workers = [scope.spawn(worker), scope.spawn(worker)];
        let mut all = Struck::new();
        let mut broken = None;
        for done in workers {
            match done.join().expect("a worker reports what it finds") {
                Ok(struck) => {
                    for (fault, count) in struck {
                        *all.entry(fault).or_default() += count;
                    }
                }
                Err(violation) => broken = Some(violation),
            }
        }
        broken.map_or(Ok(all), Err)
    })
}

fn configured(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a test has no flags")]
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_fan_ends_behind_whatever_happens_to_the_leaders() {
    if let Some(seed) = configured("TOUCHLINE_HISTORY") {
        let run = History::new(seed, ALL).run_aloud();
        assert!(run.is_ok(), "history {seed}: {run:?}");
        return;
    }
    let histories = configured("TOUCHLINE_HISTORIES").unwrap_or(HISTORIES);
    match run(histories, ALL) {
        Ok(struck) => {
            println!("{histories} histories; faults struck: {struck:?}");
            for fault in history::FAULTS {
                let count = struck.get(&fault).copied().unwrap_or(0);
                let enough = STRUCK_MIN.min(histories / 10);
                assert!(count >= enough, "{fault:?} struck {count} times only");
            }
        }
        Err((seed, violation)) => panic!("TOUCHLINE_HISTORY={seed}: {violation}"),
    }
}

/// Takes a guard out and expects an invariant to break, with these words.
fn breaks(guards: Guards, words: &str) {
    let broken = run(HISTORIES_WITHOUT_GUARD, guards);
    let (seed, violation) = broken.expect_err("the guard's absence does not show");
    assert!(violation.contains(words), "history {seed}: {violation}");
}

#[test]
fn without_conditional_checkpoints_the_recorded_progress_goes_back() {
    let guards = Guards {
        conditional_checkpoint: false,
        ..ALL
    };
    breaks(guards, "recorded by a process that does not lead");
}

#[test]
fn without_the_early_stop_a_post_lands_under_another_leader() {
    let guards = Guards {
        early_stop: false,
        ..ALL
    };
    breaks(guards, "landed while another led");
}

#[test]
fn without_parents_before_children_a_fan_ends_behind() {
    let guards = Guards {
        children_after_parents: false,
        ..ALL
    };
    breaks(guards, "");
}

#[test]
fn without_the_snapshot_after_a_gap_a_fan_ends_behind() {
    let guards = Guards {
        gap_snapshot: false,
        ..ALL
    };
    breaks(guards, "ends on");
}

#[test]
fn without_the_second_look_a_fan_who_registered_meanwhile_ends_behind() {
    let guards = Guards {
        second_look: false,
        ..ALL
    };
    breaks(guards, "ends on");
}
