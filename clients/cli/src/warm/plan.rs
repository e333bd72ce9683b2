//! How much that is and how long it will take, from what the replicas say of their budgets. Pure.

use std::time::Duration;

use touchline_client::Share;

/// Consumers of a page at most: the server accepts no more.
const PAGE_MAX: usize = 1_000;
/// A page is about this long's worth of the budget, so that it ends well before its time-out.
const PAGE_SECONDS: f64 = 2.0;

/// What lies before the server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Rankings.
    pub questions: u64,
    /// Replicas that are asked.
    pub replicas: usize,
    /// Questions a second that they may ask together.
    pub per_second: f64,
    /// How long the budget takes if nothing is cached and nobody else asks.
    pub takes: Duration,
    /// Consumers of one call.
    pub page_size: usize,
}

impl Plan {
    /// For this many states; `None` where a ranking is asked for each time, since then there is
    /// nothing to warm.
    pub fn new(states: usize, shares: &[Share]) -> Option<Self> {
        let mut plan = Self {
            questions: 0,
            replicas: shares.len(),
            per_second: 0.0,
            takes: Duration::ZERO,
            page_size: PAGE_MAX,
        };
        for share in shares {
            let limit = share.recommender.as_ref()?.limit_per_second;
            let questions = share.consumers as u64 * states as u64;
            plan.questions += questions;
            plan.per_second += limit;
            // The slowest replica is the last one to be done.
            plan.takes = plan.takes.max(seconds(questions as f64 / limit));
        }
        let page = (plan.per_second * PAGE_SECONDS) as usize;
        plan.page_size = page.clamp(1, PAGE_MAX);
        Some(plan)
    }

    /// Questions a second that would be done within this long, rounded up.
    pub fn tps_within(&self, within: Duration) -> u32 {
        let needed = (self.questions as f64 / within.as_secs_f64()).ceil();
        // A figure that does not fit is none that anybody provisions.
        (needed as u32).max(1)
    }
}

/// A budget of nothing takes for ever, which is long enough as a year.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds)
        .unwrap_or(Duration::MAX)
        .min(Duration::from_hours(24 * 365))
}

/// The region that an ARN names.
pub fn region_of(arn: &str) -> Option<&str> {
    arn.split(':').nth(3).filter(|region| !region.is_empty())
}

#[cfg(test)]
mod tests {
    use touchline_client::proto::RecommenderState;

    use super::*;

    fn share(consumers: usize, limit_per_second: f64) -> Share {
        Share {
            consumers,
            recommender: Some(RecommenderState {
                limit_per_second,
                ..RecommenderState::default()
            }),
        }
    }

    #[test]
    fn the_slowest_replica_says_how_long_it_takes() {
        let plan = Plan::new(3, &[share(1_000, 250.0), share(2_000, 250.0)]).unwrap();
        assert_eq!((plan.questions, plan.replicas), (9_000, 2));
        assert_eq!(plan.takes, Duration::from_secs(24));
        assert_eq!(plan.page_size, 1_000);
        assert_eq!(plan.tps_within(Duration::from_mins(1)), 150);
        assert_eq!(plan.tps_within(Duration::from_secs(7)), 1_286);
        assert_eq!(plan.tps_within(Duration::from_hours(24)), 1);
    }

    #[test]
    fn a_page_is_a_small_part_of_its_time_out_however_small_the_budget() {
        assert_eq!(Plan::new(1, &[share(1_000, 5.0)]).unwrap().page_size, 10);
        assert_eq!(Plan::new(1, &[share(1_000, 0.1)]).unwrap().page_size, 1);
        let nothing = Plan::new(1, &[share(1_000, 0.0)]).unwrap();
        assert_eq!(nothing.takes, Duration::from_hours(24 * 365));
    }

    #[test]
    fn where_rankings_are_asked_for_each_time_there_is_nothing_to_plan() {
        let embedded = Share {
            consumers: 5,
            recommender: None,
        };
        assert_eq!(Plan::new(1, &[embedded]), None);
    }
}
