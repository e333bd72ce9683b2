//! All fans of the process: who is connected, who is shown what, and what was told.

mod conversation;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    fs::File,
    io::BufWriter,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use mio::{Registry, event};

use super::{
    Args, Told,
    account::Account,
    connection::Connection,
    judge::{Judge, Protocol},
    progress::{Due, Returning},
    say,
};
use crate::{
    gateway::crowd::{Command, Report, Said},
    load::unix_ns,
};

/// Handshakes under way at one moment, unless everybody comes back at once.
const CONNECTING_MAX: usize = 128;

/// Whatever was told is done within it, or it is a fault.
const DEADLINE: Duration = Duration::from_secs(60);

/// What is read at once.
const BUFFER_BYTES: usize = 64 * 1_024;

/// Fans that are named when something is missing.
const NAMED_MAX: usize = 5;

/// One fan.
#[derive(Debug, Default)]
struct Fan {
    connection: Option<Connection>,
    account: Account,
    /// The number of the state that is shown.
    state: usize,
    is_registered: bool,
    /// The last message, for a person to read.
    last: Vec<u8>,
}

/// All fans.
#[derive(Debug)]
pub(super) struct Crowd {
    args: Args,
    judge: Judge,
    registry: Registry,
    fans: Vec<Fan>,
    buffer: Vec<u8>,
    report: Report,
    is_stalled: bool,
    record: Option<BufWriter<File>>,
    /// Fans who are about to connect, and when those come who were refused.
    waiting: VecDeque<usize>,
    pausing: BinaryHeap<Reverse<(Instant, usize)>>,
    shaking: usize,
    /// When the last thing was told that is not done yet.
    since: Instant,
    /// How many of those who were told to connect are not registered.
    unregistered: usize,
    due: Option<Due>,
    /// How many of those who stalled do not have the newest change.
    behind: usize,
    returning: Option<Returning>,
}

impl Crowd {
    pub(super) fn new(args: Args, judge: Judge, registry: Registry) -> Self {
        Self {
            args,
            judge,
            registry,
            fans: Vec::new(),
            buffer: vec![0; BUFFER_BYTES],
            report: Report::default(),
            is_stalled: false,
            record: None,
            waiting: VecDeque::new(),
            pausing: BinaryHeap::new(),
            shaking: 0,
            since: Instant::now(),
            unregistered: 0,
            due: None,
            behind: 0,
            returning: None,
        }
    }
}

impl Told for Crowd {
    type Command = Command;

    fn name(&self, fan: usize) -> String {
        let consumer = self.judge.consumer_id(self.consumer(fan));
        format!(
            "fan {fan}, {consumer}, of protocol {:?}",
            self.protocol(fan)
        )
    }

    fn take(&mut self, command: Command) -> Result<()> {
        self.since = Instant::now();
        match command {
            Command::Connect { fans } => {
                let new = self.fans.len()..fans;
                self.unregistered = new.len();
                self.waiting.extend(new);
                self.fans
                    .resize_with(fans.max(self.fans.len()), Fan::default);
                if self.unregistered == 0 {
                    say(&Said::Connected)?;
                }
            }
            Command::Expect { change, state } => {
                self.judge.announce(change, state);
                let reading = (0..self.fans.len()).filter(|fan| self.reads(*fan)).count();
                self.due = (reading > 0).then(|| Due::new(change, reading));
                say(&Said::Ready)?;
            }
            Command::Stall => {
                self.is_stalled = true;
                say(&Said::Ready)?;
            }
            Command::Resume => self.resume()?,
            Command::Record { path } => {
                self.record = Some(BufWriter::new(File::create(path)?));
                say(&Said::Ready)?;
            }
            Command::Recorded => {
                let record = self.record.take().context("nothing is recorded")?;
                record.into_inner()?.sync_data()?;
                say(&Said::Ready)?;
            }
            Command::Return { with_set_id } => self.lose_all(with_set_id)?,
            Command::Report => say(&Said::Report(self.report))?,
        }
        Ok(())
    }

    fn sleeps(&self) -> Duration {
        let next = self.pausing.peek().map(|Reverse((at, _))| *at);
        next.map_or(DEADLINE, |at| at.saturating_duration_since(Instant::now()))
    }

    fn touched(&mut self, fan: usize, event: &event::Event) -> Result<()> {
        self.on_socket(fan, event)
    }

    fn go_on(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some(Reverse((at, fan))) = self.pausing.peek().copied()
            && at <= now
        {
            self.pausing.pop();
            self.waiting.push_back(fan);
        }
        while self.shaking < CONNECTING_MAX || self.returning.is_some() {
            let Some(fan) = self.waiting.pop_front() else {
                break;
            };
            self.connect(fan)?;
        }
        if let Some(returning) = self.returning.take_if(|returning| returning.left() == 0) {
            say(&Said::Returned(returning.returned()))?;
        }
        let is_done = self.due.is_none()
            && self.unregistered == 0
            && self.behind == 0
            && self.returning.is_none();
        if !is_done && self.since.elapsed() > DEADLINE {
            bail!("not within {DEADLINE:?}: {}", self.missing());
        }
        Ok(())
    }
}

impl Crowd {
    fn consumer(&self, fan: usize) -> usize {
        fan % self.judge.consumers()
    }

    fn protocol(&self, fan: usize) -> Protocol {
        match self.args.first_every {
            0 => Protocol::Second,
            every if fan % every == every / 2 => Protocol::First,
            _ => Protocol::Second,
        }
    }

    fn is_stalling(&self, fan: usize) -> bool {
        self.args.stalling_every > 0 && fan.is_multiple_of(self.args.stalling_every)
    }

    fn reads(&self, fan: usize) -> bool {
        self.fans[fan].is_registered && !(self.is_stalled && self.is_stalling(fan))
    }

    /// Whether a registration is answered with a set.
    fn is_answered_with_a_set(&self, fan: usize) -> bool {
        !self.args.unpositioned && self.protocol(fan) == Protocol::Second
    }

    /// Those who stalled read what waits for them.
    fn resume(&mut self) -> Result<()> {
        ensure!(self.is_stalled && self.due.is_none(), "nobody stalls");
        self.is_stalled = false;
        let newest = self.judge.newest().map_or(0, |(change, _)| change);
        let stalling = (0..self.fans.len()).filter(|fan| self.is_stalling(*fan));
        let stalling: Vec<usize> = stalling.collect();
        let is_behind = |fan: &&usize| self.fans[**fan].account.newest() < newest;
        self.behind = stalling.iter().filter(is_behind).count();
        if self.behind == 0 {
            say(&Said::Ready)?;
        }
        for fan in stalling {
            let read = self.read(fan, true);
            read.with_context(|| self.name(fan))?;
        }
        Ok(())
    }

    /// Everybody's connection is lost, and everybody comes back.
    fn lose_all(&mut self, with_set_id: bool) -> Result<()> {
        ensure!(
            self.args.first_every == 0,
            "protocol 1 is answered with no set"
        );
        self.due = None;
        let fans = self.fans.len();
        self.returning = Some(Returning::new(
            fans,
            with_set_id,
            unix_ns(SystemTime::now()),
        ));
        for fan in &mut self.fans {
            fan.connection = None;
            fan.is_registered = false;
        }
        self.shaking = 0;
        self.waiting.extend(0..fans);
        say(&Said::Ready)
    }

    /// Who is missing what.
    fn missing(&self) -> String {
        let newest = self.judge.newest().map_or(0, |(change, _)| change);
        let is_missing = |fan: &usize| match &self.returning {
            Some(returning) => !returning.is_back(*fan),
            None => {
                let Fan {
                    is_registered,
                    account,
                    ..
                } = &self.fans[*fan];
                !is_registered || (self.reads(*fan) && account.newest() < newest)
            }
        };
        let missing: Vec<usize> = (0..self.fans.len()).filter(is_missing).collect();
        let named = missing.iter().take(NAMED_MAX);
        let named: Vec<String> = named
            .map(|&fan| {
                format!(
                    "{}, whose last message was: {}",
                    self.name(fan),
                    self.last(fan)
                )
            })
            .collect();
        format!(
            "{} of {} fans are not shown change {newest}:\n  {}",
            missing.len(),
            self.fans.len(),
            named.join("\n  ")
        )
    }
}
