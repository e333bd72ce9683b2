//! Which components a consumer sees: a ranking, moderated over the catalog. Does not know events
//! apart from their context, nor messages.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use tokio::time::Instant;
use touchline_store::event::{Context, EventState};

use crate::{
    catalog::{Catalog, CatalogCache},
    components::{Moderated, policies::Reason},
    config::NumResults,
    counters::Counters,
    error::Error,
    moderation::{Moderation, Occasion},
    recommend::{
        Origin, Query,
        serving::{Chunk, Freshness, Rankings, Served},
    },
    watch::Seen,
};

/// Characters of a context's key or value (Personalize, GetRecommendations, `context`).
pub(crate) const CONTEXT_CHARACTERS_MAX: usize = 1_000;

/// One consumer's components, and where they come from.
#[derive(Debug, Clone)]
pub struct Decided {
    /// What is shown.
    pub moderated: Moderated,
    /// The recommender's name for its answer.
    pub recommendation_id: Option<String>,
    /// Where the ranking came from.
    pub origin: Origin,
    /// How fresh it is.
    pub freshness: Freshness,
    /// Time since the recommender gave it.
    pub age: Duration,
}

/// Decides component sets.
#[derive(Debug)]
pub struct Sets {
    catalog: Arc<CatalogCache>,
    rankings: Arc<Rankings>,
    moderation: Moderation,
    context_keys: Vec<String>,
    num_results_default: NumResults,
    counters: Arc<Counters>,
}

impl Sets {
    /// Over a catalog and rankings. `context_keys` are upper case.
    pub fn new(
        catalog: Arc<CatalogCache>,
        rankings: Arc<Rankings>,
        moderation: Moderation,
        context_keys: Vec<String>,
        num_results_default: NumResults,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            catalog,
            rankings,
            moderation,
            context_keys,
            num_results_default,
            counters,
        }
    }

    /// The catalog that sets are made of.
    pub fn catalog(&self) -> &CatalogCache {
        &self.catalog
    }

    /// Where rankings come from.
    pub fn rankings(&self) -> &Rankings {
        &self.rankings
    }

    /// The context of an event's state, by the configured keys. What the row does not answer, or
    /// answers with more than a recommender accepts, is left out and counted (the prototype fails
    /// for everybody).
    pub fn context(&self, state: &EventState) -> Context {
        let mut context = state.context(&self.context_keys);
        context.retain(|_, value| value.chars().nth(CONTEXT_CHARACTERS_MAX).is_none());
        let missing = self.context_keys.len() - context.len();
        self.counters.context_keys_missing.add(missing);
        context
    }

    /// How many items a recommender is asked for; 0 means the default.
    pub fn num_results(&self, wanted: u32) -> usize {
        match wanted {
            0 => {
                let items = self.catalog.current().map_or(0, |catalog| catalog.len());
                self.num_results_default.of(items)
            }
            wanted => wanted as usize,
        }
    }

    /// One consumer's set; `seen` is the event's state, if it was one that decides.
    pub async fn decide(
        &self,
        query: Query,
        seen: Option<&Seen>,
        deadline: Instant,
    ) -> Result<Decided, Error> {
        let catalog = self.catalog.current()?;
        let (consumer_id, context) = (query.consumer_id.clone(), query.context.clone());
        let served = self.rankings.rank(query, deadline).await?;
        let occasion = Occasion {
            consumer_id: &consumer_id,
            context: &context,
            seen,
        };
        Ok(self.moderated(&served, &catalog, occasion))
    }

    /// Many consumers' sets in one state of an event, as they are ready: each with its place in `queries`, exactly once. All
    /// are made of one state of the catalog.
    pub fn decide_all(
        self: Arc<Self>,
        queries: Vec<Query>,
        seen: Arc<Seen>,
        deadline: Instant,
    ) -> Result<impl Stream<Item = Chunk<Decided>>, Error> {
        let catalog = self.catalog.current()?;
        let asked: Vec<_> = queries
            .iter()
            .map(|query| (query.consumer_id.clone(), query.context.clone()))
            .collect();
        let served = self.rankings.clone().rank_all(queries, deadline);
        Ok(served.map(move |chunk| {
            chunk
                .into_iter()
                .map(|(index, served)| {
                    let (consumer_id, context) = &asked[index];
                    let occasion = Occasion {
                        consumer_id,
                        context,
                        seen: Some(&seen),
                    };
                    let decide = |served| self.moderated(&served, &catalog, occasion);
                    (index, served.map(decide))
                })
                .collect()
        }))
    }

    fn moderated(&self, served: &Served, catalog: &Catalog, occasion: Occasion<'_>) -> Decided {
        let ranking = &served.ranking;
        let moderated = self.moderation.moderate(&ranking.items, catalog, occasion);
        // What is pinned may name an item that is long gone, or not there yet.
        let is_news = moderated
            .dropped
            .iter()
            .any(|dropped| dropped.reason == Reason::UnknownItem && dropped.rank > 0);
        if is_news {
            self.catalog.look_again();
        }
        Decided {
            moderated,
            recommendation_id: ranking.recommendation_id.clone(),
            origin: ranking.origin,
            freshness: served.freshness,
            age: served.age,
        }
    }
}
