//! What is kept of the recommender's answers: by question, bounded by bytes. Does not decide when an
//! answer is good enough.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use tokio::time::Instant;
use touchline_store::{event::Context, ids::ConsumerId};

use crate::{
    components::{Component, Dropped},
    moderation::Kept,
    recommend::{Query, Ranking, refinement::Refinement},
};

/// Bytes that an entry costs beside its texts: keys, counters and pointers of the cache.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// One question, whatever campaign is asked: another campaign makes its answers stale, and nobody
/// waits for all of them to be asked again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    consumer_id: ConsumerId,
    context: Arc<Context>,
    num_results: usize,
    refinement: Arc<Refinement>,
}

impl From<&Query> for Key {
    fn from(query: &Query) -> Self {
        Self {
            consumer_id: query.consumer_id.clone(),
            context: query.context.clone(),
            num_results: query.num_results,
            refinement: query.refinement.clone(),
        }
    }
}

/// One answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) ranking: Arc<Ranking>,
    pub(super) given_at: Instant,
    /// The recommender's generation when it was asked.
    pub(super) generation: u64,
    /// What was made of it.
    pub(super) kept: Arc<Kept>,
    /// Whether it was asked for before anybody needed it.
    pub(super) is_prefetched: bool,
}

impl Answer {
    pub(super) fn is_fresh(&self, time_to_live: Duration, generation: u64) -> bool {
        self.generation == generation && self.given_at.elapsed() < time_to_live
    }
}

/// An empty cache; answers leave it at the end of their life at the latest.
pub(super) fn new(bytes: u64, life: Duration) -> Cache<Key, Answer> {
    Cache::builder()
        .weigher(weigh)
        .max_capacity(bytes)
        .time_to_live(life)
        .build()
}

fn weigh(key: &Key, answer: &Answer) -> u32 {
    let context: usize = key
        .context
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    let ranking = &answer.ranking;
    let items: usize = ranking
        .items
        .iter()
        .map(|ranked| {
            let details = ranked.details.as_ref().map_or(0, |details| {
                let reasons = details.reasons.iter().map(String::len);
                let metadata = details.metadata.iter();
                let metadata = metadata.map(|(name, value)| name.len() + value.len());
                size_of_val(&**details) + reasons.chain(metadata).sum::<usize>()
            });
            // Each item is a component or dropped in what is kept beside the ranking.
            let made = size_of::<Component>().max(size_of::<Dropped>());
            ranked.item_id.as_str().len() + size_of_val(ranked) + made + details
        })
        .sum();
    let recommendation_id = ranking.recommendation_id.as_ref().map_or(0, String::len);
    let bytes =
        ENTRY_OVERHEAD_BYTES + key.consumer_id.as_str().len() + context + items + recommendation_id;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use touchline_store::ids::ItemId;

    use super::*;
    use crate::recommend::{Origin, RankedItem};

    #[test]
    fn an_entry_weighs_at_least_its_texts() {
        let key = Key {
            consumer_id: ConsumerId::new("c".repeat(100)).unwrap(),
            context: Arc::new(Context::from([("K".repeat(50), "v".repeat(50))])),
            num_results: 10,
            refinement: Arc::default(),
        };
        let answer = Answer {
            ranking: Arc::new(Ranking {
                items: vec![RankedItem {
                    item_id: ItemId::new("i".repeat(200)).unwrap(),
                    score: None,
                    details: None,
                }],
                recommendation_id: Some("r".repeat(40)),
                origin: Origin::Personalize,
            }),
            given_at: Instant::now(),
            generation: 0,
            kept: Arc::default(),
            is_prefetched: false,
        };
        assert!(weigh(&key, &answer) >= 440);
    }
}
