//! Getting and keeping the lease. Compares no clocks: somebody else's lease is judged by whether its
//! counter moves, watched on this process's own monotonic clock.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use touchline_store::{Error, lease::LeaseRow, tables::Store};

use super::LeaderOptions;

/// Renewals within one lease's duration.
const RENEWALS: u32 = 4;

/// Watches somebody else's lease. Pure.
#[derive(Debug, Default)]
pub struct Watched {
    seen: Option<(LeaseRow, Instant)>,
}

impl Watched {
    /// Whether the lease as it is read `now` can be taken: nobody has it, or its counter has not
    /// moved for `duration`.
    pub fn is_free(&mut self, row: Option<&LeaseRow>, now: Instant, duration: Duration) -> bool {
        let Some(row) = row else {
            return true;
        };
        if row.owner.is_empty() {
            return true;
        }
        match &self.seen {
            Some((seen, since)) if seen == row => now.duration_since(*since) >= duration,
            _ => {
                self.seen = Some((row.clone(), now));
                false
            }
        }
    }
}

/// A lease that was just taken.
pub(super) struct Taken {
    pub(super) row: LeaseRow,
    /// The moment before it was asked for.
    pub(super) asked: Instant,
}

/// Waits until the lease can be taken and takes it; `None` on shutdown.
pub(super) async fn acquire(
    store: &Store,
    options: &LeaderOptions,
    shutdown: &CancellationToken,
) -> Option<Taken> {
    let mut watched = Watched::default();
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(pause) => {}
        }
        // Jitter, so that several who wait do not ask in step.
        pause = (options.lease_duration / RENEWALS).mul_f64(0.75 + rand::random::<f64>() / 2.0);
        let row = match store.lease().await {
            Ok(row) => row,
            Err(error) => {
                tracing::warn!(%error, "the lease cannot be read");
                continue;
            }
        };
        let free = watched.is_free(row.as_ref(), Instant::now(), options.lease_duration);
        if !free && !options.sole {
            continue;
        }
        let asked = Instant::now();
        match store
            .take_lease(&options.owner, &options.address, row.as_ref())
            .await
        {
            Ok(row) => return Some(Taken { row, asked }),
            Err(Error::Conflict(_)) => {}
            Err(error) => tracing::warn!(%error, "the lease cannot be taken"),
        }
    }
}

/// Renews the lease and returns when it is lost: taken by somebody else, or not renewed in time.
pub(super) async fn keep(
    store: &Store,
    options: &LeaderOptions,
    held: &watch::Sender<LeaseRow>,
    taken: Instant,
) {
    let lasting = options.lease_duration.saturating_sub(options.lease_margin);
    let every = options.lease_duration / RENEWALS;
    // The moment before the last renewal was asked for: others cannot have seen it earlier.
    let mut renewed = taken;
    loop {
        let asked = Instant::now() + every;
        let ends = renewed + lasting;
        tokio::time::sleep_until(asked.min(ends).into()).await;
        let asked = Instant::now();
        let row = held.borrow().clone();
        match tokio::time::timeout_at(ends.into(), store.renew_lease(&row)).await {
            Ok(Ok(row)) => {
                held.send_replace(row);
                renewed = asked;
            }
            Ok(Err(Error::Conflict(_))) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the lease could not be renewed");
                if Instant::now() >= ends {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(owner: &str, counter: u64) -> LeaseRow {
        LeaseRow {
            owner: owner.to_owned(),
            address: "http://127.0.0.1:50052".to_owned(),
            counter,
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
}
