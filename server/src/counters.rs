//! What happened that nobody was told of. Plain counters: how they are shown is not decided here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::recommend::{Origin, budget::Priority, serving::Freshness};

/// Counts of what was skipped, shed or failed since the server started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Ranked items that the catalog does not know, or whose row has no item type.
    pub unknown_items: Counter,
    /// Context keys that an event's row did not answer.
    pub context_keys_missing: Counter,
    /// Reads of the whole item table.
    pub catalog_refreshes: Counter,
    /// Refreshes of the catalog that failed; the last good copy stayed.
    pub catalog_refreshes_failed: Counter,
    /// Calls turned away because too many were in flight.
    pub calls_shed: Counter,
    /// Connections turned away because too many were open.
    pub connections_shed: Counter,
    /// Questions that the recommender was asked.
    pub recommender_questions: Counter,
    /// Questions that it did not answer.
    pub recommender_failures: Counter,
    /// What happened on the way from a question to its ranking.
    pub serving: Arc<ServingCounters>,
}

/// Counts of the serving path.
#[derive(Debug, Default)]
pub struct ServingCounters {
    /// Rankings from the cache, within their time to live.
    pub hits: Counter,
    /// Rankings from the cache, past it.
    pub stale: Counter,
    /// Questions for which the cache had nothing.
    pub misses: Counter,
    /// Questions that joined an equal one that was under way.
    pub coalesced: Counter,
    /// Tokens of the budget, by [`Priority::ALL`](crate::recommend::budget::Priority::ALL).
    pub tokens: [Counter; 4],
    /// Tokens that were given back: the work was superseded, too late or not admitted.
    pub tokens_given_back: Counter,
    /// Throttles by the recommender.
    pub throttles: Counter,
    /// Questions that were asked a second time.
    pub retries: Counter,
    /// Questions that were dropped because their state was superseded.
    pub superseded: Counter,
    /// How often the circuit breaker opened.
    pub breaker_opened: Counter,
    /// Better sets that followed a stream's first answer.
    pub followed_up: Counter,
    /// Rankings given, by origin and freshness: see [`ServingCounters::answered`].
    answers: [[Counter; 3]; 4],
    /// Questions without any ranking.
    pub unanswered: Counter,
    /// Rankings by how much of the caller's deadline was left, up to and including
    /// [`DEADLINE_LEFT_MS`]; the last: more.
    pub deadline_left: [Counter; 8],
    /// Sum of what was left, in milliseconds.
    pub deadline_left_ms: Counter,
}

/// Upper ends of the first seven of [`ServingCounters::deadline_left`].
pub const DEADLINE_LEFT_MS: [u64; 7] = [0, 10, 50, 100, 250, 1_000, 5_000];

impl ServingCounters {
    /// Rankings given from this origin in this freshness.
    pub fn answers(&self, origin: Origin, freshness: Freshness) -> &Counter {
        &self.answers[origin as usize][freshness as usize]
    }

    /// Every count by its name, those by priority, origin or freshness with that in the name.
    pub fn all(&self) -> Vec<(String, u64)> {
        let plain = [
            ("hits", &self.hits),
            ("stale", &self.stale),
            ("misses", &self.misses),
            ("coalesced", &self.coalesced),
            ("tokens_given_back", &self.tokens_given_back),
            ("throttles", &self.throttles),
            ("retries", &self.retries),
            ("superseded", &self.superseded),
            ("breaker_opened", &self.breaker_opened),
            ("followed_up", &self.followed_up),
            ("unanswered", &self.unanswered),
        ];
        let mut all: Vec<(String, u64)> = plain
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count.get()))
            .collect();
        for (priority, count) in Priority::ALL.iter().zip(&self.tokens) {
            all.push((format!("tokens_{}", priority.as_str()), count.get()));
        }
        for origin in Origin::ALL {
            for freshness in Freshness::ALL {
                let name = format!("answers_{}_{}", origin.as_str(), freshness.as_str());
                all.push((name, self.answers(origin, freshness).get()));
            }
        }
        all
    }

    /// Counts a ranking, with what was left of its caller's deadline.
    pub fn answered(&self, origin: Origin, freshness: Freshness, left: Duration) {
        self.answers(origin, freshness).add(1);
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let place = DEADLINE_LEFT_MS.partition_point(|end| *end < left_ms);
        self.deadline_left[place].add(1);
        self.deadline_left_ms
            .add(usize::try_from(left_ms).unwrap_or(usize::MAX));
    }
}

/// One count.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `count` more.
    pub fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
