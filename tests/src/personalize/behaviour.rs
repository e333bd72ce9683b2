//! How the stand-in behaves: its catalog, its delays, its request budget and its failures.
//!
//! It only decides, with the time passed in; waiting and failing are the handler's.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{CAMPAIGN_ARN, Call, ranking};

/// How the stand-in behaves. As JSON it is what the control path speaks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// The one campaign that exists.
    pub campaign_arn: String,
    /// The items that it ranks.
    pub items: Vec<String>,
    /// How long an answer takes.
    pub latency: Latency,
    /// Requests above it are throttled; none: no limit.
    pub budget: Option<Budget>,
    /// What goes wrong with every request; none: nothing.
    pub fault: Option<Fault>,
    /// What goes wrong with the requests of one consumer; wins over `fault`.
    pub consumer_faults: BTreeMap<String, Fault>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            campaign_arn: CAMPAIGN_ARN.to_owned(),
            items: (1..=40).map(|number| format!("ITEM_ID_{number}")).collect(),
            latency: Latency::default(),
            budget: None,
            fault: None,
            consumer_faults: BTreeMap::new(),
        }
    }
}

/// A log-normal distribution: most answers near the median, a few much later.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Latency {
    /// Half of the answers come within it. 0: all answers come at once.
    pub median_ms: f64,
    /// Standard deviation of the logarithm: 0 for a fixed delay, 0.5 for a 99th percentile of
    /// three times the median.
    pub spread: f64,
    /// No answer takes longer.
    pub max_ms: f64,
    /// Equal seeds, equal delays in the order of the requests.
    pub seed: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            median_ms: 0.0,
            spread: 0.0,
            max_ms: 60_000.0,
            seed: 1,
        }
    }
}

impl Latency {
    /// The delay of the request with this number.
    fn draw(&self, number: u64) -> Duration {
        let first = ranking::mix(self.seed.wrapping_add(ranking::mix(number)));
        let second = ranking::mix(first);
        // Box-Muller; the first factor is kept off zero, whose logarithm is infinite.
        let radius = (-2.0 * (1.0 - ranking::unit(first)).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * ranking::unit(second)).cos();
        let delay_ms = self.median_ms * (self.spread * normal).exp();
        let longest_ms = self.max_ms.clamp(0.0, 3_600_000.0);
        // NaN, which odd settings can produce, becomes no delay.
        let delay_ms = delay_ms.min(longest_ms).max(0.0);
        Duration::from_secs_f64(delay_ms / 1000.0)
    }
}

/// A token bucket, as the service's requests per second of a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Tokens that come back in a second.
    pub per_second: f64,
    /// Tokens that it holds, and starts with.
    pub burst: f64,
}

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// `ThrottlingException`.
    Throttle,
    /// `InternalFailure` with status 500.
    Error,
    /// No answer, while the connection stays open.
    Hang,
    /// The connection is reset.
    Reset,
    /// Status 200 and a body that is not JSON.
    Garbage,
}

/// What is to be done with one request.
#[derive(Debug, PartialEq)]
pub(super) struct Verdict {
    /// Wait this long first.
    pub(super) delay: Duration,
    /// Then fail, or answer.
    pub(super) fault: Option<Fault>,
}

/// A behaviour and what it has spent.
#[derive(Debug)]
pub(super) struct Conduct {
    behaviour: Behaviour,
    decided: u64,
    tokens: f64,
    tokens_at: Instant,
}

impl Conduct {
    pub(super) fn new(behaviour: Behaviour, now: Instant) -> Self {
        Self {
            tokens: behaviour.budget.map_or(0.0, |budget| budget.burst),
            behaviour,
            decided: 0,
            tokens_at: now,
        }
    }

    pub(super) fn behaviour(&self) -> &Behaviour {
        &self.behaviour
    }

    /// Behaves differently from now on. A changed budget starts full, a changed latency from its
    /// seed.
    pub(super) fn replace(&mut self, behaviour: Behaviour, now: Instant) {
        if behaviour.latency != self.behaviour.latency {
            self.decided = 0;
        }
        if behaviour.budget != self.behaviour.budget {
            self.tokens = behaviour.budget.map_or(0.0, |budget| budget.burst);
            self.tokens_at = now;
        }
        self.behaviour = behaviour;
    }

    /// Decides over a request that came in now. Throttling answers at once, as the service's does.
    pub(super) fn decide(&mut self, call: &Call, now: Instant) -> Verdict {
        self.decided += 1;
        if !self.take_token(now) {
            return Verdict {
                delay: Duration::ZERO,
                fault: Some(Fault::Throttle),
            };
        }
        let of_consumer = self.behaviour.consumer_faults.get(&call.consumer_id);
        Verdict {
            delay: self.behaviour.latency.draw(self.decided),
            fault: of_consumer.copied().or(self.behaviour.fault),
        }
    }

    fn take_token(&mut self, now: Instant) -> bool {
        let Some(budget) = self.behaviour.budget else {
            return true;
        };
        let elapsed = now.saturating_duration_since(self.tokens_at);
        self.tokens_at = now;
        self.tokens = (self.tokens + elapsed.as_secs_f64() * budget.per_second).min(budget.burst);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let budget = Some(Budget {
            per_second: 10.0,
            burst: 3.0,
        });
        let mut conduct = Conduct::new(
            Behaviour {
                budget,
                ..Behaviour::default()
            },
            start,
        );
        let mut throttled_at = |after_ms: u64| {
            let now = start + Duration::from_millis(after_ms);
            conduct.decide(&Call::default(), now).fault == Some(Fault::Throttle)
        };
        assert_eq!(
            [0, 0, 0, 0].map(&mut throttled_at),
            [false, false, false, true]
        );
        assert_eq!(
            [50, 100, 150, 200].map(&mut throttled_at),
            [true, false, true, false]
        );
        assert_eq!(
            [9000; 4].map(&mut throttled_at),
            [false, false, false, true]
        );
    }

    #[test]
    fn equal_seeds_give_equal_delays_around_the_median() {
        let latency = Latency {
            median_ms: 20.0,
            spread: 0.5,
            max_ms: 100.0,
            seed: 7,
        };
        let delays: Vec<_> = (0..10_000).map(|number| latency.draw(number)).collect();
        assert_eq!(delays[42], latency.draw(42));
        assert_ne!(delays[42], Latency { seed: 8, ..latency }.draw(42));
        let below = delays.iter().filter(|delay| delay.as_millis() < 20).count();
        assert!(
            (4_700..5_300).contains(&below),
            "{below} of 10,000 below the median"
        );
        let longest = delays.iter().max().expect("there are delays");
        assert!(
            (60..=100).contains(&longest.as_millis()),
            "longest {longest:?}"
        );
    }

    #[test]
    fn a_consumers_own_fault_wins() {
        let mut behaviour = Behaviour {
            fault: Some(Fault::Error),
            ..Behaviour::default()
        };
        behaviour
            .consumer_faults
            .insert("ann".to_owned(), Fault::Hang);
        let mut conduct = Conduct::new(behaviour, Instant::now());
        let mut fault_of = |consumer_id: &str| {
            let call = Call {
                consumer_id: consumer_id.to_owned(),
                ..Call::default()
            };
            conduct.decide(&call, Instant::now()).fault
        };
        assert_eq!(fault_of("ann"), Some(Fault::Hang));
        assert_eq!(fault_of("bob"), Some(Fault::Error));
    }
}
