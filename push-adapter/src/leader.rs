//! The push adapter's leader: one process at a time reads the event table's stream, says what
//! changed, fans it out and records how far it came. Deciding is in [`course`], pure, with [`decide`],
//! [`catch_up`] and [`ledger`]; this file only waits for the lease and gives it back.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use touchline_runtime::traces::Traces;
use touchline_store::{feed::Feed, tables::Store};

use self::follow::{Following, follow};
use self::lease::Tenure;
pub use self::reader::ReaderOptions;
use crate::{fanout::FanOut, metrics::Metrics};

pub mod catch_up;
pub mod course;
pub mod decide;
pub mod follow;
pub mod lease;
pub mod ledger;
pub mod pace;
mod reader;
#[cfg(test)]
mod simulation;
mod term;
mod trace;

/// How long giving the lease back may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

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

/// Everything that leading needs.
#[derive(Debug)]
pub struct Leader {
    /// The tables.
    pub store: Store,
    /// Fans changes out.
    pub fan_out: Arc<FanOut>,
    /// Where the feed stands while this process leads.
    pub led: Led,
    /// Follows somebody else's feed while this process stands by.
    pub following: Following,
    /// Until when this process may post; what fans changes out looks at it.
    pub tenure: Tenure,
    /// How.
    pub options: LeaderOptions,
    /// What happened.
    pub metrics: Arc<Metrics>,
    /// What led to what.
    pub traces: Traces,
}

impl Leader {
    /// Where the newest states can be looked up, whoever leads.
    pub fn feeds(&self) -> Feeds {
        Feeds {
            led: self.led.subscribe(),
            followed: self.following.followed.subscribe(),
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
    let following = follow(&leader.following, &vacant);
    shutdown.run_until_cancelled(following).await;
}

/// Stands by, leads while the lease is held, and stands by again, until `shutdown`.
pub async fn lead(leader: Arc<Leader>, shutdown: CancellationToken) {
    loop {
        let vacant = Notify::new();
        let acquiring = lease::acquire(&leader.store, &leader.options, &vacant, &shutdown);
        let held = tokio::select! {
            held = acquiring => held,
            () = follow(&leader.following, &vacant) => None,
        };
        let Some(taken) = held else {
            return;
        };
        tracing::info!("leading");
        let metrics = &leader.metrics;
        metrics.leader.terms.inc();
        metrics.leader.is_leading.set(1);
        let lost = CancellationToken::new();
        let (held, still) = watch::channel(taken.row);
        let keeping = lease::keep(&leader, &held, taken.asked);
        let working = term::work(&leader, still.clone(), &lost, &shutdown);
        tokio::pin!(working);
        let is_lost = tokio::select! {
            () = keeping => true,
            () = &mut working => false,
        };
        leader.tenure.end();
        metrics.leader.is_leading.set(0);
        leader.led.send_replace(None);
        if is_lost {
            tracing::warn!("the lease is lost; standing by");
            lost.cancel();
            working.await;
        } else {
            let held = still.borrow().clone();
            let releasing = leader.store.release_lease(&held);
            // A store that is away does not hold up the end: the lease ends by itself.
            match tokio::time::timeout(RELEASE_TIMEOUT, releasing).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "the lease could not be released"),
                Err(_) => tracing::debug!("the lease could not be released in time"),
            }
        }
        metrics.stream.left();
    }
}
