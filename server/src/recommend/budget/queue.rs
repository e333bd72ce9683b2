//! Who gets the next token: by priority, then by arrival. A token that is dropped unused goes back
//! to the bucket. Does not know what a token is spent on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use touchline_runtime::{bucket::Bucket, metrics::Gauge};

use super::Priority;
use crate::counters::BudgetCounters;

/// Questions that wait for a token; further ones are answered from elsewhere at once.
const WAITING_MAX: usize = 100_000;

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The time was over before it was this one's turn.
    TooLate,
    /// Too many wait already.
    Full,
}

/// What the budget is doing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetState {
    /// Tokens a second that are never exceeded.
    pub limit: f64,
    /// Tokens a second that the service was found to bear.
    pub rate: f64,
    /// Tokens that may be taken at once.
    pub tokens: f64,
    /// Who waits, by [`Priority::ALL`].
    pub waiting: [usize; 4],
    /// Questions that are under way.
    pub in_flight: usize,
}

/// A bucket, those who wait for it, and a number of questions that may be under way.
#[derive(Debug)]
pub struct Budget {
    inner: Mutex<Inner>,
    concurrency: usize,
    counters: BudgetCounters,
}

#[derive(Debug)]
struct Inner {
    bucket: Bucket,
    waiting: BTreeMap<(Priority, u64), Arc<Notify>>,
    waiting_by_priority: [usize; 4],
    waiting_shown: [Gauge; 4],
    arrivals: u64,
    in_flight: usize,
}

/// A priority that may change while its one owner waits.
#[derive(Debug)]
pub struct Rank {
    priority: AtomicU8,
    changed: Notify,
}

impl Rank {
    /// Starts with this priority.
    pub fn new(priority: Priority) -> Self {
        Self {
            priority: AtomicU8::new(priority as u8),
            changed: Notify::new(),
        }
    }

    /// The priority now.
    pub fn get(&self) -> Priority {
        Priority::ALL[usize::from(self.priority.load(SeqCst))]
    }

    /// Another priority from now on.
    pub fn set(&self, priority: Priority) {
        if self.priority.swap(priority as u8, SeqCst) != priority as u8 {
            self.changed.notify_one();
        }
    }
}

/// Leave to ask one question. Dropped without [`Token::spend`], it was never taken.
#[derive(Debug)]
pub struct Token {
    budget: Arc<Budget>,
    spent: bool,
}

impl Token {
    /// The question is asked: the token is gone, and the place is free once this is dropped.
    pub fn spend(&mut self) {
        self.spent = true;
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let mut inner = self.budget.lock();
        inner.in_flight -= 1;
        self.budget.counters.in_flight.dec();
        if !self.spent {
            inner.bucket.give_back(Instant::now());
            self.budget.counters.tokens_given_back.add(1);
        }
        inner.wake_first();
    }
}

impl Budget {
    /// At most `limit` tokens a second, and `concurrency` questions under way.
    pub fn new(limit: f64, concurrency: usize, counters: BudgetCounters) -> Self {
        let bucket = Bucket::new(limit, Instant::now());
        counters.show(&bucket);
        let inner = Inner {
            bucket,
            waiting: BTreeMap::new(),
            waiting_by_priority: [0; 4],
            waiting_shown: counters.waiting.clone(),
            arrivals: 0,
            in_flight: 0,
        };
        Self {
            inner: Mutex::new(inner),
            concurrency,
            counters,
        }
    }

    /// Waits for a token, until the given moment. Dropped, it leaves the queue.
    pub async fn token(self: &Arc<Self>, rank: &Rank, until: Instant) -> Result<Token, Denied> {
        let place = self.enter(rank.get())?;
        self.token_at(place, rank, until).await
    }

    /// The same, from a place that was taken before.
    pub async fn token_at(
        self: &Arc<Self>,
        mut place: Place,
        rank: &Rank,
        until: Instant,
    ) -> Result<Token, Denied> {
        loop {
            let now = Instant::now();
            if now >= until {
                return Err(Denied::TooLate);
            }
            let pause = match self.advance(&mut place, rank.get(), now) {
                Turn::Token(token) => return Ok(token),
                Turn::First(pause) => Some(pause),
                Turn::Wait => None,
            };
            let due = async {
                match pause {
                    Some(pause) => sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = place.wake.notified() => {}
                () = rank.changed.notified() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// How long somebody of this priority who comes now will have waited.
    pub fn wait(&self, priority: Priority) -> Duration {
        let inner = self.lock();
        let ahead: usize = inner.waiting_by_priority[..=priority as usize].iter().sum();
        let missing = (ahead + 1) as f64 - inner.bucket.tokens();
        Duration::from_secs_f64((missing / inner.bucket.rate()).max(0.0))
    }

    /// The service throttled.
    pub fn throttled(&self) {
        let bucket = &mut self.lock().bucket;
        bucket.throttled(Instant::now());
        self.counters.show(bucket);
    }

    /// Another limit from now on.
    pub fn set_limit(&self, limit: f64) {
        let bucket = &mut self.lock().bucket;
        bucket.set_limit(limit, Instant::now());
        self.counters.show(bucket);
    }

    /// What it is doing.
    pub fn state(&self) -> BudgetState {
        let inner = self.lock();
        BudgetState {
            limit: inner.bucket.limit(),
            rate: inner.bucket.rate(),
            tokens: inner.bucket.tokens(),
            waiting: inner.waiting_by_priority,
            in_flight: inner.in_flight,
        }
    }

    /// Takes a place in the queue, which [`Self::wait`] counts from now on.
    pub fn enter(self: &Arc<Self>, priority: Priority) -> Result<Place, Denied> {
        let mut inner = self.lock();
        if inner.waiting.len() >= WAITING_MAX {
            return Err(Denied::Full);
        }
        inner.arrivals += 1;
        let place = Place {
            budget: self.clone(),
            key: (priority, inner.arrivals),
            wake: Arc::new(Notify::new()),
        };
        inner.enter(place.key, place.wake.clone());
        Ok(place)
    }

    fn advance(self: &Arc<Self>, place: &mut Place, priority: Priority, now: Instant) -> Turn {
        let mut inner = self.lock();
        if place.key.0 != priority {
            inner.leave(place.key);
            place.key.0 = priority;
            inner.enter(place.key, place.wake.clone());
            // Whoever is first now may have been second.
            inner.wake_first();
        }
        let first = inner.waiting.first_key_value();
        let is_first = first.is_some_and(|(key, _)| *key == place.key);
        if !is_first || inner.in_flight >= self.concurrency {
            return Turn::Wait;
        }
        match inner.bucket.take(priority.reserve(), now) {
            // The timer has whole milliseconds; less than one would spin.
            Err(pause) => Turn::First(pause.max(Duration::from_millis(1))),
            Ok(()) => {
                inner.in_flight += 1;
                self.counters.in_flight.inc();
                self.counters.tokens[priority as usize].add(1);
                self.counters.show(&inner.bucket);
                Turn::Token(Token {
                    budget: self.clone(),
                    spent: false,
                })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that holds the lock can panic half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BudgetCounters {
    fn show(&self, bucket: &Bucket) {
        // Whole ones will do.
        self.limit.set(bucket.limit().round() as i64);
        self.rate.set(bucket.rate().round() as i64);
    }
}

impl Inner {
    fn enter(&mut self, key: (Priority, u64), wake: Arc<Notify>) {
        self.waiting.insert(key, wake);
        self.waiting_by_priority[key.0 as usize] += 1;
        self.waiting_shown[key.0 as usize].inc();
    }

    fn leave(&mut self, key: (Priority, u64)) {
        if self.waiting.remove(&key).is_some() {
            self.waiting_by_priority[key.0 as usize] -= 1;
            self.waiting_shown[key.0 as usize].dec();
        }
    }

    fn wake_first(&self) {
        if let Some((_, wake)) = self.waiting.first_key_value() {
            wake.notify_one();
        }
    }
}

enum Turn {
    Token(Token),
    /// It is this one's turn, after a pause.
    First(Duration),
    /// It is somebody else's turn.
    Wait,
}

/// A place in the queue; dropped, it is left.
#[derive(Debug)]
pub struct Place {
    budget: Arc<Budget>,
    key: (Priority, u64),
    wake: Arc<Notify>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.budget.lock();
        inner.leave(self.key);
        inner.wake_first();
    }
}

#[cfg(test)]
mod tests;
