//! Fans who come back: each is a well-behaved client (docs/websocket.md, "Coming back") of several fronts
//! behind a load balancer. A front that ends a connection though nobody stopped it is a fault, and so is
//! whatever is wrong with a message. Stops no front itself.

mod conversation;
mod notice;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mio::{Registry, Token, event};
use serde::Deserialize;
use touchline_runtime::backoff::Backoff;

use super::{
    Told,
    account::Account,
    book,
    connection::{Connection, Ended},
    drive,
    judge::{Judge, Protocol},
    say,
};
use crate::gateway::restart::crowd::{Command, Report, Said};
use notice::Away;

/// Pauses before the next attempt, where nobody said when to come back.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Whatever was told is done within it, or it is a fault.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often it is looked whether everybody shows the newest state.
const LOOK: Duration = Duration::from_millis(20);

/// What is read at once.
const BUFFER_BYTES: usize = 64 * 1_024;

/// Fans that are named when something is missing.
const NAMED_MAX: usize = 5;

/// Where fans connect and what they have to be shown.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Addresses of the fronts, separated by commas
    #[arg(long, value_delimiter = ',')]
    addresses: Vec<SocketAddr>,
    /// Path of the fans' WebSocket
    #[arg(long)]
    path: String,
    /// File of a book: what each consumer is shown; fan N is the consumer at that place
    #[arg(long)]
    book: PathBuf,
    /// One fan in so many speaks protocol 1; 0 for nobody
    #[arg(long)]
    first_every: usize,
}

/// What a front says that shall be come back to later.
#[derive(Debug, Deserialize)]
struct Later {
    retry_after_ms: u64,
}

/// One fan.
#[derive(Debug)]
struct Fan {
    connection: Option<Connection>,
    /// The front of the connection, or of the last one.
    front: usize,
    /// What this connection brought.
    account: Account,
    /// Whether the handshake is through and the registration sent.
    is_open: bool,
    /// The same, and for protocol 1 that the registration was answered.
    is_registered: bool,
    /// The change that is on the screen, over all connections, and its state.
    shown: u32,
    state: usize,
    backoff: Backoff,
    away: Option<Away>,
    /// The last message, for a person to read.
    last: Vec<u8>,
}

impl Default for Fan {
    fn default() -> Self {
        Self {
            connection: None,
            front: 0,
            account: Account::default(),
            is_open: false,
            is_registered: false,
            shown: 0,
            state: 0,
            backoff: Backoff::new(PAUSE_FIRST, PAUSE_MAX),
            away: None,
            last: Vec::new(),
        }
    }
}

/// All fans.
#[derive(Debug)]
struct Rovers {
    args: Args,
    judge: Judge,
    registry: Registry,
    fans: Vec<Fan>,
    buffer: Vec<u8>,
    /// Whether the load balancer sends fans to each front, and whose turn it is.
    is_up: Vec<bool>,
    turn: usize,
    waiting: VecDeque<usize>,
    pausing: BinaryHeap<Reverse<(Instant, usize)>>,
    /// The front that is stopped, and the newest change before that.
    stopped: Option<(usize, u32)>,
    report: Report,
    /// The newest change that any fan of protocol 2 is shown.
    first: u32,
    /// The newest change that everybody was shown.
    synced: u32,
    /// A change that everybody has to be shown, and how many are not.
    due: Option<(u32, usize)>,
    is_settling: bool,
    /// When the last thing was told that is not done yet.
    since: Instant,
}

/// Does what standard input says, one JSON object a line, until it ends.
pub(crate) fn run(args: Args) -> Result<()> {
    let judge = Judge::new(book(&args.book)?, true);
    drive(|registry| Rovers::new(args, judge, registry))
}

impl Rovers {
    fn new(args: Args, judge: Judge, registry: Registry) -> Self {
        let fronts = args.addresses.len();
        Self {
            args,
            judge,
            registry,
            fans: Vec::new(),
            buffer: vec![0; BUFFER_BYTES],
            is_up: vec![true; fronts],
            turn: 0,
            waiting: VecDeque::new(),
            pausing: BinaryHeap::new(),
            stopped: None,
            report: Report::new(fronts),
            first: 0,
            synced: 0,
            due: None,
            is_settling: false,
            since: Instant::now(),
        }
    }
}

impl Told for Rovers {
    type Command = Command;

    fn take(&mut self, command: Command) -> Result<()> {
        self.since = Instant::now();
        match command {
            Command::Connect { fans } => {
                self.fans.resize_with(fans, Fan::default);
                self.waiting.extend(0..fans);
            }
            Command::Announce { change, state, all } => {
                self.judge.announce(change, state);
                self.due = all.then_some((change, self.fans.len()));
            }
            Command::Balance { front, is_up } => {
                self.is_up[front] = is_up;
                if is_up {
                    // Another process, which has sent nothing yet.
                    self.report.received[front] = 0;
                }
            }
            Command::Stop { front } => {
                let newest = self.judge.newest().map_or(0, |(change, _)| change);
                self.stopped = Some((front, newest));
            }
            Command::Spread => self.spread()?,
            Command::Settle => self.is_settling = true,
            Command::Report => {
                self.stopped = None;
                let next = self.report.next();
                say(&Said::Report(std::mem::replace(&mut self.report, next)))?;
            }
        }
        say(&Said::Taken)
    }

    fn touched(&mut self, fan: usize, event: &event::Event) -> Result<()> {
        let Some(connection) = &mut self.fans[fan].connection else {
            return Ok(());
        };
        if event.is_writable() || event.is_error() {
            let written = connection.writable("touchline", &self.args.path);
            if let Err(ended) = written {
                return self.ended(fan, &ended);
            }
        }
        if event.is_readable() {
            self.read(fan, event.is_read_closed())?;
        }
        Ok(())
    }

    fn sleeps(&self) -> Duration {
        let next = self.pausing.peek().map(|Reverse((at, _))| *at);
        let next = next.map_or(DEADLINE, |at| at.saturating_duration_since(Instant::now()));
        if self.is_settling {
            next.min(LOOK)
        } else {
            next
        }
    }

    fn go_on(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some(Reverse((at, fan))) = self.pausing.peek().copied()
            && at <= now
        {
            self.pausing.pop();
            self.waiting.push_back(fan);
        }
        for fan in std::mem::take(&mut self.waiting) {
            self.connect(fan)?;
        }
        if self.is_settling && (0..self.fans.len()).all(|fan| self.is_current(fan)) {
            self.is_settling = false;
            for fan in 0..self.fans.len() {
                self.caught_up(fan);
            }
            say(&Said::Settled)?;
        }
        let is_done = self.due.is_none() && !self.is_settling;
        ensure!(
            is_done || self.since.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {}",
            self.missing()
        );
        Ok(())
    }

    fn name(&self, fan: usize) -> String {
        let (consumer, protocol) = (self.judge.consumer_id(fan), self.protocol(fan));
        format!("fan {fan}, {consumer}, of protocol {protocol:?}")
    }
}

impl Rovers {
    fn protocol(&self, fan: usize) -> Protocol {
        match self.args.first_every {
            0 => Protocol::Second,
            every if fan % every == every / 2 => Protocol::First,
            _ => Protocol::Second,
        }
    }

    /// The front that is next in turn of those to which fans are sent.
    fn next_front(&mut self) -> Option<usize> {
        let fronts = self.is_up.len();
        let next = (self.turn..self.turn + fronts).find(|front| self.is_up[front % fronts])?;
        self.turn = next + 1;
        Some(next % fronts)
    }

    fn connect(&mut self, fan: usize) -> Result<()> {
        match self.next_front() {
            Some(front) => self.connect_to(fan, front),
            None => {
                let pause = self.fans[fan].backoff.pause();
                self.pausing.push(Reverse((Instant::now() + pause, fan)));
                Ok(())
            }
        }
    }

    fn connect_to(&mut self, fan: usize, front: usize) -> Result<()> {
        self.fans[fan].front = front;
        let address = self.args.addresses[front];
        match Connection::open(address, false, &self.registry, Token(fan)) {
            Ok(connection) => {
                self.fans[fan].connection = Some(connection);
                Ok(())
            }
            Err(error) => self.ended(fan, &error.into()),
        }
    }

    /// A connection could not be had or came to its end: the fan comes back when it shall.
    fn ended(&mut self, fan: usize, ended: &Ended) -> Result<()> {
        let last = self.last(fan);
        let Fan {
            front,
            is_open,
            backoff,
            ..
        } = &mut self.fans[fan];
        let was_open = std::mem::replace(is_open, false);
        let is_stopped = self.stopped.is_some_and(|(stopped, _)| stopped == *front);
        ensure!(
            is_stopped,
            "front {front}, which nobody stops: {ended}; the last message was: {last}"
        );
        let pause = match ended {
            Ended::Closed {
                code: 1012 | 1013,
                reason,
            } => {
                let later: Later = serde_json::from_str(reason)
                    .with_context(|| format!("not a word of when to come back: {reason}"))?;
                self.report.told += 1;
                Duration::from_millis(later.retry_after_ms)
            }
            Ended::Closed { code: 1001, .. } => Duration::ZERO,
            Ended::Closed { .. } => bail!("{ended}; the last message was: {last}"),
            Ended::Refused(_) | Ended::Broken(_) => backoff.pause(),
        };
        self.report.failed += u64::from(!was_open);
        let now = Instant::now();
        if was_open {
            self.report.lost += 1;
            Away::lose(&mut self.fans[fan].away, now);
        }
        let fan_state = &mut self.fans[fan];
        fan_state.connection = None;
        fan_state.is_registered = false;
        self.pausing.push(Reverse((now + pause, fan)));
        Ok(())
    }

    /// Fans go to the front that is theirs when all are spread evenly, as they do in hours of roaming.
    fn spread(&mut self) -> Result<()> {
        let fronts = self.args.addresses.len();
        for fan in 0..self.fans.len() {
            let front = fan % fronts;
            let leaving = &mut self.fans[fan];
            if leaving.front == front {
                continue;
            }
            if let Some(mut connection) = leaving.connection.take() {
                connection.leave();
            }
            (leaving.is_open, leaving.is_registered) = (false, false);
            self.connect_to(fan, front)?;
        }
        Ok(())
    }

    /// Whether what a fan shows is what the newest state shows.
    fn is_current(&self, fan: usize) -> bool {
        let Some((newest, state)) = self.judge.newest() else {
            return false;
        };
        let is_registered = self.fans[fan].is_registered;
        match self.protocol(fan) {
            // It is shown nothing until the next change.
            Protocol::First => is_registered,
            Protocol::Second => {
                is_registered && (self.fans[fan].shown == newest || self.shows(fan, state))
            }
        }
    }

    /// Whether the set that a fan shows is the one of a state.
    fn shows(&self, fan: usize, state: usize) -> bool {
        let set_id = |state| self.judge.set_id(fan, state);
        let shown = &self.fans[fan];
        shown.shown > 0 && set_id(state).is_some_and(|set| Some(set) == set_id(shown.state))
    }

    fn last(&self, fan: usize) -> String {
        String::from_utf8_lossy(&self.fans[fan].last).into_owned()
    }

    /// Who is missing what.
    fn missing(&self) -> String {
        let newest = self.judge.newest().map_or(0, |(change, _)| change);
        let is_missing = |fan: &usize| match self.due {
            Some((change, _)) => self.fans[*fan].account.newest() < change,
            None => !self.is_current(*fan),
        };
        let missing: Vec<usize> = (0..self.fans.len()).filter(is_missing).collect();
        let named = missing.iter().take(NAMED_MAX).map(|&fan| {
            let (name, last) = (self.name(fan), self.last(fan));
            let Fan {
                front,
                is_open,
                is_registered,
                shown,
                ..
            } = &self.fans[fan];
            format!(
                "{name}, at front {front}, open: {is_open}, registered: {is_registered}, shows \
                 change {shown}, last message: {last}"
            )
        });
        format!(
            "{} of {} fans do not show change {newest}:\n  {}",
            missing.len(),
            self.fans.len(),
            named.collect::<Vec<_>>().join("\n  ")
        )
    }
}
