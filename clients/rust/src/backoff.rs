//! Waiting before the next attempt. Keeps no clock and sleeps nowhere: it says how long.

use std::time::Duration;

/// Exponential back-off with full jitter: the n-th wait is anything from zero to `first` · 2ⁿ, at
/// most `longest`. The whole range is drawn from, because clients that lost one server together
/// would otherwise come back together (AWS Architecture Blog, "Exponential backoff and jitter").
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempt: u32,
}

impl Backoff {
    /// Starts with a wait of up to `first`, never waits longer than `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            attempt: 0,
        }
    }

    /// How long to wait before the next attempt.
    pub fn wait(&mut self) -> Duration {
        self.wait_drawn(rand::random::<f64>())
    }

    /// The attempt succeeded: the next wait is short again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    fn wait_drawn(&mut self, draw: f64) -> Duration {
        let doubled = 2_u32
            .checked_pow(self.attempt)
            .and_then(|factor| self.first.checked_mul(factor));
        self.attempt = self.attempt.saturating_add(1);
        doubled
            .map_or(self.longest, |wait| wait.min(self.longest))
            .mul_f64(draw.clamp(0.0, 1.0))
    }
}

impl Default for Backoff {
    /// From a fifth of a second up to ten seconds.
    fn default() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_range_doubles_up_to_the_longest_wait_and_starts_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let waits = [1, 2, 4, 5, 5].map(Duration::from_secs);
        assert_eq!(waits.map(|_| backoff.wait_drawn(1.0)), waits);
        backoff.reset();
        assert_eq!(backoff.wait_drawn(0.5), Duration::from_millis(500));
    }

    proptest! {
        #[test]
        fn no_wait_is_ever_longer_than_the_longest(attempt in any::<u32>(), draw in 0.0..1.0) {
            let mut backoff = Backoff { attempt, ..Backoff::default() };
            prop_assert!(backoff.wait_drawn(draw) <= backoff.longest);
        }
    }
}
