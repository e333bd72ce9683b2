//! Fans who come back, in a process of their own, from the side of the measurement: what they are told,
//! what they say, and a record of it for whoever waits. They judge what they are shown themselves, and
//! end with an error.

use std::{convert::Infallible, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command as Process},
    sync::{Mutex, watch},
    time::timeout,
};

/// Longer than the fans themselves wait before they say who is missing something.
const PATIENCE: Duration = Duration::from_secs(90);

/// What fans are told; each is answered with [`Said::Taken`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(in crate::gateway) enum Command {
    /// Connect.
    Connect {
        /// How many.
        fans: usize,
    },
    /// A change is about to be made.
    Announce {
        /// Its number.
        change: u32,
        /// The number of its state.
        state: usize,
        /// Whether everybody has to be shown it: [`Said::All`].
        all: bool,
    },
    /// The load balancer sends fans to a front, or does no longer.
    Balance {
        /// Which front.
        front: usize,
        /// Whether it does.
        is_up: bool,
    },
    /// A front is about to be stopped: what happens from now on is reported.
    Stop {
        /// Which front.
        front: usize,
    },
    /// Everybody goes to the front that is theirs when all are spread evenly.
    Spread,
    /// Say when everybody shows what the newest change shows: [`Said::Settled`].
    Settle,
    /// Say what happened: [`Said::Report`]. Nobody's connection may be lost from now on.
    Report,
}

/// What fans say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(in crate::gateway) enum Said {
    /// What was told last was taken.
    Taken,
    /// A fan of protocol 2 is shown a change that is newer than any before.
    First {
        /// Its number.
        change: u32,
    },
    /// Everybody is shown a change.
    All {
        /// Its number.
        change: u32,
    },
    /// Everybody shows what the newest change shows.
    Settled,
    /// What happened since the last report.
    Report(Report),
}

/// What fans noticed of a front that was stopped.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(in crate::gateway) struct Report {
    /// Connections that were lost.
    pub(in crate::gateway) lost: u64,
    /// Those of them who were told when to come back.
    pub(in crate::gateway) told: u64,
    /// Attempts to come back that failed.
    pub(in crate::gateway) failed: u64,
    /// From the loss until the next connection was open, in microseconds.
    pub(in crate::gateway) away_us: Vec<u64>,
    /// From the loss until what was newest was shown; of protocol 2.
    pub(in crate::gateway) behind_us: Vec<u64>,
    /// The part of it in which a connection was open.
    pub(in crate::gateway) welcome_us: Vec<u64>,
    /// Messages of changes that the front that was stopped brought after it was told to.
    pub(in crate::gateway) served: u64,
    /// Messages of protocol 2 of what was shown already, and of what is older, by another front; a
    /// client leaves them.
    pub(in crate::gateway) repeats: u64,
    pub(in crate::gateway) older: u64,
    /// Errors in place of a set, which follows.
    pub(in crate::gateway) errors: u64,
    /// Messages with an event's state that each front's process has brought since it was started.
    pub(in crate::gateway) received: Vec<u64>,
}

impl Report {
    /// Nothing has happened at so many fronts.
    pub(in crate::gateway) fn new(fronts: usize) -> Self {
        Self {
            received: vec![0; fronts],
            ..Self::default()
        }
    }

    /// The one after this.
    pub(in crate::gateway) fn next(&self) -> Self {
        Self {
            received: self.received.clone(),
            ..Self::default()
        }
    }
}

/// What fans have said so far.
#[derive(Debug, Default)]
struct Record {
    taken: u64,
    first: u32,
    all: u32,
    settled: u64,
    reports: Vec<Report>,
}

/// The process; the fans leave when it is dropped.
#[derive(Debug)]
pub(super) struct Crowd {
    /// With how much was told so far.
    told: Mutex<(ChildStdin, u64)>,
    record: watch::Sender<Record>,
    _child: Child,
}

/// What the process says, for whoever records it.
#[derive(Debug)]
pub(super) struct Voice(Lines<BufReader<ChildStdout>>);

impl Crowd {
    /// Starts it; nobody is connected yet.
    pub(super) fn start(
        addresses: [SocketAddr; 2],
        book: &Path,
        first_every: usize,
    ) -> Result<(Self, Voice)> {
        let addresses = addresses.map(|address| address.to_string()).join(",");
        let mut child = Process::new(std::env::current_exe()?)
            .args(["rovers", "--path", "/dev", "--addresses", &addresses])
            .arg("--book")
            .arg(book)
            .args(["--first-every", &first_every.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take().context("standard input is piped")?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let crowd = Self {
            told: Mutex::new((stdin, 0)),
            record: watch::Sender::default(),
            _child: child,
        };
        Ok((crowd, Voice(BufReader::new(stdout).lines())))
    }

    /// Records what they say, until they end, which is an error: their own says why.
    pub(super) async fn hear(&self, voice: &mut Voice) -> Result<Infallible> {
        while let Some(line) = voice.0.next_line().await? {
            let said = serde_json::from_str(&line)?;
            self.record.send_modify(|record| match said {
                Said::Taken => record.taken += 1,
                Said::First { change } => record.first = change,
                Said::All { change } => record.all = change,
                Said::Settled => record.settled += 1,
                Said::Report(report) => record.reports.push(report),
            });
        }
        bail!("the fans ended, for the reason that they gave")
    }

    /// Tells them something, and waits until it was taken.
    pub(super) async fn tell(&self, command: &Command) -> Result<()> {
        let number = {
            let mut told = self.told.lock().await;
            let (stdin, number) = &mut *told;
            let line = serde_json::to_string(command)? + "\n";
            stdin.write_all(line.as_bytes()).await?;
            stdin.flush().await?;
            *number += 1;
            *number
        };
        let taken = |record: &Record| (record.taken >= number).then_some(());
        self.wait("a command is taken", taken).await
    }

    /// Waits until somebody is shown this change.
    pub(super) async fn first(&self, change: u32) -> Result<()> {
        let first = |record: &Record| (record.first >= change).then_some(());
        self.wait("a change is shown to somebody", first).await
    }

    /// Waits until everybody is shown this change.
    pub(super) async fn all(&self, change: u32) -> Result<()> {
        let all = |record: &Record| (record.all >= change).then_some(());
        self.wait("a change is shown to everybody", all).await
    }

    /// Waits until everybody shows what the newest change shows.
    pub(super) async fn settle(&self) -> Result<()> {
        let before = self.record.borrow().settled;
        self.tell(&Command::Settle).await?;
        let settled = |record: &Record| (record.settled > before).then_some(());
        self.wait("everybody shows the newest state", settled).await
    }

    /// What happened since the last report.
    pub(super) async fn report(&self) -> Result<Report> {
        let before = self.record.borrow().reports.len();
        self.tell(&Command::Report).await?;
        let report = |record: &Record| record.reports.get(before).cloned();
        self.wait("a report", report).await
    }

    async fn wait<T>(&self, what: &str, look: impl Fn(&Record) -> Option<T>) -> Result<T> {
        let mut record = self.record.subscribe();
        let has_it = record.wait_for(|record| look(record).is_some());
        let has_it = timeout(PATIENCE, has_it).await;
        let has_it = has_it.with_context(|| format!("not within {PATIENCE:?}: {what}"))??;
        look(&has_it).context("it was there")
    }
}
