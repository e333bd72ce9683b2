//! Getting and keeping the lease. Compares no clocks: somebody else's lease is judged by whether its
//! counter moves, watched on this process's own monotonic clock.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use touchline_store::{Error, lease::LeaseRow, tables::Store};

use super::{Leader, LeaderOptions};

/// Renewals within the time that posting may go on without one.
const RENEWALS: u32 = 4;
/// Looks at somebody else's lease within its duration.
const LOOKS: u32 = 8;
/// Longest pause between two looks, however long a lease lasts: one that failed is repeated soon.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);
/// How often the lease is looked at once its owner was heard to leave.
const VACANT_EVERY: Duration = Duration::from_millis(100);

/// Until when this process may post: one post's time before its lease ends. Looked at before each
/// post, since a process that slept hears of nothing.
#[derive(Debug, Clone)]
pub struct Tenure(Arc<Mutex<Option<Instant>>>);

impl Tenure {
    /// A tenure that is over.
    pub fn ended() -> Self {
        Self(Arc::default())
    }

    /// Lasts until then.
    pub fn extend(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// Ends now.
    pub fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether a post may begin.
    pub fn holds(&self) -> bool {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }
}

/// Watches somebody else's lease. Pure.
#[derive(Debug, Default)]
pub struct Watched {
    seen: Option<(LeaseRow, Instant)>,
}

impl Watched {
    /// Whether the lease as it is read `now` can be taken: nobody has it, or its counter has not
    /// moved for as long as its owner said, and for `duration` at least.
    pub fn is_free(&mut self, row: Option<&LeaseRow>, now: Instant, duration: Duration) -> bool {
        let Some(row) = row else {
            return true;
        };
        if row.owner.is_empty() {
            return true;
        }
        match &self.seen {
            Some((seen, since)) if seen == row => {
                now.duration_since(*since) >= duration.max(row.lasts)
            }
            _ => {
                self.seen = Some((row.clone(), now));
                false
            }
        }
    }

    /// How long after `now` the lease that was read last is free, unless its counter moves.
    pub fn free_in(&self, now: Instant, duration: Duration) -> Duration {
        let free_at = self.seen.as_ref().map(|(row, since)| {
            let lasts = duration.max(row.lasts);
            *since + lasts
        });
        free_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

/// A lease that was just taken.
pub(super) struct Taken {
    pub(super) row: LeaseRow,
    /// The moment before it was asked for.
    pub(super) asked: Instant,
}

/// Waits until the lease can be taken and takes it; `None` on shutdown. `vacant` says that its owner
/// was heard to leave, so that it is looked at more often for a while.
pub(super) async fn acquire(
    store: &Store,
    options: &LeaderOptions,
    vacant: &Notify,
    shutdown: &CancellationToken,
) -> Option<Taken> {
    let mut watched = Watched::default();
    let mut pause = Duration::ZERO;
    let mut often_until = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return None,
            () = vacant.notified() => often_until = Instant::now() + options.lease_duration * 2,
            () = tokio::time::sleep(pause) => {}
        }
        let every = look_every(options.lease_duration, Instant::now() < often_until);
        // Jitter, so that several who wait do not ask in step.
        pause = every.mul_f64(0.75 + rand::random::<f64>() / 2.0);
        let row = match store.lease().await {
            Ok(row) => row,
            Err(error) => {
                tracing::warn!(%error, "the lease cannot be read");
                continue;
            }
        };
        let free = watched.is_free(row.as_ref(), Instant::now(), options.lease_duration);
        if !free && !options.sole {
            // The look that finds a dead leader's lease free is not a pause late.
            pause = pause.min(watched.free_in(Instant::now(), options.lease_duration));
            continue;
        }
        let asked = Instant::now();
        let (owner, address) = (&options.owner, &options.address);
        let taking = store.take_lease(owner, address, options.lease_duration, row.as_ref());
        match taking.await {
            Ok(row) => return Some(Taken { row, asked }),
            Err(Error::Conflict(_)) => {}
            Err(error) => tracing::warn!(%error, "the lease cannot be taken"),
        }
    }
}

/// How often a lease of this length is looked at; `is_vacant`: its owner was heard to leave.
fn look_every(lease_duration: Duration, is_vacant: bool) -> Duration {
    let longest = match is_vacant {
        true => VACANT_EVERY,
        false => LOOK_EVERY_MAX,
    };
    longest.min(lease_duration / LOOKS)
}

/// Renews the lease, extending the tenure, and returns when it is lost: taken by somebody else, or not
/// renewed in time.
pub(super) async fn keep(leader: &Leader, held: &watch::Sender<LeaseRow>, taken: Instant) {
    let (options, metrics) = (&leader.options, &leader.metrics.leader);
    let lasting = options.lease_duration.saturating_sub(options.lease_margin);
    let every = lasting / RENEWALS;
    // The moment before the last renewal was asked for: others cannot have seen it earlier.
    let mut renewed = taken;
    let mut asked = taken;
    loop {
        let ends = renewed + lasting;
        leader.tenure.extend(ends);
        tokio::time::sleep_until((asked + every).min(ends).into()).await;
        asked = Instant::now();
        if asked >= ends {
            // This process slept, or the store was away: somebody else may lead already.
            break;
        }
        let row = held.borrow().clone();
        // An answer that does not come is not waited for until the end: whoever asks again is told what
        // was carried out.
        let patience = (asked + every * 2).min(ends);
        match tokio::time::timeout_at(patience.into(), leader.store.renew_lease(&row)).await {
            Ok(Ok(row)) => {
                metrics.renewed.inc();
                held.send_replace(row);
                renewed = asked;
            }
            Ok(Err(Error::Conflict(_))) => break,
            Ok(Err(error)) => {
                metrics.renewals_failed.inc();
                tracing::warn!(%error, "the lease could not be renewed");
            }
            Err(_) => {
                metrics.renewals_failed.inc();
                tracing::warn!("the lease was not renewed in time");
            }
        }
    }
    metrics.lost.inc();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(owner: &str, counter: u64) -> LeaseRow {
        LeaseRow {
            owner: owner.to_owned(),
            address: "http://127.0.0.1:50052".to_owned(),
            counter,
            lasts: Duration::ZERO,
            epoch: "epoch".to_owned(),
        }
    }

    #[test]
    fn a_lease_is_free_only_when_nobody_has_it_or_its_counter_stands_still_for_its_duration() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut watched = Watched::default();
        let mut is_free = |row: Option<&LeaseRow>, seconds: u32| {
            watched.is_free(row, start + second * seconds, second * 2)
        };
        assert!(is_free(None, 0));
        assert!(is_free(Some(&row("", 7)), 0));
        assert!(!is_free(Some(&row("other", 1)), 1));
        assert!(!is_free(Some(&row("other", 1)), 2));
        assert!(!is_free(Some(&row("other", 2)), 3), "it moved");
        assert!(!is_free(Some(&row("another", 2)), 4), "it changed hands");
        assert!(!is_free(Some(&row("another", 2)), 5));
        assert!(is_free(Some(&row("another", 2)), 6));
    }

    #[test]
    fn an_owner_who_renews_slowly_is_given_the_time_that_the_row_says() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let slow = LeaseRow {
            lasts: second * 60,
            ..row("slow", 1)
        };
        let mut watched = Watched::default();
        let mut is_free = |seconds: u32| {
            let now = start + second * seconds;
            watched.is_free(Some(&slow), now, second * 2)
        };
        assert!(!is_free(0));
        assert!(!is_free(59));
        assert!(is_free(60));
    }

    #[test]
    fn a_lease_that_stands_still_is_free_when_its_duration_has_passed_since_it_was_seen() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut watched = Watched::default();
        for (counter, at) in [(1, 0), (2, 1), (2, 2)] {
            watched.is_free(
                Some(&row("other", counter)),
                start + second * at,
                second * 2,
            );
        }
        let free_in = |at: u32| watched.free_in(start + second * at, second * 2);
        assert_eq!(free_in(2), second);
        assert_eq!(free_in(3), Duration::ZERO);
    }

    #[test]
    fn a_lease_is_looked_at_often_while_it_is_short_or_vacant_and_once_a_second_at_least() {
        let [half, sixty] = [500, 60_000].map(Duration::from_millis);
        assert_eq!(look_every(half, false), half / LOOKS);
        assert_eq!(look_every(half, true), half / LOOKS);
        assert_eq!(look_every(sixty, false), Duration::from_secs(1));
        assert_eq!(look_every(sixty, true), VACANT_EVERY);
    }

    #[test]
    fn a_tenure_holds_until_its_moment_and_not_after_it_was_ended() {
        let tenure = Tenure::ended();
        assert!(!tenure.holds());
        tenure.extend(Instant::now() + Duration::from_secs(60));
        assert!(tenure.holds());
        tenure.end();
        assert!(!tenure.holds());
        tenure.extend(Instant::now());
        assert!(!tenure.holds());
    }
}
