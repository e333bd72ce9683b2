//! How fast a service is asked, beside what it may be. Looks at the count of calls again and again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use tokio::time::{Instant, sleep};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::figures::Figure;

/// How often the count is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// What the server's bucket may hold, as a part of a second's budget.
const BURST_SECONDS: f64 = 0.04;

/// A count and when it was seen.
type Sample = (Duration, u64);

/// Counts from now on.
pub(super) struct Pace {
    samples: Arc<Mutex<Vec<Sample>>>,
    _looking: AbortOnDropHandle<()>,
}

impl Pace {
    /// Begins, at a count of zero.
    pub(super) fn start(count: impl Fn() -> u64 + Send + 'static) -> Self {
        let samples: Arc<Mutex<Vec<Sample>>> = Arc::default();
        let began = Instant::now();
        let looking = TaskTracker::new().spawn({
            let samples = samples.clone();
            async move {
                loop {
                    // The count first: what comes in between makes the pace slower, never faster.
                    let count = count();
                    let sample = (began.elapsed(), count);
                    samples
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(sample);
                    sleep(LOOK).await;
                }
            }
        });
        Self {
            samples,
            _looking: AbortOnDropHandle::new(looking),
        }
    }

    /// What was made while there was work: until so many were.
    pub(super) fn stop(self, work: u64) -> Made {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        Made {
            samples: samples.clone(),
            work,
        }
    }
}

/// Calls that were made, by time.
pub(super) struct Made {
    samples: Vec<Sample>,
    work: u64,
}

impl Made {
    /// Never more than the budget allows, from the first moment on.
    pub(super) fn check(&self, budget: u32) -> Result<()> {
        let budget = f64::from(budget);
        for (at, count) in &self.samples {
            let allowed = budget * (at.as_secs_f64() + BURST_SECONDS) + 1.0;
            ensure!(
                *count as f64 <= allowed,
                "{count} calls after {at:?}, where {allowed} are allowed"
            );
        }
        Ok(())
    }

    /// Calls a second while there was work, beside the budget.
    pub(super) fn figures(&self, name: &str, budget: u32) -> Vec<Figure> {
        // The first tenth and the last calls, which wait for their answers only, are left out.
        let enough = |share: u64| {
            let mut samples = self.samples.iter();
            samples
                .find(|(_, count)| *count >= self.work * share / 100)
                .copied()
        };
        let (Some((from, first)), Some((to, last))) = (enough(5), enough(95)) else {
            return Vec::new();
        };
        let rate = (last - first) as f64 / (to - from).as_secs_f64();
        let figure = Figure::one(
            format!("{name}: calls of Personalize"),
            rate,
            "1/s",
            last - first,
        );
        vec![figure.against(f64::from(budget))]
    }
}
