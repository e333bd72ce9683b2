//! How often a service may be asked: a token bucket whose rate is learned from its throttles, by
//! additive increase and multiplicative decrease. Pure: time is passed in, and who waits for a token, in
//! which order, is its owner's business.
//!
//! Not `governor`: it can neither take a token back nor change its rate.

use std::time::Duration;

use tokio::time::Instant;

/// Tokens that a bucket holds: this long's worth of its rate. Small, so that the service never sees
/// more than its own limit within any second.
const BURST: Duration = Duration::from_millis(40);
/// After a throttle this much of the rate is left.
const DECREASE: f64 = 0.85;
/// Throttles closer together than this are one: they answer questions that were under way together.
const ONE_THROTTLE: Duration = Duration::from_millis(200);
/// The rate grows by this part of the limit each second.
const INCREASE_PER_SECOND: f64 = 0.05;
/// However often it throttles, this part of the limit is left, so that recovery is noticed.
const FLOOR: f64 = 0.02;

/// A token bucket: at most `limit * seconds + burst` tokens are taken in any stretch of time.
#[derive(Debug, Clone)]
pub struct Bucket {
    limit: f64,
    rate: f64,
    tokens: f64,
    at: Instant,
    throttled_at: Option<Instant>,
}

impl Bucket {
    /// A full bucket of this many tokens a second.
    pub fn new(limit: f64, now: Instant) -> Self {
        let mut bucket = Self {
            limit,
            rate: limit,
            tokens: 0.0,
            at: now,
            throttled_at: None,
        };
        bucket.tokens = bucket.burst();
        bucket
    }

    /// Tokens a second that are never exceeded.
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// Tokens a second that the service was found to bear.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Tokens that may be taken at once.
    pub fn tokens(&self) -> f64 {
        self.tokens
    }

    /// Takes a token, or says how long until there is one. `reserve`, from 0 to 1, is the part of a
    /// full bucket that is left for whoever comes next.
    pub fn take(&mut self, reserve: f64, now: Instant) -> Result<(), Duration> {
        self.fill(now);
        let needed = (self.burst() * reserve).max(1.0);
        // Sums of small parts end a little below the whole.
        if self.tokens + 1e-6 >= needed {
            self.tokens = (self.tokens - 1.0).max(0.0);
            return Ok(());
        }
        Err(Duration::from_secs_f64((needed - self.tokens) / self.rate))
    }

    /// Puts back a token that was not used.
    pub fn give_back(&mut self, now: Instant) {
        self.fill(now);
        self.tokens = (self.tokens + 1.0).min(self.burst());
    }

    /// The service throttled: it is asked less from now on.
    pub fn throttled(&mut self, now: Instant) {
        self.fill(now);
        let is_news = self
            .throttled_at
            .is_none_or(|at| now.saturating_duration_since(at) >= ONE_THROTTLE);
        if is_news {
            self.throttled_at = Some(now);
            self.rate = (self.rate * DECREASE).max(self.limit * FLOOR);
            self.tokens = 0.0;
        }
    }

    /// Another limit, as replicas come and go. What was learned stays, in proportion.
    pub fn set_limit(&mut self, limit: f64, now: Instant) {
        self.fill(now);
        self.rate = limit * (self.rate / self.limit);
        self.limit = limit;
        self.tokens = self.tokens.min(self.burst());
    }

    fn fill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + seconds * self.rate).min(self.burst());
        self.rate = (self.rate + seconds * INCREASE_PER_SECOND * self.limit).min(self.limit);
    }

    fn burst(&self) -> f64 {
        (self.rate * BURST.as_secs_f64()).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100.0, start);
        let mut taken = |at: u64| bucket.take(0.0, start + ms(at)).is_ok();
        assert_eq!(
            [0, 0, 0, 0, 0].map(&mut taken),
            [true, true, true, true, false]
        );
        assert_eq!([5, 10, 15, 20].map(&mut taken), [false, true, false, true]);
        let next = bucket.take(0.0, start + ms(20)).unwrap_err();
        assert_eq!(next.as_millis(), 10);
    }

    #[test]
    fn a_reserve_is_left_for_whoever_comes_next() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100.0, start);
        let taken = (0..4).filter(|_| bucket.take(0.5, start).is_ok());
        assert_eq!(taken.count(), 3);
        assert!(bucket.take(0.0, start).is_ok());
    }

    #[test]
    fn a_throttle_slows_down_once_and_calm_brings_the_rate_back() {
        let start = Instant::now();
        let mut bucket = Bucket::new(500.0, start);
        for _ in 0..50 {
            bucket.throttled(start);
        }
        assert!((bucket.rate() - 425.0).abs() < 1.0, "{}", bucket.rate());
        bucket.throttled(start + ms(250));
        assert!(bucket.rate() < 425.0);
        let _ = bucket.take(0.0, start + ms(10_000));
        assert!((bucket.rate() - 500.0).abs() < 1e-9);
    }

    #[test]
    fn a_service_that_bears_half_is_asked_for_about_half() {
        let start = Instant::now();
        let (mut bucket, mut service) = (Bucket::new(500.0, start), Bucket::new(250.0, start));
        let (mut served, mut throttles) = (0, 0);
        for at in 0..60_000 {
            let now = start + ms(at);
            while bucket.take(0.0, now).is_ok() {
                match service.take(0.0, now) {
                    Ok(()) => served += usize::from(at >= 10_000),
                    Err(_) => {
                        bucket.throttled(now);
                        throttles += usize::from(at >= 10_000);
                    }
                }
            }
        }
        let goodput = served as f64 / 50.0;
        assert!(goodput > 0.9 * 250.0, "{goodput} a second");
        assert!(throttles < served / 50, "{throttles} throttles");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take(f64),
        GiveBack,
        Throttled,
        Limit(f64),
    }

    fn step() -> impl Strategy<Value = (u64, Step)> {
        let step = prop_oneof![
            8 => (0.0..=0.5).prop_map(Step::Take),
            1 => Just(Step::GiveBack),
            1 => Just(Step::Throttled),
            1 => (1.0..1_000.0).prop_map(Step::Limit),
        ];
        (0u64..50, step)
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_allows(
            limit in 1.0..2_000.0,
            steps in prop::collection::vec(step(), 1..400),
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(limit, start);
            let (mut now, mut taken, mut allowed) = (start, 0.0, (limit * 0.04f64).max(1.0));
            for (pause, step) in steps {
                now += ms(pause);
                allowed += bucket.limit() * pause as f64 / 1_000.0;
                match step {
                    Step::Take(reserve) => {
                        if bucket.take(reserve, now).is_ok() {
                            taken += 1.0;
                        }
                    }
                    Step::GiveBack if taken > 0.0 => {
                        taken -= 1.0;
                        bucket.give_back(now);
                    }
                    Step::GiveBack => {}
                    Step::Throttled => bucket.throttled(now),
                    Step::Limit(limit) => bucket.set_limit(limit, now),
                }
                prop_assert!(taken <= allowed + 1e-3, "{taken} of {allowed}");
                prop_assert!(bucket.rate() <= bucket.limit() + 1e-9);
                prop_assert!(bucket.rate() > 0.0);
            }
        }

        #[test]
        fn what_it_says_it_takes_until_the_next_token_is_so(
            limit in 1.0..2_000.0,
            reserve in 0.0..=0.5,
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(limit, start);
            let pause = loop {
                if let Err(pause) = bucket.take(reserve, start) {
                    break pause;
                }
            };
            let due = start + pause + Duration::from_micros(1);
            prop_assert!(bucket.take(reserve, due).is_ok());
        }
    }
}
