//! What happened that nobody was told of. Plain counters: how they are shown is not decided here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of what was skipped, shed or failed since the server started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Ranked or pinned items that were not shown, by reason.
    pub dropped: Dropped,
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
    /// Times that other policies came into force.
    pub policies_reloads: Counter,
    /// Times that the policies file changed and could not be used; the last good policies stayed.
    pub policies_reloads_failed: Counter,
}

/// Counts of items that moderation did not show, each for the first reason that was found.
#[derive(Debug, Default)]
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
