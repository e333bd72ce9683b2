//! How fast posts are made to API Gateway, whose account has one quota for all of its APIs: a token
//! bucket whose rate rises by addition while posts are taken, and falls by multiplication when the
//! account is limited (Chiu and Jain, 1989). Pure: it is told the time, and sleeps nowhere.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// What a decrease leaves of the rate. The quota is met again soon, so little is given away.
const DECREASE: f64 = 0.9;
/// How much of the rate at the last decrease, and of the highest rate, is added in a second.
const INCREASE_OF_LAST: f64 = 0.05;
const INCREASE_OF_MAX: f64 = 0.01;
/// One overload is answered by many posts: the rate falls once in this time.
const DECREASE_PAUSE: Duration = Duration::from_millis(200);
/// Over how long it is counted what came through.
const WINDOW: Duration = Duration::from_millis(500);
/// Connections that must be limited within two windows for the account to be. Fewer are slow ones: a
/// connection has a limit of its own.
const CONNECTIONS_OF_ACCOUNT: usize = 3;
/// Posts that may begin at once after a rest.
const BURST: Duration = Duration::from_millis(20);
/// Slower is never right: somebody has to find out that the limit is over.
const RATE_MIN: f64 = 1.0;

/// Whom a limit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// One connection, which takes messages slowly. Nobody else has to wait.
    Connection,
    /// The account.
    Account,
}

/// The rate, and what it follows from.
#[derive(Debug)]
pub struct Pace {
    max: f64,
    rate: f64,
    /// The rate at the last decrease.
    met_at: f64,
    decreased_at: Option<Instant>,
    /// When the next post may begin.
    next: Instant,
    window: Window,
    before: Window,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    begun: u32,
    taken: u32,
    /// Connections that were limited, by hash: no more than tell an account from a connection.
    limited: HashSet<u64>,
}

impl Window {
    fn new(began: Instant) -> Self {
        Self {
            began,
            begun: 0,
            taken: 0,
            limited: HashSet::new(),
        }
    }
}

impl Pace {
    /// At most so many posts a second; it starts there.
    pub fn new(posts_per_second_max: u32, now: Instant) -> Self {
        let max = f64::from(posts_per_second_max).max(RATE_MIN);
        Self {
            max,
            rate: max,
            met_at: max,
            decreased_at: None,
            next: now,
            window: Window::new(now),
            before: Window::new(now),
        }
    }

    /// Posts a second, as of now.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Takes the next place, and says when it is. None is given past `deadline`.
    pub fn reserve(&mut self, now: Instant, deadline: Instant) -> Option<Instant> {
        self.turn_window(now);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let place = self.next.max(earliest);
        if place >= deadline {
            return None;
        }
        self.next = place + Duration::from_secs_f64(1.0 / self.rate);
        self.window.begun += 1;
        Some(place.max(now))
    }

    /// A post was taken.
    pub fn taken(&mut self, now: Instant) {
        self.turn_window(now);
        self.window.taken += 1;
        let a_second = (self.met_at * INCREASE_OF_LAST).max(self.max * INCREASE_OF_MAX);
        // As many posts are taken in a second as the rate says, and share the second's increase.
        self.rate = (self.rate + a_second / self.rate).min(self.max);
    }

    /// A post to this connection was answered with a limit.
    pub fn limited(&mut self, now: Instant, connection: u64) -> Limited {
        self.turn_window(now);
        if self.window.limited.len() < CONNECTIONS_OF_ACCOUNT {
            self.window.limited.insert(connection);
        }
        let limited = self.window.limited.union(&self.before.limited).count();
        if limited < CONNECTIONS_OF_ACCOUNT {
            return Limited::Connection;
        }
        let pauses = self
            .decreased_at
            .is_some_and(|at| now.saturating_duration_since(at) < DECREASE_PAUSE);
        if !pauses {
            self.decrease(now);
        }
        Limited::Account
    }

    fn decrease(&mut self, now: Instant) {
        self.decreased_at = Some(now);
        let seconds = now
            .saturating_duration_since(self.before.began)
            .as_secs_f64();
        let begun = f64::from(self.before.begun + self.window.begun);
        let taken = f64::from(self.before.taken + self.window.taken);
        let lower = self.rate * DECREASE;
        // Far above the limit, what came through says where it is; but only if the rate was used.
        let is_used = seconds > 0.05 && begun / seconds > self.rate / 2.0;
        let through = if is_used { taken / seconds } else { lower };
        self.rate = lower.min(through.max(lower / 8.0)).max(RATE_MIN);
        self.met_at = self.rate;
        // Places that were given at the higher rate are still used; the next one is counted from now.
        self.next = self
            .next
            .min(now + Duration::from_secs_f64(1.0 / self.rate));
    }

    fn turn_window(&mut self, now: Instant) {
        if now.saturating_duration_since(self.window.began) >= WINDOW {
            let old = std::mem::replace(&mut self.window, Window::new(now));
            self.before = old;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An account that takes so many posts a second, asked by a pace for so long: what share of its
    /// limit came through from `warm` on, and what share of the posts it refused.
    fn played(limit: f64, max: u32, seconds: f64, warm: f64) -> (f64, f64) {
        let start = Instant::now();
        let mut pace = Pace::new(max, start);
        let deadline = start + Duration::from_secs(3_600);
        let (mut tokens, mut filled_at) = (limit * 0.05, start);
        let (mut taken, mut refused, mut connection) = (0.0, 0.0, 0);
        let mut now = start;
        while now.duration_since(start).as_secs_f64() < seconds {
            now = pace.reserve(now, deadline).unwrap().max(now);
            tokens += now.duration_since(filled_at).as_secs_f64() * limit;
            (tokens, filled_at) = (tokens.min(limit * 0.05), now);
            connection += 1;
            let counts = now.duration_since(start).as_secs_f64() >= warm;
            if tokens >= 1.0 {
                tokens -= 1.0;
                pace.taken(now);
                taken += f64::from(u8::from(counts));
            } else {
                pace.limited(now, connection);
                refused += f64::from(u8::from(counts));
            }
        }
        (
            taken / (limit * (seconds - warm)),
            refused / (taken + refused),
        )
    }

    #[test]
    fn nine_tenths_of_a_limit_come_through_whatever_it_is() {
        for (limit, max) in [
            (50.0, 10_000),
            (500.0, 10_000),
            (2_500.0, 10_000),
            (9_000.0, 10_000),
        ] {
            let (share, refused) = played(limit, max, 60.0, 5.0);
            assert!(share >= 0.9, "{limit}: {share}");
            assert!(refused <= 0.25, "{limit}: {refused}");
        }
    }

    #[test]
    fn below_the_limit_nothing_is_held_back() {
        let (share, refused) = played(20_000.0, 10_000, 5.0, 1.0);
        assert!((share - 0.5).abs() < 0.01, "{share}");
        assert!(refused < f64::EPSILON);
    }

    #[test]
    fn a_slow_connection_is_told_apart_from_a_limited_account() {
        let start = Instant::now();
        let mut pace = Pace::new(1_000, start);
        for millisecond in 0..2_000 {
            let now = start + Duration::from_millis(millisecond);
            pace.taken(now);
            // Two connections may be slow at once; the account has three that meet its limit.
            assert_eq!(pace.limited(now, millisecond % 2), Limited::Connection);
        }
        assert!(pace.rate() > 999.0, "{}", pace.rate());
        assert_eq!(
            pace.limited(start + Duration::from_secs(2), 7),
            Limited::Account
        );
        assert!(pace.rate() < 950.0, "{}", pace.rate());
    }

    #[test]
    fn one_overload_lowers_the_rate_once() {
        let start = Instant::now();
        let mut pace = Pace::new(1_000, start);
        for connection in 0..100 {
            pace.limited(start, connection);
        }
        assert!((pace.rate() - 900.0).abs() < 1.0, "{}", pace.rate());
    }

    #[test]
    fn a_place_past_the_deadline_is_given_to_nobody() {
        let start = Instant::now();
        let mut pace = Pace::new(10, start);
        let deadline = start + Duration::from_millis(350);
        let given: Vec<_> = (0..10)
            .map_while(|_| pace.reserve(start, deadline))
            .collect();
        assert_eq!(given.len(), 4);
    }
}
