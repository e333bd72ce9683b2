//! How long a fan whose connection was lost is away, and behind. Pure.

use std::time::{Duration, Instant};

/// From the loss of a connection until the newest state is shown again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Away {
    lost: Instant,
    back: Option<Back>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Back {
    at: Instant,
    /// The newest change then.
    newest: u32,
}

impl Away {
    /// A connection is lost. One who has not caught up since the last time is behind since then.
    pub(super) fn lose(away: &mut Option<Self>, now: Instant) {
        let lost = away.map_or(now, |away| away.lost);
        *away = Some(Self { lost, back: None });
    }

    /// The next connection is open; gives for how long there was none, in microseconds.
    pub(super) fn back(&mut self, now: Instant, newest: u32) -> u64 {
        self.back = Some(Back { at: now, newest });
        micros(now - self.lost)
    }

    /// Whether one who shows this change has caught up.
    pub(super) fn is_over(&self, shown: u32) -> bool {
        self.back.is_some_and(|back| shown >= back.newest)
    }

    /// How long it took, in microseconds: since the loss, and since the next connection is open.
    pub(super) fn took(&self, now: Instant) -> (u64, u64) {
        let back = self.back.map_or(now, |back| back.at);
        (micros(now - self.lost), micros(now - back))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fan_is_behind_until_it_shows_what_was_newest_when_it_came_back() {
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let mut away = None;
        Away::lose(&mut away, at(0));
        assert!(!away.unwrap().is_over(9), "it has no connection");
        assert_eq!(away.as_mut().unwrap().back(at(30), 7), 30_000);
        assert!(!away.unwrap().is_over(6));
        // Lost again before it has caught up.
        Away::lose(&mut away, at(40));
        assert_eq!(away.as_mut().unwrap().back(at(60), 8), 60_000);
        assert!(away.unwrap().is_over(8));
        assert_eq!(away.unwrap().took(at(65)), (65_000, 5_000));
    }
}
