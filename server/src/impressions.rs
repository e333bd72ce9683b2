//! What was shown, remembered for each consumer and event while policies have caps: bounded, in this
//! replica's memory only. What may be shown because of it is decided in [`crate::components`].

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize, atomic::Ordering::Relaxed},
    time::Duration,
};

use moka::{policy::EvictionPolicy, sync::Cache};
use touchline_store::ids::{ConsumerId, EventId};

use crate::components::history::History;

/// A consumer who was not asked for in an event for so long has left the match.
const IDLE: Duration = Duration::from_hours(12);
/// Bytes that an entry costs beside its texts and counts: pointers and counters of the cache.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// The histories of all consumers.
#[derive(Debug)]
pub struct Impressions {
    histories: Cache<(EventId, ConsumerId), Arc<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    history: Mutex<History>,
    bytes: AtomicUsize,
}

impl Impressions {
    /// Remembers nothing yet, and never much more than this many bytes: beyond, whoever was not
    /// asked for the longest is forgotten.
    pub fn new(bytes_max: u64) -> Self {
        let histories = Cache::builder()
            .weigher(
                |(event_id, consumer_id): &(EventId, ConsumerId), kept: &Arc<Kept>| {
                    let ids = event_id.as_str().len() + consumer_id.as_str().len();
                    let bytes = ENTRY_OVERHEAD_BYTES + ids + kept.bytes.load(Relaxed);
                    u32::try_from(bytes).unwrap_or(u32::MAX)
                },
            )
            .max_capacity(bytes_max)
            // The default would rather keep who was asked for often, and not take in who is new.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(IDLE)
            .build();
        Self { histories }
    }

    /// Lets `decide` see a consumer's history in an event and add to it, one caller at a time. It
    /// says, beside its answer, whether it added anything.
    pub fn with<T>(
        &self,
        event_id: &EventId,
        consumer_id: &ConsumerId,
        decide: impl FnOnce(&mut History) -> (T, bool),
    ) -> T {
        let key = (event_id.clone(), consumer_id.clone());
        let kept = self.histories.get_with(key.clone(), Arc::default);
        let (answer, is_new) = {
            // A decision that panicked has counted nothing or something that was shown.
            let mut history = kept.history.lock().unwrap_or_else(PoisonError::into_inner);
            let (answer, is_new) = decide(&mut history);
            if is_new {
                kept.bytes.store(history.bytes(), Relaxed);
            }
            (answer, is_new)
        };
        if is_new {
            // The cache weighs an entry when it is put in.
            self.histories.insert(key, kept);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::Catalog,
        components::{
            history::StateKey,
            moderate,
            policies::{Asked, Policies, Rule, Who},
        },
        recommend::RankedItem,
    };
    use touchline_store::{
        event::{Context, Version},
        ids::{ItemId, ItemType},
        item::Item,
    };

    /// Shows a capped item to a consumer in a state; says whether it was shown.
    fn show(impressions: &Impressions, consumer: &str, state: u32) -> bool {
        let item_id = ItemId::new("offer").unwrap();
        let capped = Rule {
            cap: Some(1),
            ..Rule::default()
        };
        let policies = Policies {
            items: [(item_id.clone(), capped)].into(),
            ..Policies::default()
        };
        let catalog = Catalog::new(vec![Item {
            item_id: item_id.clone(),
            item_type: ItemType::new("GENERAL").unwrap(),
            attributes: Default::default(),
        }]);
        let ranking = [RankedItem {
            item_id,
            score: None,
            details: None,
        }];
        let state = StateKey::of(&Version::from_text(state.to_string()));
        let event_id = EventId::new("1").unwrap();
        let consumer_id = ConsumerId::new(consumer).unwrap();
        impressions.with(&event_id, &consumer_id, |history| {
            let asked = Asked {
                policies: &policies,
                who: Who::default(),
                context: &Context::new(),
                now: 0,
                shown: Some((state, history)),
            };
            let components = moderate(&ranking, &catalog, &asked).components;
            let is_new = history.count(state, &components, &policies);
            (!components.is_empty(), is_new)
        })
    }

    #[test]
    fn each_consumer_has_a_history_of_their_own() {
        let impressions = Impressions::new(1 << 20);
        assert!(show(&impressions, "ann", 1) && show(&impressions, "ben", 2));
        assert!(show(&impressions, "ann", 1) && !show(&impressions, "ann", 2));
        assert!(show(&impressions, "ben", 2) && !show(&impressions, "ben", 1));
    }

    #[test]
    fn memory_is_bounded_and_who_came_last_is_remembered() {
        let bytes_max = 64 << 10;
        let impressions = Impressions::new(bytes_max);
        for number in 0..2_000 {
            show(&impressions, &number.to_string(), 1);
            impressions.histories.run_pending_tasks();
            assert!(!show(&impressions, &number.to_string(), 2), "{number}");
        }
        impressions.histories.run_pending_tasks();
        assert!(impressions.histories.weighted_size() <= bytes_max);
        assert!(show(&impressions, "0", 2), "the first is forgotten");
    }
}
