//! How fast the stream is read: fast while things move, slower when idle. Pure.

use std::time::Duration;

/// Slowest pace: 4 readings a second stay below AWS's 5 a second and shard (DynamoDB developer
/// guide, quotas of Streams).
const IDLE_MAX: Duration = Duration::from_millis(250);

/// Empty readings after which the pace slows down.
const PATIENCE: u32 = 20;

/// The pause between two readings.
#[derive(Debug)]
pub struct Pace {
    floor: Duration,
    empty: u32,
}

impl Pace {
    /// `floor` is the pause while things move.
    pub fn new(floor: Duration) -> Self {
        Self { floor, empty: 0 }
    }

    /// The pause after a reading that did or did not bring anything.
    pub fn next(&mut self, moved: bool) -> Duration {
        self.empty = if moved {
            0
        } else {
            self.empty.saturating_add(1)
        };
        if self.empty < PATIENCE {
            return self.floor;
        }
        (self.floor * 5).min(IDLE_MAX).max(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_stream_is_read_slower_and_never_slower_than_4_times_a_second() {
        for (floor_ms, idle_ms) in [(10, 50), (100, 250), (250, 250), (1_000, 1_000)] {
            let mut pace = Pace::new(Duration::from_millis(floor_ms));
            assert_eq!(pace.next(true), Duration::from_millis(floor_ms));
            let idle = (0..PATIENCE).map(|_| pace.next(false)).last().unwrap();
            assert_eq!(idle, Duration::from_millis(idle_ms));
            assert_eq!(pace.next(true), Duration::from_millis(floor_ms));
        }
    }
}
