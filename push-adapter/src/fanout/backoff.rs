//! How long to wait before trying again: exponential, with full jitter, so that many who failed
//! together do not come back together.

use std::time::Duration;

/// Pauses between attempts.
#[derive(Debug, Clone)]
pub struct Backoff {
    ceiling: Duration,
    max: Duration,
}

impl Backoff {
    /// The first pause is below `first`, each further one below twice the last ceiling and `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self {
            ceiling: first,
            max,
        }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.ceiling.mul_f64(rand::random::<f64>());
        self.ceiling = (self.ceiling * 2).min(self.max);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_below_their_ceiling() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(50));
        for ceiling in [10, 20, 40, 50, 50, 50] {
            assert!(backoff.pause() <= Duration::from_millis(ceiling));
        }
    }
}
