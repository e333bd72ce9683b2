//! Which components a consumer sees: a ranking, moderated over the catalog. Does not know events
//! apart from their context, nor messages.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures::{Stream, StreamExt};
use tokio::time::Instant;
use touchline_store::{
    event::Context,
    ids::{ConsumerId, EventId},
};

use crate::{
    catalog::{Catalog, CatalogCache},
    components::{Moderated, policies::Reason},
    config::NumResults,
    counters::Counters,
    error::Error,
    moderation::{Moderation, Occasion},
    recommend::{
        Origin, Ranking,
        prefetch::{Asking, Prefetcher},
        refinement::{CONTEXT_VALUE_CHARACTERS_MAX, NUM_RESULTS_WITH_METADATA_MAX, Refinement},
        serving::{Chunk, Freshness, Later, Lookup, Rankings, Served},
        standing::{Situation, Standings},
    },
    watch::Seen,
};

/// One consumer's components, and where they come from.
#[derive(Debug, Clone)]
pub struct Decided {
    /// What is shown.
    pub moderated: Arc<Moderated>,
    /// What it was made of.
    pub ranking: Arc<Ranking>,
    /// The recommender's name for its answer.
    pub recommendation_id: Option<String>,
    /// Where the ranking came from.
    pub origin: Origin,
    /// How fresh it is.
    pub freshness: Freshness,
    /// Time since the recommender gave it.
    pub age: Duration,
    /// The recommender's own answer, should it still come.
    pub later: Option<Later>,
}

/// Decides component sets.
#[derive(Debug)]
pub struct Sets {
    catalog: Arc<CatalogCache>,
    rankings: Arc<Rankings>,
    moderation: Moderation,
    context_keys: Vec<String>,
    num_results_default: RwLock<NumResults>,
    /// Of questions that name none of their own.
    refinement: Arc<Refinement>,
    standings: Standings,
    prefetcher: Option<Arc<Prefetcher>>,
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
        refinement: Refinement,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            catalog,
            rankings,
            moderation,
            context_keys,
            num_results_default: RwLock::new(num_results_default),
            refinement: Arc::new(refinement),
            standings: Standings::default(),
            prefetcher: None,
            counters,
        }
    }

    /// Rankings are asked for before anybody needs them.
    pub fn ahead(mut self, prefetcher: Prefetcher) -> Self {
        self.prefetcher = Some(Arc::new(prefetcher));
        self
    }

    /// The catalog that sets are made of.
    pub fn catalog(&self) -> &CatalogCache {
        &self.catalog
    }

    /// Where it is counted what happens.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Where rankings come from.
    pub fn rankings(&self) -> &Rankings {
        &self.rankings
    }

    /// The context of an event's state, by the configured keys. What the row does not answer, or
    /// answers with more than a recommender accepts, is left out and counted (the prototype fails
    /// for everybody).
    pub fn context(&self, seen: &Seen) -> Arc<Context> {
        let context = seen.made.context.get_or_init(|| {
            let mut context = seen.state.context(&self.context_keys);
            context.retain(|_, value| value.chars().nth(CONTEXT_VALUE_CHARACTERS_MAX).is_none());
            Arc::new(context)
        });
        let missing = self.context_keys.len() - context.len();
        if missing > 0 {
            self.counters.context_keys_missing.add(missing);
        }
        context.clone()
    }

    /// What an event's state means to the recommender. Work for the state that it replaces is
    /// dropped.
    pub fn situation(&self, seen: &Seen) -> Situation {
        let context = self.context(seen);
        let event_id = &seen.state.event_id;
        let position = seen.position.as_ref();
        let situation = self.standings.observe(event_id, position, context);
        if let (Some(prefetcher), Some(replaced)) = (&self.prefetcher, &situation.replaced) {
            let refinement = self.refinement(None);
            let asking = Asking {
                num_results: self.num_results(0, &refinement),
                refinement,
            };
            prefetcher.changed(event_id, replaced, &situation, asking);
        }
        situation
    }

    /// These consumers are shown an event's state, so that its next one may concern them too.
    pub fn note<'a>(
        &self,
        event_id: &EventId,
        consumers: impl IntoIterator<Item = &'a ConsumerId>,
    ) {
        if let Some(prefetcher) = &self.prefetcher {
            prefetcher.note(event_id, consumers);
        }
    }

    /// An event is over.
    pub fn ended(&self, event_id: &EventId) {
        self.standings.end(event_id);
        if let Some(prefetcher) = &self.prefetcher {
            prefetcher.ended(event_id);
        }
    }

    /// A recommender is asked for so many items from now on, where the caller does not say.
    pub fn ask_for(&self, num_results: NumResults) {
        // No code that holds the lock can panic half-way through a change.
        let default = self.num_results_default.write();
        *default.unwrap_or_else(PoisonError::into_inner) = num_results;
    }

    fn num_results_default(&self) -> NumResults {
        let default = self.num_results_default.read();
        *default.unwrap_or_else(PoisonError::into_inner)
    }

    /// How many items a recommender is asked for; 0 means the default.
    pub fn num_results(&self, wanted: u32, refinement: &Refinement) -> usize {
        if wanted > 0 {
            return wanted as usize;
        }
        let items = self.catalog.current().map_or(0, |catalog| catalog.len());
        let default = self.num_results_default().of(items);
        match refinement.metadata_columns.is_empty() {
            true => default,
            false => default.min(NUM_RESULTS_WITH_METADATA_MAX),
        }
    }

    /// What a recommender is asked to leave out, to promote and to tell; `None` means the default.
    pub fn refinement(&self, wanted: Option<Refinement>) -> Arc<Refinement> {
        wanted.map_or_else(|| self.refinement.clone(), Arc::new)
    }

    /// One consumer's set; `seen` is the event's state, if it was one that decides.
    pub async fn decide(&self, lookup: Lookup, seen: Option<&Seen>) -> Result<Decided, Error> {
        let catalog = self.catalog.current()?;
        let query = &lookup.query;
        let (consumer_id, context) = (query.consumer_id.clone(), query.context.clone());
        let served = self.rankings.rank(lookup).await?;
        let occasion = Occasion {
            consumer_id: &consumer_id,
            context: &context,
            seen,
        };
        Ok(self.moderated(served, &catalog, occasion))
    }

    /// The set that the recommender's own answer makes, should it still come; `None` otherwise.
    pub async fn later(&self, later: &mut Later, occasion: Occasion<'_>) -> Option<Decided> {
        let served = later.answer().await?;
        let catalog = self.catalog.current().ok()?;
        Some(self.moderated(served, &catalog, occasion))
    }

    /// Many consumers' sets in one state of an event, as they are ready: each with its place in
    /// `lookups`, exactly once. All are made of one state of the catalog. `seen` is the state in
    /// which they are shown, if they are.
    pub fn decide_all(
        self: Arc<Self>,
        lookups: Vec<Lookup>,
        seen: Option<Arc<Seen>>,
        deadline: Instant,
    ) -> Result<impl Stream<Item = Chunk<Decided>>, Error> {
        let catalog = self.catalog.current()?;
        let asked: Vec<_> = lookups
            .iter()
            .map(|lookup| {
                (
                    lookup.query.consumer_id.clone(),
                    lookup.query.context.clone(),
                )
            })
            .collect();
        let served = self.rankings.clone().rank_all(lookups, deadline);
        Ok(served.map(move |chunk| {
            chunk
                .into_iter()
                .map(|(index, served)| {
                    let (consumer_id, context) = &asked[index];
                    let occasion = Occasion {
                        consumer_id,
                        context,
                        seen: seen.as_deref(),
                    };
                    let decide = |served| self.moderated(served, &catalog, occasion);
                    (index, served.map(decide))
                })
                .collect()
        }))
    }

    fn moderated(&self, served: Served, catalog: &Arc<Catalog>, occasion: Occasion<'_>) -> Decided {
        let ranking = served.ranking;
        let kept = served.kept.as_deref();
        let moderated = self
            .moderation
            .moderate(&ranking.items, catalog, occasion, kept);
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
            origin: served.origin,
            freshness: served.freshness,
            age: served.age,
            later: served.later,
            ranking,
        }
    }
}
