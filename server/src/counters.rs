//! What the parts of this server count and measure, apart from calls, which are measured around all of
//! it in `layers`. Names, help and labels stand here alone; docs/metrics.md is made from them.

use std::time::Instant;

use touchline_runtime::metrics::{self, Age, Gauge, Histogram, Registry};

use crate::recommend::{Ranking, RecommendError};

mod serving;

pub use serving::{BudgetCounters, ServingCounters};

/// From what the embedded ranker takes for a batch to the longest time that Personalize is given.
const RECOMMENDER_BOUNDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Counts and measures since the server started.
#[derive(Debug)]
pub struct Counters {
    /// Ranked or pinned items that were not shown, by reason.
    pub dropped: Dropped,
    /// Context keys that an event's row did not answer.
    pub context_keys_missing: Counter,
    /// Items of the catalog.
    pub catalog_items: Gauge,
    /// Which state of the item table the catalog is of.
    pub catalog_generation: Gauge,
    /// Since the item table was last read.
    pub catalog_age: Age,
    /// Reads of the whole item table.
    pub catalog_refreshes: Counter,
    /// Refreshes of the catalog that failed; the last good copy stayed.
    pub catalog_refreshes_failed: Counter,
    /// Calls that are not answered yet.
    pub calls_in_flight: Gauge,
    /// Calls turned away because too many were in flight.
    pub calls_shed: Counter,
    /// Connections turned away because too many were open.
    pub connections_shed: Counter,
    /// What happens on the way from a question to its ranking.
    pub serving: ServingCounters,
    /// Questions to the recommender.
    pub recommender: Recommender,
    /// Watches of events that are open.
    pub watchers: Gauge,
    /// Whether a change feed is followed: 0 or 1.
    pub is_following: Gauge,
    /// Rows that were read because no feed showed them.
    pub polls: Counter,
    /// Times that other policies came into force.
    pub policies_reloads: Counter,
    /// Times that the policies file changed and could not be used; the last good policies stayed.
    pub policies_reloads_failed: Counter,
}

impl Counters {
    /// All at zero.
    pub fn new(registry: &mut Registry) -> Self {
        Self {
            serving: ServingCounters::new(registry),
            recommender: Recommender::new(registry),
            dropped: Dropped::new(registry),
            context_keys_missing: counter(
                registry,
                "context_keys_missing",
                "Context keys that an event's row did not answer",
            ),
            catalog_items: registry.gauge("catalog_items", "Items of the catalog"),
            catalog_generation: registry.gauge(
                "catalog_generation",
                "Changes of the item table that this replica has seen since it started",
            ),
            catalog_age: registry.age(
                "catalog_age",
                "Time since the item table was last read whole; absent before the first time",
            ),
            catalog_refreshes: counter(
                registry,
                "catalog_refreshes",
                "Reads of the whole item table",
            ),
            catalog_refreshes_failed: counter(
                registry,
                "catalog_refreshes_failed",
                "Reads of the item table that failed; the last good copy is served on",
            ),
            calls_in_flight: registry.gauge(
                "calls_in_flight",
                "Calls that are not answered yet; a stream until its answer has begun. At most \
                 --max-calls",
            ),
            calls_shed: counter(
                registry,
                "calls_shed",
                "Calls turned away at once because --max-calls were in flight",
            ),
            connections_shed: counter(
                registry,
                "connections_shed",
                "Connections closed at once because --max-connections were open",
            ),
            watchers: registry.gauge("watchers", "WatchEvent streams that are open"),
            is_following: registry.gauge(
                "following",
                "1 while a change feed is followed and has shown every event; 0 while watched rows are \
                 polled instead",
            ),
            polls: counter(
                registry,
                "polls",
                "Rows of watched events that were read because no change feed showed them",
            ),
            policies_reloads: counter(
                registry,
                "policies_reloads",
                "Times that other moderation policies came into force",
            ),
            policies_reloads_failed: counter(
                registry,
                "policies_reloads_failed",
                "Times that the policies file changed and could not be used; the last good policies \
                 stayed",
            ),
        }
    }
}

impl Default for Counters {
    /// Shown to nobody.
    fn default() -> Self {
        Self::new(&mut Registry::new("touchline_server"))
    }
}

/// Counts of items that moderation did not show, each for the first reason that was found.
#[derive(Debug)]
pub struct Dropped {
    /// The catalog does not know it, or its row has no item type.
    pub unknown_item: Counter,
    /// It is blocked.
    pub blocked: Counter,
    /// The consumer is too young, or of unknown age.
    pub age: Counter,
    /// Not in the consumer's country, or that is unknown.
    pub country: Counter,
    /// Not at this time, or not in this situation.
    pub schedule: Counter,
    /// Shown to the consumer in as many states of the event as it may.
    pub cap: Counter,
    /// The slots of its type were taken by better ones.
    pub slot_full: Counter,
}

impl Dropped {
    fn new(registry: &mut Registry) -> Self {
        let [
            unknown_item,
            blocked,
            age,
            country,
            schedule,
            cap,
            slot_full,
        ] = registry.counters(
            "items_dropped",
            "Ranked or pinned items that moderation did not show, by the first reason that was found: \
             unknown to the catalog, blocked, the consumer's age or country, the schedule or situation, \
             a cap, or its slots taken by better ones",
            "reason",
            [
                "unknown_item",
                "blocked",
                "age",
                "country",
                "schedule",
                "cap",
                "slot_full",
            ],
        );
        Self {
            unknown_item: Counter(unknown_item),
            blocked: Counter(blocked),
            age: Counter(age),
            country: Counter(country),
            schedule: Counter(schedule),
            cap: Counter(cap),
            slot_full: Counter(slot_full),
        }
    }
}

/// Questions to the recommender.
#[derive(Debug)]
pub struct Recommender {
    /// Answered.
    pub answered: Counter,
    /// It asked for fewer.
    pub throttled: Counter,
    /// No answer in time.
    pub timed_out: Counter,
    /// It could not be reached, or failed.
    pub unavailable: Counter,
    /// It never answers that.
    pub refused: Counter,
    /// Nobody waited any longer.
    pub abandoned: Counter,
    duration: Histogram,
}

impl Recommender {
    fn new(registry: &mut Registry) -> Self {
        let [
            answered,
            throttled,
            timed_out,
            unavailable,
            refused,
            abandoned,
        ] = registry.counters(
            "recommender_questions",
            "Questions to the recommender, one a consumer: answered, or why not; abandoned: whoever \
             asked waited no longer",
            "outcome",
            [
                "answered",
                "throttled",
                "timed_out",
                "unavailable",
                "refused",
                "abandoned",
            ],
        );
        Self {
            answered: Counter(answered),
            throttled: Counter(throttled),
            timed_out: Counter(timed_out),
            unavailable: Counter(unavailable),
            refused: Counter(refused),
            abandoned: Counter(abandoned),
            duration: registry.histogram(
                "recommender_call",
                "Time of a call of the recommender: one question to Personalize, up to 64 to the \
                 embedded ranker",
                RECOMMENDER_BOUNDS,
            ),
        }
    }

    /// The recommender is asked so many questions from now on.
    pub fn asking(&self, questions: usize) -> Asking<'_> {
        Asking {
            recommender: self,
            open: questions,
            began: Instant::now(),
        }
    }

    fn counter(&self, answer: &Result<Ranking, RecommendError>) -> &Counter {
        match answer {
            Ok(_) => &self.answered,
            Err(RecommendError::Throttled { .. }) => &self.throttled,
            Err(RecommendError::TimedOut) => &self.timed_out,
            Err(RecommendError::Unavailable(_)) => &self.unavailable,
            Err(RecommendError::Invalid(_) | RecommendError::Unsupported(_)) => &self.refused,
        }
    }
}

/// A call of the recommender. Dropped before it was answered, it was abandoned.
#[derive(Debug)]
pub struct Asking<'a> {
    recommender: &'a Recommender,
    open: usize,
    began: Instant,
}

impl Asking<'_> {
    /// These are the answers.
    pub fn answered(mut self, answers: &[Result<Ranking, RecommendError>]) {
        self.open = 0;
        for answer in answers {
            self.recommender.counter(answer).add(1);
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.recommender.abandoned.add(self.open);
        let seconds = self.began.elapsed().as_secs_f64();
        self.recommender.duration.observe(seconds);
    }
}

/// One count.
#[derive(Debug, Clone)]
pub struct Counter(metrics::Counter);

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    Counter(registry.counter(name, help))
}

impl Counter {
    /// Counts `count` more.
    pub fn add(&self, count: usize) {
        self.0.inc_by(count as u64);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_question_is_counted_once_by_what_became_of_it() {
        let recommender = Counters::default().recommender;
        let throttled = RecommendError::Throttled {
            retry_after: Duration::ZERO,
        };
        let answers = [Err(throttled), Err(RecommendError::TimedOut)];
        recommender.asking(2).answered(&answers);
        drop(recommender.asking(3));
        let counts = [
            &recommender.answered,
            &recommender.throttled,
            &recommender.timed_out,
            &recommender.abandoned,
        ];
        assert_eq!(counts.map(Counter::get), [0, 1, 1, 3]);
    }
}
