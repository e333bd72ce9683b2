//! A circuit breaker: a campaign that is dead is not asked again and again at the cost of everybody's
//! time. Pure: time is passed in, and what to answer instead is not decided here.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which nobody asks for a while.
const FAILURES_MAX: u32 = 5;
/// The first pause; each one after it is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause: recovery is noticed within it.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What a breaker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Everybody may ask.
    Closed,
    /// Nobody may ask.
    Open,
    /// One question is under way that will tell.
    Probing,
}

/// Counts failures in a row.
#[derive(Debug, Clone)]
pub struct Breaker {
    state: BreakerState,
    failures: u32,
    pause: Duration,
    /// When an open one lets one question through, or a probe counts as lost.
    until: Instant,
}

impl Breaker {
    /// A closed one.
    pub fn new(now: Instant) -> Self {
        Self {
            state: BreakerState::Closed,
            failures: 0,
            pause: PAUSE_MIN,
            until: now,
        }
    }

    /// What it does.
    pub fn state(&self) -> BreakerState {
        self.state
    }

    /// Whether waiting for a turn to ask makes sense.
    pub fn may_queue(&self, now: Instant) -> bool {
        self.state == BreakerState::Closed || now >= self.until
    }

    /// Whether a question may be asked now. While it is not closed, one may, now and then.
    pub fn admit(&mut self, now: Instant) -> bool {
        if self.state == BreakerState::Closed {
            return true;
        }
        if now < self.until {
            return false;
        }
        self.state = BreakerState::Probing;
        self.until = now + self.pause;
        true
    }

    /// A question was answered, be it with a refusal or a throttle: somebody is there.
    pub fn succeeded(&mut self) {
        self.state = BreakerState::Closed;
        self.failures = 0;
        self.pause = PAUSE_MIN;
    }

    /// A question failed. True when that opens it.
    pub fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        let opens = match self.state {
            // Late failures of questions that were under way say nothing new.
            BreakerState::Open => false,
            BreakerState::Probing => {
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                true
            }
            BreakerState::Closed => self.failures >= FAILURES_MAX,
        };
        if opens {
            self.state = BreakerState::Open;
            self.until = now + self.pause;
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(now);
        let opened: Vec<bool> = (0..5).map(|_| breaker.failed(now)).collect();
        assert_eq!(opened, [false, false, false, false, true]);
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_question_at_a_time_is_let_through() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert!(!breaker.admit(now) && !breaker.may_queue(now));
        let later = now + PAUSE_MIN;
        assert!(breaker.may_queue(later));
        assert!(breaker.admit(later), "the probe");
        assert!(!breaker.admit(later), "and nobody beside it");
        breaker.succeeded();
        assert!(breaker.admit(later) && breaker.state() == BreakerState::Closed);
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        for _ in 0..20 {
            for _ in 0..4 {
                assert!(!breaker.failed(now));
            }
            breaker.succeeded();
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn each_probe_that_fails_doubles_the_pause_up_to_its_limit() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let opened = now;
            while !breaker.admit(now) {
                now += Duration::from_millis(10);
            }
            pauses.push((now - opened).as_millis());
            assert!(breaker.failed(now));
        }
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 2_000, 2_000]);
    }

    #[test]
    fn a_probe_that_is_never_heard_of_again_is_followed_by_another() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert!(breaker.admit(now + PAUSE_MIN));
        assert!(breaker.admit(now + PAUSE_MIN * 2));
    }

    proptest! {
        #[test]
        fn it_never_stays_shut_for_longer_than_the_longest_pause(
            steps in prop::collection::vec((0u64..1_000, 0u8..3), 0..200),
        ) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new(now);
            for (pause, step) in steps {
                now += Duration::from_millis(pause);
                match step {
                    0 => breaker.succeeded(),
                    1 => { breaker.failed(now); }
                    _ => { breaker.admit(now); }
                }
                prop_assert!(breaker.may_queue(now + PAUSE_MAX));
                prop_assert!(breaker.clone().admit(now + PAUSE_MAX));
            }
        }
    }
}
