//! How much one fan may send: a token bucket each for messages, pings and bytes. Pure.

use std::time::Instant;

use crate::config::FanLimits;

/// Seconds' worth that may come at once.
const BURST_SECONDS: f32 = 5.0;

/// Pings a second. A client that is well sends one in many seconds.
const PINGS_PER_SECOND: u32 = 2;

/// One connection's allowance.
#[derive(Debug)]
pub(super) struct Rate {
    at: Instant,
    messages: Bucket,
    pings: Bucket,
    bytes: Bucket,
}

/// In single precision: every connection holds three.
#[derive(Debug)]
struct Bucket {
    per_second: f32,
    tokens: f32,
}

impl Rate {
    pub(super) fn new(limits: &FanLimits, now: Instant) -> Self {
        Self {
            at: now,
            messages: Bucket::new(limits.fan_messages_per_second),
            pings: Bucket::new(PINGS_PER_SECOND),
            bytes: Bucket::new(limits.fan_bytes_per_second),
        }
    }

    /// Whether one more message may come now.
    pub(super) fn allows_message(&mut self, now: Instant) -> bool {
        self.pass(now);
        self.messages.take(1.0)
    }

    /// Whether one more ping may.
    pub(super) fn allows_ping(&mut self, now: Instant) -> bool {
        self.pass(now);
        self.pings.take(1.0)
    }

    /// Whether so many bytes more may, whatever they are.
    pub(super) fn allows_bytes(&mut self, bytes: usize, now: Instant) -> bool {
        self.pass(now);
        self.bytes.take(bytes as f32)
    }

    fn pass(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f32();
        self.at = now;
        for bucket in [&mut self.messages, &mut self.pings, &mut self.bytes] {
            bucket.fill(seconds);
        }
    }
}

impl Bucket {
    fn new(per_second: u32) -> Self {
        let per_second = per_second as f32;
        Self {
            per_second,
            tokens: per_second * BURST_SECONDS,
        }
    }

    fn fill(&mut self, seconds: f32) {
        let full = self.per_second * BURST_SECONDS;
        self.tokens = (self.tokens + seconds * self.per_second).min(full);
    }

    fn take(&mut self, tokens: f32) -> bool {
        if self.tokens < tokens {
            return false;
        }
        self.tokens -= tokens;
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
        let limits = FanLimits {
            fan_messages_per_second: 2,
            fan_bytes_per_second: 100,
            ..crate::PushArgs::default().fans
        };
        let mut rate = Rate::new(&limits, start);
        assert!((0..10).all(|_| rate.allows_message(start)));
        assert!(!rate.allows_message(start));
        let later = start + Duration::from_millis(500);
        assert!(rate.allows_message(later));
        assert!(!rate.allows_message(later));
        // Messages, pings and bytes are counted apart.
        assert!(rate.allows_bytes(500, later));
        assert!(!rate.allows_bytes(1, later));
        assert!((0..10).all(|_| rate.allows_ping(later)));
        assert!(!rate.allows_ping(later));
    }
}
