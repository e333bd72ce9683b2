//! What happened that nobody was told of. Plain counters: how they are shown is not decided here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
