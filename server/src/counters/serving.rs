//! What the way from a question to its ranking counts and measures.

use std::time::Duration;

use touchline_runtime::metrics::{Gauge, Histogram, Registry};

use super::{Counter, counter};
use crate::recommend::{Origin, budget::Priority, serving::Freshness};

/// From nothing left to what the most patient callers give.
const DEADLINE_LEFT_BOUNDS: &[f64] = &[0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0];

/// Counts and measures of the serving path.
#[derive(Debug)]
pub struct ServingCounters {
    /// Rankings from the cache, within their time to live.
    pub hits: Counter,
    /// Rankings from the cache, past it.
    pub stale: Counter,
    /// Questions for which the cache had nothing.
    pub misses: Counter,
    /// Questions that joined an equal one that was under way.
    pub coalesced: Counter,
    /// Rankings from the cache that were asked for before anybody needed them.
    pub prefetched_used: Counter,
    /// Rankings given, by [`Origin::ALL`] and [`Freshness::ALL`].
    answers: [[Counter; 3]; 4],
    /// Questions without any ranking.
    pub unanswered: Counter,
    /// What was left of the caller's deadline.
    deadline_left: Histogram,
    /// Better sets that followed a stream's first answer.
    pub followed_up: Counter,
    /// Measures of the budget.
    pub budget: BudgetCounters,
    /// Questions that were asked a second time.
    pub retries: Counter,
    /// Questions that were dropped because their state was superseded.
    pub superseded: Counter,
    /// How often the circuit breaker opened.
    pub breaker_opened: Counter,
    /// Whether it is open: 0 or 1.
    pub is_breaker_open: Gauge,
}

/// Counts and measures of a budget.
#[derive(Debug, Clone)]
pub struct BudgetCounters {
    /// Tokens taken, by [`Priority::ALL`].
    pub tokens: [Counter; 4],
    /// Tokens that were given back: the work was superseded, too late or not admitted.
    pub tokens_given_back: Counter,
    /// Who waits for one, by [`Priority::ALL`].
    pub waiting: [Gauge; 4],
    /// Questions under way.
    pub in_flight: Gauge,
    /// Tokens a second that are never exceeded.
    pub limit: Gauge,
    /// Tokens a second that the service was found to bear.
    pub rate: Gauge,
}

impl ServingCounters {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let [hits, stale, misses, coalesced] = registry.counters(
            "ranking_lookups",
            "Looks into the cache of rankings, where the recommender is Personalize: hit (within its \
             time to live), stale (past it: a newer one is asked for) or miss; coalesced: a miss that \
             joined an equal question under way",
            "result",
            ["hit", "stale", "miss", "coalesced"],
        );
        let answers = registry.table(
            "answers",
            "Rankings that were given, by who gave them (personalize; cohort: Personalize, for the \
             consumer's cohort; embedded; popular) and how fresh they were",
            ("origin", Origin::ALL.map(Origin::as_str)),
            ("freshness", Freshness::ALL.map(Freshness::as_str)),
        );
        Self {
            hits: Counter(hits),
            stale: Counter(stale),
            misses: Counter(misses),
            coalesced: Counter(coalesced),
            prefetched_used: counter(
                registry,
                "prefetched_rankings_used",
                "Rankings from the cache, a cohort's too, that had been asked for before anybody needed \
                 them",
            ),
            answers: answers.map(|row| row.map(Counter)),
            unanswered: counter(
                registry,
                "unanswered",
                "Questions without a ranking from anybody before their deadline",
            ),
            deadline_left: registry.histogram(
                "deadline_left",
                "What was left of the caller's deadline when a ranking was given",
                DEADLINE_LEFT_BOUNDS,
            ),
            followed_up: counter(
                registry,
                "follow_ups",
                "Sets sent to watchers because Personalize answered after somebody else had, and \
                 differently",
            ),
            budget: BudgetCounters::new(registry),
            retries: counter(
                registry,
                "recommender_retries",
                "Questions that the recommender was asked a second time",
            ),
            superseded: counter(
                registry,
                "questions_superseded",
                "Questions dropped because another state of their event came",
            ),
            breaker_opened: counter(
                registry,
                "breaker_opened",
                "Times that the circuit breaker opened because the recommender failed again and again",
            ),
            is_breaker_open: registry.gauge(
                "breaker_open",
                "1 while the circuit breaker keeps questions from the recommender",
            ),
        }
    }

    /// Rankings given from this origin in this freshness.
    pub fn answers(&self, origin: Origin, freshness: Freshness) -> &Counter {
        &self.answers[origin as usize][freshness as usize]
    }

    /// Counts a ranking, with what was left of its caller's deadline.
    pub fn answered(&self, origin: Origin, freshness: Freshness, left: Duration) {
        self.answers(origin, freshness).add(1);
        self.deadline_left.observe(left.as_secs_f64());
    }
}

impl BudgetCounters {
    fn new(registry: &mut Registry) -> Self {
        let priorities = Priority::ALL.map(Priority::as_str);
        let tokens = registry.counters(
            "budget_tokens",
            "Tokens taken from the budget of questions to Personalize, by what for; given back ones \
             included",
            "priority",
            priorities,
        );
        Self {
            tokens: tokens.map(Counter),
            tokens_given_back: counter(
                registry,
                "budget_tokens_given_back",
                "Tokens that went back to the budget unspent: the state was superseded or the deadline \
                 had passed",
            ),
            waiting: registry.gauges(
                "budget_waiting",
                "Questions that wait for a token, by what for",
                "priority",
                priorities,
            ),
            in_flight: registry.gauge(
                "budget_in_flight",
                "Questions to Personalize that are under way; at most --personalize-concurrency",
            ),
            limit: registry.gauge(
                "budget_limit",
                "Questions a second that this replica never exceeds: its part of --personalize-tps; 0 \
                 while Personalize is not asked",
            ),
            rate: registry.gauge(
                "budget_rate",
                "Questions a second that Personalize was found to bear, learned from its throttling",
            ),
        }
    }
}
