//! How fast a front is posted to. A front that has enough says so in the same words as one connection
//! that does not read (429, LimitExceeded), so the two are told apart by whom it meets: a quota meets
//! connections that were never throttled before, a slow reader always the same one. Pure but for its
//! locks: it sleeps nowhere.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use touchline_runtime::bucket::Bucket;
use touchline_store::ids::ConnectionId;

/// So many connections that were not throttled before, within [`TOGETHER`], make it the quota.
const MEETS: usize = 3;
/// See [`MEETS`].
const TOGETHER: Duration = Duration::from_millis(500);
/// A connection that was throttled, or did not answer in time, is a slow one for so long.
const SLOW_FOR: Duration = Duration::from_secs(10);
/// Slow connections that are remembered.
const SLOW_MAX: usize = 10_000;

/// Whose fault a throttle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection's, as far as is known.
    Connection,
    /// The quota's: everybody is asked less of from now on.
    Quota,
}

/// The pace at one front.
#[derive(Debug)]
pub(super) struct Pace {
    inner: Mutex<Inner>,
    /// Who waits for a token does so in turn.
    pub(super) turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Inner {
    bucket: Bucket,
    /// By hash, when each was last slow.
    slow: HashMap<u64, Instant>,
    /// When connections that had not been slow were throttled.
    met: VecDeque<Instant>,
}

impl Pace {
    /// At most `limit` posts a second.
    pub(super) fn new(limit: f64, now: Instant) -> Self {
        Self {
            inner: Mutex::new(Inner {
                bucket: Bucket::new(limit, now),
                slow: HashMap::new(),
                met: VecDeque::new(),
            }),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Takes a token, or says how long until there is one.
    pub(super) fn take(&self, now: Instant) -> Result<(), Duration> {
        self.lock().bucket.take(0.0, now)
    }

    #[cfg(test)]
    fn rate(&self) -> f64 {
        self.lock().bucket.rate()
    }

    /// Whether the connection was slow lately.
    pub(super) fn is_slow(&self, connection: &ConnectionId, now: Instant) -> bool {
        self.lock().is_slow(hash(connection), now)
    }

    /// A post to the connection was throttled.
    pub(super) fn throttled(&self, connection: &ConnectionId, now: Instant) -> Fault {
        let mut inner = self.lock();
        let hash = hash(connection);
        let is_new = !inner.is_slow(hash, now);
        inner.slowed(hash, now);
        if is_new {
            inner.met.push_back(now);
        }
        while inner
            .met
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) > TOGETHER)
        {
            inner.met.pop_front();
        }
        // Those that were met belong to the quota, however many more it meets.
        inner.met.truncate(MEETS * 100);
        if inner.met.len() < MEETS {
            return Fault::Connection;
        }
        inner.bucket.throttled(now);
        if is_new {
            // Met by the quota: nothing is known against it.
            inner.slow.remove(&hash);
        }
        Fault::Quota
    }

    /// A post to the connection was not answered in time.
    pub(super) fn hung(&self, connection: &ConnectionId, now: Instant) {
        self.lock().slowed(hash(connection), now);
    }

    /// A post to the connection was taken.
    pub(super) fn answered(&self, connection: &ConnectionId) {
        let mut inner = self.lock();
        if !inner.slow.is_empty() {
            inner.slow.remove(&hash(connection));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that holds the lock can panic half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_slow(&self, hash: u64, now: Instant) -> bool {
        let at = self.slow.get(&hash);
        at.is_some_and(|at| now.saturating_duration_since(*at) < SLOW_FOR)
    }

    fn slowed(&mut self, hash: u64, now: Instant) {
        if self.slow.len() >= SLOW_MAX {
            self.slow
                .retain(|_, at| now.saturating_duration_since(*at) < SLOW_FOR);
        }
        if self.slow.len() < SLOW_MAX {
            self.slow.insert(hash, now);
        }
    }
}

fn hash(connection: &ConnectionId) -> u64 {
    let mut hasher = DefaultHasher::new();
    connection.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(number: usize) -> ConnectionId {
        ConnectionId::new(number.to_string()).unwrap()
    }

    #[test]
    fn one_connection_that_does_not_read_is_its_own_fault_however_often() {
        let start = Instant::now();
        let pace = Pace::new(1_000.0, start);
        for ms in 0..5_000 {
            let now = start + Duration::from_millis(ms);
            for slow in [1, 2] {
                assert_eq!(pace.throttled(&connection(slow), now), Fault::Connection);
            }
        }
        assert!((pace.rate() - 1_000.0).abs() < 1e-9);
        assert!(pace.is_slow(&connection(1), start + Duration::from_secs(6)));
        assert!(!pace.is_slow(&connection(1), start + Duration::from_secs(60)));
        assert!(!pace.is_slow(&connection(3), start));
    }

    #[test]
    fn a_quota_meets_anybody_and_slows_all_down_but_blames_nobody() {
        let start = Instant::now();
        let pace = Pace::new(1_000.0, start);
        let faults: Vec<_> = (0..5)
            .map(|number| pace.throttled(&connection(number), start))
            .collect();
        use Fault::{Connection, Quota};
        assert_eq!(faults, [Connection, Connection, Quota, Quota, Quota]);
        assert!(pace.rate() < 900.0);
        assert!(!pace.is_slow(&connection(4), start));
    }

    #[test]
    fn who_reads_again_is_slow_no_more() {
        let now = Instant::now();
        let pace = Pace::new(1_000.0, now);
        pace.hung(&connection(1), now);
        assert!(pace.is_slow(&connection(1), now));
        pace.answered(&connection(1));
        assert!(!pace.is_slow(&connection(1), now));
    }

    #[test]
    fn memory_is_bounded() {
        let start = Instant::now();
        let pace = Pace::new(1_000.0, start);
        for number in 0..3 * SLOW_MAX {
            let now = start + Duration::from_millis(number as u64);
            pace.hung(&connection(number), now);
            pace.throttled(&connection(number), now);
            let inner = pace.lock();
            assert!(inner.slow.len() <= SLOW_MAX && inner.met.len() <= MEETS * 100);
        }
    }
}
