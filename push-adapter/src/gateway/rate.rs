//! How fast one fan may send messages: a token bucket. Pure.

use std::time::Instant;

/// Seconds' worth of messages that may come at once.
const BURST_SECONDS: f64 = 5.0;

/// One connection's allowance.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Rate {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            tokens: per_second * BURST_SECONDS,
            at: now,
        }
    }

    /// Whether one more message may come now.
    pub(super) fn allows(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second * BURST_SECONDS);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let start = Instant::now();
        let mut rate = Rate::new(2, start);
        assert!((0..10).all(|_| rate.allows(start)));
        assert!(!rate.allows(start));
        assert!(rate.allows(start + Duration::from_millis(500)));
        assert!(!rate.allows(start + Duration::from_millis(500)));
    }
}
