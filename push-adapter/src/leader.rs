//! The push adapter's leader: one process at a time reads the event table's stream, says what
//! changed, fans it out and records how far it came. Deciding is in [`course`], pure, with [`decide`],
//! [`catch_up`] and [`ledger`]; this file only waits for the lease and gives it back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use touchline_store::{feed::Feed, stream::Polled, tables::Store};

use self::lease::Tenure;
pub use self::reader::ReaderOptions;
use crate::fanout::FanOut;

pub mod catch_up;
pub mod course;
pub mod decide;
mod follow;
pub mod lease;
pub mod ledger;
pub mod pace;
mod reader;
#[cfg(test)]
mod simulation;
mod term;

/// The feed as it is at hand: published by this process while it leads, `None` while it does not.
pub type Led = watch::Sender<Option<Arc<Feed>>>;

/// How this process leads.
#[derive(Debug, Clone)]
pub struct LeaderOptions {
    /// Who this process is; differs from process to process.
    pub owner: String,
    /// Where its change feed is reached.
    pub address: String,
    /// A lease that does not move for this long is lost.
    pub lease_duration: Duration,
    /// Posting ends this long before the lease does.
    pub lease_margin: Duration,
    /// Take the lease at once.
    pub sole: bool,
    /// How the stream is read.
    pub reader: ReaderOptions,
    /// How long a graceful end waits for fan-outs.
    pub drain_timeout: Duration,
}

/// What the leader has counted since the process started.
#[derive(Debug, Default)]
pub struct Counts {
    /// Records of the stream that could not be understood.
    pub poison: AtomicU64,
    /// Changes that a newer one of the same event replaced before they were looked at.
    pub conflated: AtomicU64,
    /// Changes that decided nothing: display attributes alone, or a repeat.
    pub display_only: AtomicU64,
    /// Fan-outs that a newer state ended early.
    pub superseded: AtomicU64,
    /// Terms of leadership that began.
    pub terms: AtomicU64,
    /// When the stream was read last, in milliseconds since 1970; 0 before that.
    pub read_at_ms: AtomicU64,
    /// How old the newest record was when it was read, in milliseconds by two machines' clocks.
    pub lag_ms: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// The stream was read.
    fn read(&self, polled: &Polled) {
        let now = SystemTime::now();
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let read_at = now.duration_since(SystemTime::UNIX_EPOCH);
        let read_at_ms = milliseconds(read_at.unwrap_or_default());
        self.read_at_ms.store(read_at_ms, Ordering::Relaxed);
        if let Some(written_at) = polled.written_at {
            let lag = now.duration_since(written_at).unwrap_or_default();
            self.lag_ms.store(milliseconds(lag), Ordering::Relaxed);
        }
    }
}

/// Everything that leading needs.
#[derive(Debug)]
pub struct Leader {
    /// The tables.
    pub store: Store,
    /// Fans changes out.
    pub fan_out: Arc<FanOut>,
    /// Where the feed stands while this process leads.
    pub led: Led,
    /// Where somebody else's feed stands while this process stands by.
    pub followed: Led,
    /// Until when this process may post; what fans changes out looks at it.
    pub tenure: Tenure,
    /// How.
    pub options: LeaderOptions,
    /// What happened.
    pub counts: Arc<Counts>,
}

impl Leader {
    /// Where the newest states can be looked up, whoever leads.
    pub fn feeds(&self) -> Feeds {
        Feeds {
            led: self.led.subscribe(),
            followed: self.followed.subscribe(),
        }
    }
}

/// The newest states as this process knows them.
#[derive(Debug, Clone)]
pub struct Feeds {
    /// While this process leads.
    pub led: watch::Receiver<Option<Arc<Feed>>>,
    /// While another leads.
    pub followed: watch::Receiver<Option<Arc<Feed>>>,
}

impl Feeds {
    /// The feed of whoever leads, or the last one that was heard of.
    pub fn newest(&self) -> Option<Arc<Feed>> {
        let led = self.led.borrow().clone();
        led.or_else(|| self.followed.borrow().clone())
    }
}

/// Stands by for ever: follows whoever leads, until `shutdown`.
pub async fn stand_by(leader: Arc<Leader>, shutdown: CancellationToken) {
    // Nobody waits for the lease, so nobody is told that it is free.
    let vacant = Notify::new();
    let following = follow::follow(&leader, &vacant);
    shutdown.run_until_cancelled(following).await;
}

/// Stands by, leads while the lease is held, and stands by again, until `shutdown`.
pub async fn lead(leader: Arc<Leader>, shutdown: CancellationToken) {
    loop {
        let vacant = Notify::new();
        let acquiring = lease::acquire(&leader.store, &leader.options, &vacant, &shutdown);
        let held = tokio::select! {
            held = acquiring => held,
            () = follow::follow(&leader, &vacant) => None,
        };
        let Some(taken) = held else {
            return;
        };
        tracing::info!("leading");
        Counts::add(&leader.counts.terms, 1);
        let lost = CancellationToken::new();
        let (held, still) = watch::channel(taken.row);
        let (options, tenure) = (&leader.options, &leader.tenure);
        let keeping = lease::keep(&leader.store, options, tenure, &held, taken.asked);
        let working = term::work(&leader, still.clone(), &lost, &shutdown);
        tokio::pin!(working);
        let is_lost = tokio::select! {
            () = keeping => true,
            () = &mut working => false,
        };
        tenure.end();
        leader.led.send_replace(None);
        if is_lost {
            tracing::warn!("the lease is lost; standing by");
            lost.cancel();
            working.await;
        } else {
            let held = still.borrow().clone();
            if let Err(error) = leader.store.release_lease(&held).await {
                tracing::debug!(%error, "the lease could not be released");
            }
        }
    }
}
