//! Waiting before the next attempt. Keeps no clock and sleeps nowhere: it says how long.

use std::time::Duration;

/// Exponential back-off with full jitter: the n-th pause is anything from zero to `first` · 2ⁿ, at
/// most `max`. The whole range is drawn from, because many who lost one server together would
/// otherwise come back together (AWS Architecture Blog, "Exponential backoff and jitter").
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    /// What the next pause stays below.
    ceiling: Duration,
}

impl Backoff {
    /// Starts with a pause of up to `first`; no pause is longer than `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        let ceiling = first.min(max);
        Self {
            first,
            max,
            ceiling,
        }
    }

    /// How long to wait before the next attempt.
    pub fn pause(&mut self) -> Duration {
        self.drawn(rand::random::<f64>())
    }

    /// The attempt succeeded: the next pause is short again.
    pub fn reset(&mut self) {
        self.ceiling = self.first.min(self.max);
    }

    /// The pause for a draw from 0 to 1.
    fn drawn(&mut self, draw: f64) -> Duration {
        let pause = self.ceiling.mul_f64(draw);
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        pause
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
    fn the_range_doubles_up_to_the_longest_pause_and_starts_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let pauses = [1, 2, 4, 5, 5].map(Duration::from_secs);
        assert_eq!(pauses.map(|_| backoff.drawn(1.0)), pauses);
        backoff.reset();
        assert_eq!(backoff.drawn(0.5), Duration::from_millis(500));
    }

    #[test]
    fn the_whole_range_is_drawn_from() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second);
        let pauses: Vec<Duration> = (0..1_000).map(|_| backoff.pause()).collect();
        assert!(pauses.iter().any(|pause| *pause < second / 10));
        assert!(pauses.iter().any(|pause| *pause > second / 10 * 9));
    }

    proptest! {
        #[test]
        fn no_pause_is_ever_longer_than_the_longest(
            first in any::<u64>(),
            max in any::<u64>(),
            attempts in 1..200_usize,
        ) {
            let (first, max) = (Duration::from_secs(first), Duration::from_secs(max));
            let mut backoff = Backoff::new(first, max);
            for _ in 0..attempts {
                prop_assert!(backoff.pause() <= max);
            }
        }
    }
}
