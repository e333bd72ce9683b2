//! Where a match stands, in minutes since its first moment. Pure: it is told what time it is.

use std::time::Duration;

use tokio::time::Instant;

const SECONDS_A_MINUTE: f64 = 60.0;

/// A clock of the match, which can be stopped, set, and made faster.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    minutes: f64,
    since: Instant,
    playing: bool,
    speed: f64,
}

impl Clock {
    pub(super) fn new(now: Instant, playing: bool, speed: f64) -> Self {
        Self {
            minutes: 0.0,
            since: now,
            playing,
            speed,
        }
    }

    /// Goes on from where it stands, at this speed or not at all.
    pub(super) fn pace(&mut self, now: Instant, playing: bool, speed: f64) {
        *self = Self {
            minutes: self.minutes(now),
            since: now,
            playing,
            speed,
        };
    }

    /// Goes on from another place, after `pause` of real time.
    pub(super) fn set(&mut self, now: Instant, minutes: u32, pause: Duration) {
        let ahead = pause.as_secs_f64() * self.speed / SECONDS_A_MINUTE;
        self.minutes = f64::from(minutes) - ahead;
        self.since = now;
    }

    /// Where the match stands.
    pub(super) fn minutes(&self, now: Instant) -> f64 {
        if !self.playing {
            return self.minutes;
        }
        let elapsed = now.saturating_duration_since(self.since).as_secs_f64();
        self.minutes + elapsed * self.speed / SECONDS_A_MINUTE
    }

    /// When the match reaches a minute; `None` while it does not go on.
    pub(super) fn due(&self, minutes: u32) -> Option<Instant> {
        let ahead = (f64::from(minutes) - self.minutes).max(0.0);
        self.playing
            .then(|| self.since + Duration::from_secs_f64(ahead * SECONDS_A_MINUTE / self.speed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_clock_stands_and_goes_on_from_there_at_another_speed() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut clock = Clock::new(begin, true, 60.0);
        assert_eq!(clock.minutes(at(10)), 10.0);
        clock.pace(at(10), false, 60.0);
        assert_eq!(clock.minutes(at(1_000)), 10.0);
        assert_eq!(clock.due(11), None);
        clock.pace(at(1_000), true, 120.0);
        assert_eq!(clock.minutes(at(1_010)), 30.0);
        assert_eq!(clock.due(30), Some(at(1_010)));
    }

    #[test]
    fn a_clock_that_is_set_waits_the_pause_before_it() {
        let begin = Instant::now();
        let mut clock = Clock::new(begin, true, 60.0);
        clock.set(begin, 0, Duration::from_secs(5));
        assert_eq!(clock.due(0), Some(begin + Duration::from_secs(5)));
        clock.set(begin, 90, Duration::ZERO);
        assert_eq!(clock.due(90), Some(begin));
    }
}
