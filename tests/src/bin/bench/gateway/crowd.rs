//! Fans in a process of their own, from the side of the measurement: what they are told, and what they
//! say. They judge what they are shown themselves, and end with an error.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command as Process},
    time::timeout,
};

/// Longer than the fans themselves wait before they say who is missing something.
const PATIENCE: Duration = Duration::from_secs(90);

/// What fans are told; each is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Command {
    /// Connect until there are so many: [`Said::Connected`].
    Connect {
        /// How many.
        fans: usize,
    },
    /// A change is about to be made: [`Said::Ready`], and [`Said::Done`] once everybody who reads has
    /// it.
    Expect {
        /// Its number.
        change: u32,
        /// The number of its state.
        state: usize,
    },
    /// Those who may stall no longer read: [`Said::Ready`].
    Stall,
    /// They read again: [`Said::Ready`] once they have the newest change.
    Resume,
    /// Write what is shown to a file, from now on: [`Said::Ready`].
    Record {
        /// Which file.
        path: std::path::PathBuf,
    },
    /// The file is complete: [`Said::Ready`].
    Recorded,
    /// All connections are lost at once, [`Said::Ready`], and everybody comes back:
    /// [`Said::Returned`].
    Return {
        /// Whether they say which set they show.
        with_set_id: bool,
    },
    /// Say what was received so far: [`Said::Report`].
    Report,
}

/// What fans say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Said {
    /// What was told is done.
    Ready,
    /// All are connected and registered.
    Connected,
    /// Everybody who reads has this change.
    Done(Done),
    /// Everybody has come back and is shown the newest change.
    Returned(Returned),
    /// What was received so far.
    Report(Report),
}

/// A change that everybody who reads has.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Done {
    /// Its number.
    pub(super) change: u32,
    /// When the last of those who never stall had it, in nanoseconds since 1970.
    pub(super) healthy_unix_ns: u64,
    /// When the last of all who read had it.
    pub(super) last_unix_ns: u64,
    /// Messages of it.
    pub(super) frames: u64,
}

/// How a crowd came back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Returned {
    /// From the loss of all connections until a fan was shown the newest change: each fan's.
    pub(super) each_us: Vec<u64>,
    /// Connections that were refused or closed, and tried again.
    pub(super) refused: u64,
}

/// What was received so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    /// Messages with an event's state, to fans of protocol 1.
    pub(super) first: u64,
    /// The same of protocol 2, answers to registrations included.
    pub(super) second: u64,
    /// Pings.
    pub(super) pings: u64,
    /// Changes that were left out for somebody who did not read.
    pub(super) left_out: u64,
    /// Answers to registrations that repeated a push.
    pub(super) repeats: u64,
    /// Connections that the server closed.
    pub(super) closed: u64,
    /// Bytes of messages with an event's state.
    pub(super) bytes: u64,
}

impl Report {
    /// Messages with an event's state.
    pub(super) fn states(&self) -> u64 {
        self.first + self.second
    }
}

/// Which fans there are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kinds {
    /// One in so many speaks protocol 1; 0: nobody.
    pub(super) first_every: usize,
    /// One in so many stalls when told; 0: nobody.
    pub(super) stalling_every: usize,
}

/// The process; the fans leave when it is dropped.
#[derive(Debug)]
pub(super) struct Crowd {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// What was told so far.
    pub(super) newest: u32,
}

impl Crowd {
    /// Starts it; nobody is connected yet. A bare server's messages stand at no position.
    pub(super) fn start(
        (address, path): (SocketAddr, &str),
        book: &Path,
        kinds: Kinds,
        is_positioned: bool,
    ) -> Result<Self> {
        let mut process = Process::new(std::env::current_exe()?);
        process
            .args(["crowd", "--path", path, "--address", &address.to_string()])
            .arg("--book")
            .arg(book)
            .args(["--first-every", &kinds.first_every.to_string()])
            .args(["--stalling-every", &kinds.stalling_every.to_string()]);
        if !is_positioned {
            process.arg("--unpositioned");
        }
        let mut child = process
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take().context("standard input is piped")?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        Ok(Self {
            child,
            stdin,
            lines: BufReader::new(stdout).lines(),
            newest: 0,
        })
    }

    /// Tells them something, without waiting for the answer.
    async fn tell(&mut self, command: &Command) -> Result<()> {
        let line = serde_json::to_string(command)? + "\n";
        let told = self.stdin.write_all(line.as_bytes()).await;
        if told.is_err() {
            self.ended().await?;
        }
        Ok(self.stdin.flush().await?)
    }

    /// Tells them something, and gives the answer.
    async fn ask(&mut self, command: &Command) -> Result<Said> {
        self.tell(command).await?;
        self.next().await
    }

    /// What they say next.
    async fn next(&mut self) -> Result<Said> {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.context("the fans say nothing")??;
        match line {
            Some(line) => Ok(serde_json::from_str(&line)?),
            None => self.ended().await,
        }
    }

    /// They never end before they are dropped, unless something is wrong.
    async fn ended<T>(&mut self) -> Result<T> {
        let status = timeout(PATIENCE, self.child.wait()).await??;
        bail!("the fans ended, for the reason that they gave: {status}")
    }

    /// Tells them something that is done at once.
    async fn order(&mut self, command: &Command) -> Result<()> {
        match self.ask(command).await? {
            Said::Ready => Ok(()),
            said => bail!("{said:?} as the answer to {command:?}"),
        }
    }

    /// Connects fans until there are so many, all of them registered.
    pub(super) async fn connect(&mut self, fans: usize) -> Result<()> {
        match self.ask(&Command::Connect { fans }).await? {
            Said::Connected => Ok(()),
            said => bail!("{said:?} instead of fans who are connected"),
        }
    }

    /// Says that the next change is about to be made, and gives its number.
    pub(super) async fn expect(&mut self, state: usize) -> Result<u32> {
        self.newest += 1;
        let change = self.newest;
        self.order(&Command::Expect { change, state }).await?;
        Ok(change)
    }

    /// Waits until everybody who reads has the change that was expected last.
    pub(super) async fn done(&mut self) -> Result<Done> {
        match self.next().await? {
            Said::Done(done) if done.change == self.newest => Ok(done),
            said => bail!("{said:?} instead of change {}", self.newest),
        }
    }

    /// Those who may stall no longer read.
    pub(super) async fn stall(&mut self) -> Result<()> {
        self.order(&Command::Stall).await
    }

    /// They read again, until they have the newest change.
    pub(super) async fn resume(&mut self) -> Result<()> {
        self.order(&Command::Resume).await
    }

    /// Writes what is shown from now on to a file.
    pub(super) async fn record(&mut self, path: &Path) -> Result<()> {
        let path = path.to_owned();
        self.order(&Command::Record { path }).await
    }

    /// The file is complete when this returns.
    pub(super) async fn recorded(&mut self) -> Result<()> {
        self.order(&Command::Recorded).await
    }

    /// All connections are lost at once, which they are when this returns, and everybody comes back.
    pub(super) async fn lose_all(&mut self, with_set_id: bool) -> Result<()> {
        self.order(&Command::Return { with_set_id }).await
    }

    /// Waits until everybody is back and is shown the newest change.
    pub(super) async fn returned(&mut self) -> Result<Returned> {
        match self.next().await? {
            Said::Returned(returned) => Ok(returned),
            said => bail!("{said:?} instead of fans who are back"),
        }
    }

    /// What was received so far.
    pub(super) async fn report(&mut self) -> Result<Report> {
        match self.ask(&Command::Report).await? {
            Said::Report(report) => Ok(report),
            said => bail!("{said:?} instead of a report"),
        }
    }
}
