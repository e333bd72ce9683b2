//! A gateway and its fans, a bare server and its fans, all alive at the same time; and slices of changes
//! for one or the other.

use std::{path::Path, time::Duration};

use anyhow::Result;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    bare::Bare,
    cpu::Used,
    crowd::{Crowd, Done, Kinds},
    script::STATES,
    site::{Gateway, Site},
};
use crate::tally::Slice;

/// A gateway and its fans.
pub(super) struct Fronted<'a> {
    pub(super) site: &'a Site,
    pub(super) gateway: Gateway,
    pub(super) crowd: Crowd,
}

/// A bare server and its fans.
pub(super) struct Bared {
    pub(super) bare: Bare,
    pub(super) crowd: Crowd,
    state: usize,
}

/// What a slice took of the gateway alone, and of all processes of the system.
pub(super) struct Slices {
    pub(super) gateway: Slice,
    pub(super) system: Slice,
}

/// How many changes a slice has, and how far apart they are at least.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) changes: u32,
    pub(super) interval: Duration,
}

impl<'a> Fronted<'a> {
    /// Starts a gateway and connects fans, whose messages are held against a book.
    pub(super) async fn start(
        site: &'a Site,
        book: &Path,
        kinds: Kinds,
        flags: &[(&str, &str)],
    ) -> Result<Self> {
        let gateway = site.gateway(flags).await?;
        let crowd = Crowd::start((gateway.address, "/dev"), book, kinds, true)?;
        let mut fronted = Self {
            site,
            gateway,
            crowd,
        };
        fronted.crowd.expect(fronted.site.state()).await?;
        Ok(fronted)
    }

    /// Brings about the next state, and waits until everybody who reads has it; gives when the write
    /// began.
    pub(super) async fn change(&mut self) -> Result<(u64, Done)> {
        let state = self.site.next_state();
        self.crowd.expect(state).await?;
        let begin = self.site.change(state).await?;
        Ok((begin, self.crowd.done().await?))
    }

    /// Lets everybody be shown each state once, so that everything is cached.
    pub(super) async fn warm(&mut self) -> Result<()> {
        for _ in 0..STATES {
            self.change().await?;
        }
        Ok(())
    }

    /// The same, and writes down what everybody is shown.
    pub(super) async fn record(&mut self, path: &Path) -> Result<()> {
        self.crowd.record(path).await?;
        self.warm().await?;
        self.crowd.recorded().await
    }

    /// Changes at a pace, each when everybody has the one before. How long one took counts to the last
    /// of those who never stall.
    pub(super) async fn slice(&mut self, pace: Pace) -> Result<Slices> {
        let pids = self.site.pids();
        let mut tick = interval(pace.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut latencies, mut answers) = (Vec::new(), 0);
        let begin = std::time::Instant::now();
        let own = Used::of(self.gateway.service.pid)?;
        let others = pids.map(Used::of);
        for _ in 0..pace.changes {
            tick.tick().await;
            let (begin, done) = self.change().await?;
            latencies.push(since(begin, done.healthy_unix_ns));
            answers += done.frames;
        }
        let own = Used::of(self.gateway.service.pid)?.since(&own);
        let mut system = own;
        for (pid, before) in pids.into_iter().zip(others) {
            system += Used::of(pid)?.since(&before?);
        }
        let gateway = Slice {
            answers,
            cpu: own,
            wall: begin.elapsed(),
            latencies,
        };
        let system = Slice {
            cpu: system,
            ..gateway.clone()
        };
        Ok(Slices { gateway, system })
    }
}

impl Bared {
    /// Starts a bare server, without messages, and fans who are not connected yet.
    pub(super) async fn start(book: &Path, kinds: Kinds) -> Result<Self> {
        let bare = Bare::start().await?;
        let mut crowd = Crowd::start((bare.address, "/"), book, kinds, false)?;
        crowd.expect(0).await?;
        Ok(Self {
            bare,
            crowd,
            state: 0,
        })
    }

    /// Has everybody sent the messages of the next state, and waits until everybody has them.
    pub(super) async fn change(&mut self) -> Result<(u64, Done)> {
        self.state = (self.state + 1) % STATES;
        self.crowd.expect(self.state).await?;
        let begin = self.bare.send(self.state).await?;
        Ok((begin, self.crowd.done().await?))
    }

    /// The same number of changes at the same pace as a gateway's.
    pub(super) async fn slice(&mut self, pace: Pace) -> Result<Slice> {
        let mut tick = interval(pace.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut latencies, mut answers) = (Vec::new(), 0);
        let begin = std::time::Instant::now();
        let cpu = Used::of(self.bare.pid)?;
        for _ in 0..pace.changes {
            tick.tick().await;
            let (begin, done) = self.change().await?;
            latencies.push(since(begin, done.last_unix_ns));
            answers += done.frames;
        }
        Ok(Slice {
            answers,
            cpu: Used::of(self.bare.pid)?.since(&cpu),
            wall: begin.elapsed(),
            latencies,
        })
    }
}

fn since(begin_unix_ns: u64, end_unix_ns: u64) -> Duration {
    Duration::from_nanos(end_unix_ns.saturating_sub(begin_unix_ns))
}
