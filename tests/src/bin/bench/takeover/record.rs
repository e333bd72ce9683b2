//! What fans and a watcher of the event have come to, for whoever waits for it. Judges nothing but
//! whether a repeat has a kill to excuse it.

use std::{
    convert::Infallible,
    process::Stdio,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::watch,
};
use touchline_client::{Client, Watched};

use super::{
    fans::{Moment, Repeat, Said},
    spelling,
};
use crate::{load::unix_ns, system::DEADLINE};

/// What was posted before a kill is received so much later at most.
const UNDER_WAY_MAX: Duration = Duration::from_secs(1);

/// Everything that was received so far.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Whether every fan is registered.
    pub(super) is_registered: bool,
    /// When the first fan had each state that was new to all; numbers and times rise.
    pub(super) first: Vec<Moment>,
    /// When the last fan had it or a newer one.
    pub(super) all: Vec<Moment>,
    /// States that a fan was shown twice in a row.
    pub(super) repeats: Vec<Repeat>,
    /// What a watcher of the event saw, in turn.
    pub(super) watched: Vec<Sight>,
}

/// A state that a watcher saw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight {
    /// The state's number.
    pub(super) number: u32,
    /// In nanoseconds since 1970.
    pub(super) unix_ns: u64,
    /// Whether the server had it from the change feed, and not from the row.
    pub(super) is_fed: bool,
}

impl Record {
    /// The repeats that count: not those of what fans were shown while they came.
    pub(super) fn repeats(&self) -> impl Iterator<Item = &Repeat> {
        self.repeats.iter().filter(|repeat| repeat.number > 0)
    }

    /// The first sight of a state that is newer than this one.
    pub(super) fn sight_after(&self, number: u32, is_fed: bool) -> Option<Sight> {
        let mut sights = self.watched.iter();
        let newer = sights.find(|sight| sight.number > number && sight.is_fed >= is_fed);
        newer.copied()
    }

    /// Whether each repeat has a leader's death to excuse it.
    pub(super) fn check_repeats(&self, kills_unix_ns: &[u64]) -> Result<()> {
        let Some(repeat) = self
            .repeats()
            .find(|repeat| !is_excused(repeat, kills_unix_ns))
        else {
            return Ok(());
        };
        let after_ms = repeat.unix_ns.saturating_sub(repeat.last_unix_ns) / 1_000_000;
        let Repeat { fan, number, .. } = repeat;
        bail!("fan {fan} was shown state {number} again after {after_ms} ms, with no kill between")
    }
}

/// Whether one of these moments of a kill lies between the two showings.
fn is_excused(repeat: &Repeat, kills_unix_ns: &[u64]) -> bool {
    let under_way = u64::try_from(UNDER_WAY_MAX.as_nanos()).unwrap_or(u64::MAX);
    let lies_between = |kill: &u64| {
        *kill <= repeat.unix_ns && repeat.last_unix_ns <= kill.saturating_add(under_way)
    };
    kills_unix_ns.iter().any(lies_between)
}

/// The first moment of a state that is newer than this one.
pub(super) fn after(moments: &[Moment], number: u32) -> Option<Moment> {
    let at = moments.partition_point(|moment| moment.number <= number);
    moments.get(at).copied()
}

/// Waits until the record has something.
pub(super) async fn wait<T>(
    record: &watch::Sender<Record>,
    what: &str,
    look: impl Fn(&Record) -> Option<T>,
) -> Result<T> {
    let mut record = record.subscribe();
    let has_it = record.wait_for(|record| look(record).is_some());
    let has_it = tokio::time::timeout(DEADLINE, has_it).await;
    let has_it = has_it.with_context(|| format!("not within {DEADLINE:?}: {what}"))??;
    look(&has_it).context("it was there")
}

/// Fans in a process of their own; they leave when it is dropped.
#[derive(Debug)]
pub(super) struct Fans {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
    _stdin: Option<ChildStdin>,
}

impl Fans {
    /// Starts connecting fans.
    pub(super) fn start(gateway: &str, fans: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["fans", "--gateway", gateway, "--fans", &fans.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        Ok(Self {
            lines: BufReader::new(stdout).lines(),
            _stdin: child.stdin.take(),
            _child: child,
        })
    }

    /// Records what they say, until they end, which is an error: their own says why.
    pub(super) async fn hear(&mut self, record: &watch::Sender<Record>) -> Result<Infallible> {
        while let Some(line) = self.lines.next_line().await? {
            let said = serde_json::from_str(&line)?;
            record.send_modify(|record| match said {
                Said::Registered => record.is_registered = true,
                Said::First(moment) => record.first.push(moment),
                Said::All(moment) => record.all.push(moment),
                Said::Again(repeat) => record.repeats.push(repeat),
            });
        }
        bail!("the fans ended, for the reason that they gave")
    }
}

/// Records what a watcher of the event sees, who must never see an older state.
pub(super) async fn watch(
    client: &Client,
    event: &str,
    record: &watch::Sender<Record>,
) -> Result<Infallible> {
    let mut watch = client.watch(event, None);
    let mut newest = 0;
    while let Some(watched) = watch.next().await {
        let Watched::State { state, .. } = watched? else {
            continue;
        };
        let number = spelling::number_of_state(|name| state.attributes.get(name).map(|v| &**v));
        let number = number.with_context(|| format!("not a state of this run: {state:?}"))?;
        let is_newer = number >= newest;
        ensure!(is_newer, "a watcher saw state {number} after {newest}");
        newest = number;
        let sight = Sight {
            number,
            unix_ns: unix_ns(SystemTime::now()),
            is_fed: state.position.is_some(),
        };
        record.send_modify(|record| record.watched.push(sight));
    }
    bail!("the watch ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_repeat_is_excused_by_a_kill_between_the_two() {
        let repeat = Repeat {
            fan: 1,
            number: 1,
            last_unix_ns: 10 * SECOND,
            unix_ns: 13 * SECOND,
        };
        assert!(is_excused(&repeat, &[2 * SECOND, 11 * SECOND]));
        assert!(is_excused(&repeat, &[9 * SECOND + SECOND / 2]), "under way");
        assert!(!is_excused(&repeat, &[8 * SECOND, 14 * SECOND]));
        assert!(!is_excused(&repeat, &[]));
    }

    #[test]
    fn the_next_newer_state_is_found() {
        let moments = [3, 5, 9].map(|number| Moment {
            number,
            unix_ns: 0,
            pushes: 0,
        });
        let next = |number| after(&moments, number).map(|moment| moment.number);
        assert_eq!(next(0), Some(3));
        assert_eq!(next(5), Some(9));
        assert_eq!(next(9), None);
    }
}
