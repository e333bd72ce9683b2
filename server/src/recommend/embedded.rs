//! The embedded contextual ranker: learns from a file of interactions and from what it is told,
//! and ranks the catalog for each consumer and situation, in process. It is no Personalize: it
//! counts (`docs/ranker.md` has the formula), and it serves no cache, as it is faster than one.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use async_trait::async_trait;
use tokio::{sync::Mutex, task::spawn_blocking};
use touchline_store::{event::Context, item::Item};

use self::{
    feedback::{FeedbackFile, Seen},
    interactions::{Row, Rows},
    model::Model,
    scoring::{Catalog, Lifts, Scorer},
};
use super::{
    Interaction, Origin, Query, RankedItem, Ranking, RecommendError, Recommender, Recorded,
};

mod feedback;
mod interactions;
mod model;
mod natural;
mod scoring;
#[cfg(test)]
mod tests;

pub use self::interactions::InteractionsError;

/// How much an interaction of the file says about its consumer.
const FILE_WEIGHT: u32 = 1;
/// The same for what was recorded: it is fresh, and a consumer should see that it was heard.
const FEEDBACK_WEIGHT: u32 = 5;

/// What the embedded ranker learns from.
#[derive(Debug, Clone, Default)]
pub struct EmbeddedConfig {
    /// A CSV file in Personalize's interactions schema (USER_ID, ITEM_ID, TIMESTAMP, EVENT_TYPE, in
    /// any order); every further column is a context key.
    pub interactions: Option<PathBuf>,
    /// Keeps what is recorded, made when it does not exist; `None`: kept in memory only.
    pub feedback: Option<PathBuf>,
}

/// Ranks by what was learned so far.
#[derive(Debug)]
pub struct EmbeddedRecommender {
    learned: Arc<RwLock<Learned>>,
    /// Held while interactions are written and learned, so that only one thread ever waits for the
    /// disk.
    journal: Arc<Mutex<Journal>>,
}

#[derive(Debug, Default)]
struct Learned {
    model: Model,
    catalog: Catalog,
}

#[derive(Debug, Default)]
struct Journal {
    seen: Seen,
    file: Option<FeedbackFile>,
}

impl EmbeddedRecommender {
    /// Learns from the files. A file that is wrong in one place is refused as a whole, with the
    /// place. Ranks nothing until [`Self::set_items`].
    pub fn open(config: &EmbeddedConfig) -> Result<Self, InteractionsError> {
        let mut model = Model::default();
        if let Some(path) = &config.interactions {
            let rows = learn_file(path, &mut model)?;
            tracing::info!(path = %path.display(), rows, "learned interactions");
        }
        let mut journal = Journal::default();
        if let Some(path) = &config.feedback {
            let (mut rows, mut duplicates) = (0_usize, 0_usize);
            let (file, cut_bytes) = FeedbackFile::open(path, |row: Row| {
                if journal.seen.insert(&row.interaction_id) {
                    rows += 1;
                    model.learn(
                        &row.consumer_id,
                        &row.item_id,
                        &row.context,
                        FEEDBACK_WEIGHT,
                    );
                } else {
                    duplicates += 1;
                }
            })?;
            journal.file = Some(file);
            tracing::info!(path = %path.display(), rows, duplicates, "learned feedback");
            if cut_bytes > 0 {
                tracing::warn!(path = %path.display(), cut_bytes, "cut off a torn last row");
            }
        }
        let learned = Learned {
            model,
            catalog: Catalog::default(),
        };
        Ok(Self {
            learned: Arc::new(RwLock::new(learned)),
            journal: Arc::new(Mutex::new(journal)),
        })
    }

    /// From now on exactly these items are ranked.
    pub fn set_items(&self, items: &[Item]) {
        let mut learned = write(&self.learned);
        learned.catalog = Catalog::new(items, &mut learned.model);
    }

    fn rank_now(&self, queries: &[Query]) -> Vec<Result<Ranking, RecommendError>> {
        let learned = read(&self.learned);
        let scorer = Scorer::new(&learned.model, &learned.catalog);
        let name = format!("embedded-{}", learned.model.learned());
        let mut situations: HashMap<&Context, Rc<Lifts>> = HashMap::new();
        let mut last: Option<(&Arc<Context>, Rc<Lifts>)> = None;
        let rank = |query| {
            let Query {
                consumer_id,
                context,
                num_results,
                ..
            }: &Query = query;
            // Usually all queries of a batch share one context.
            let lifts = match &last {
                Some((same, lifts)) if Arc::ptr_eq(same, context) => lifts.clone(),
                _ => situations
                    .entry(context)
                    .or_insert_with(|| Rc::new(scorer.lifts(context)))
                    .clone(),
            };
            let ranked = scorer.rank(consumer_id, &lifts).into_iter();
            last = Some((context, lifts));
            let items = ranked.take(*num_results).map(|(place, score)| RankedItem {
                item_id: learned.catalog.item_id(place).clone(),
                score: Some(score),
                details: None,
            });
            Ok(Ranking {
                items: items.collect(),
                recommendation_id: Some(name.clone()),
                origin: Origin::Embedded,
            })
        };
        queries.iter().map(rank).collect()
    }
}

#[async_trait]
impl Recommender for EmbeddedRecommender {
    async fn rank(&self, queries: &[Query]) -> Vec<Result<Ranking, RecommendError>> {
        self.rank_now(queries)
    }

    async fn record(&self, interactions: &[Interaction]) -> Result<Recorded, RecommendError> {
        let mut journal = self.journal.clone().lock_owned().await;
        let learned = self.learned.clone();
        let interactions = interactions.to_vec();
        // It runs to its end even if the caller goes away: what is in the file is learned too.
        let recording = spawn_blocking(move || journal.record(&interactions, &learned));
        recording.await.map_err(|error| {
            tracing::error!(%error, "recording feedback failed");
            RecommendError::Unavailable("recording failed".to_owned())
        })?
    }
}

impl Journal {
    /// Writes what is new, then learns it.
    fn record(
        &mut self,
        interactions: &[Interaction],
        learned: &RwLock<Learned>,
    ) -> Result<Recorded, RecommendError> {
        let mut of_call = Seen::default();
        let new: Vec<&Interaction> = interactions
            .iter()
            .filter(|interaction| {
                let id = &interaction.interaction_id;
                !self.seen.contains(id) && of_call.insert(id)
            })
            .collect();
        if let Some(file) = &mut self.file {
            let written = file.write(&new);
            written.map_err(|error| {
                RecommendError::Unavailable(format!("feedback cannot be kept: {error}"))
            })?;
        }
        let mut learned = write(learned);
        for interaction in &new {
            self.seen.insert(&interaction.interaction_id);
            learned.model.learn(
                &interaction.consumer_id,
                &interaction.item_id,
                &interaction.context,
                FEEDBACK_WEIGHT,
            );
        }
        Ok(Recorded {
            recorded: new.len(),
            duplicates: interactions.len() - new.len(),
        })
    }
}

/// How many rows there were.
fn learn_file(path: &Path, model: &mut Model) -> Result<usize, InteractionsError> {
    let file = File::open(path).map_err(|source| InteractionsError::Io {
        path: path.to_owned(),
        doing: "cannot be opened",
        source,
    })?;
    let mut rows = Rows::new(file).map_err(|problem| problem.in_file(path))?;
    let mut count = 0;
    while let Some(row) = rows.next() {
        let row = row.map_err(|problem| problem.in_file(path))?;
        model.learn(&row.consumer_id, &row.item_id, &row.context, FILE_WEIGHT);
        count += 1;
    }
    Ok(count)
}

/// A panic while the lock was held has left counts, at worst without the last one.
fn read(learned: &RwLock<Learned>) -> RwLockReadGuard<'_, Learned> {
    learned.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(learned: &RwLock<Learned>) -> RwLockWriteGuard<'_, Learned> {
    learned.write().unwrap_or_else(PoisonError::into_inner)
}
