//! The embedded contextual ranker: learns from a file of interactions and from what it is told,
//! and ranks the catalog for each consumer and situation, in process. It is no Personalize: it
//! counts (`docs/ranker.md` has the formula), and it serves no cache, as it is faster than one.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Mutex, Notify},
    task::spawn_blocking,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use touchline_store::{event::Context, item::Item};

use self::{
    interactions::{Row, Rows},
    journal::{Journal, compact},
    model::Model,
    scoring::{Catalog, Lifts, Scorer},
};
use super::{
    Interaction, Origin, Query, RankedItem, Ranking, RecommendError, Recommender, Recorded,
};

mod feedback;
mod interactions;
mod journal;
mod model;
mod natural;
mod scoring;
mod seen;
#[cfg(test)]
mod tests;

pub use self::interactions::InteractionsError;

/// How much an interaction of the file says about its consumer.
const FILE_WEIGHT: u32 = 1;
/// The same for what was recorded: it is fresh, and a consumer should see that it was heard.
const FEEDBACK_WEIGHT: u32 = 5;
/// Pause after the feedback file could not be made smaller.
const COMPACT_AGAIN: Duration = Duration::from_mins(1);

/// What the embedded ranker learns from.
#[derive(Debug, Clone, Default)]
pub struct EmbeddedConfig {
    /// A CSV file in Personalize's interactions schema (USER_ID, ITEM_ID, TIMESTAMP, EVENT_TYPE, in
    /// any order); every further column is a context key.
    pub interactions: Option<PathBuf>,
    /// Keeps what is recorded; `None`: kept in memory only.
    pub feedback: Option<FeedbackConfig>,
}

/// Where what is recorded is kept.
#[derive(Debug, Clone)]
pub struct FeedbackConfig {
    /// A file, made when it does not exist. Its folder must be one that can be written to.
    pub path: PathBuf,
    /// The newest so many interactions are kept.
    pub max: usize,
}

/// Ranks by what was learned so far.
#[derive(Debug)]
pub struct EmbeddedRecommender {
    learned: Arc<RwLock<Learned>>,
    /// Held while interactions are written and learned, so that only one thread ever waits for the
    /// disk.
    journal: Arc<Mutex<Journal>>,
    /// The feedback file has become too large.
    exceeded: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Learned {
    model: Model,
    catalog: Catalog,
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
        let journal = match &config.feedback {
            Some(feedback) => Journal::open(feedback, |row| {
                let Row {
                    consumer_id,
                    item_id,
                    context,
                    ..
                } = row;
                model.learn(&consumer_id, &item_id, &context, FEEDBACK_WEIGHT);
            })?,
            None => Journal::default(),
        };
        let learned = Learned {
            model,
            catalog: Catalog::default(),
        };
        Ok(Self {
            learned: Arc::new(RwLock::new(learned)),
            journal: Arc::new(Mutex::new(journal)),
            exceeded: Arc::default(),
        })
    }

    /// From now on exactly these items are ranked.
    pub fn set_items(&self, items: &[Item]) {
        let mut learned = write(&self.learned);
        learned.catalog = Catalog::new(items, &mut learned.model);
    }

    /// Keeps the feedback file within its bound, in the background, until shutdown. When this returns
    /// nobody touches the file but who records.
    pub async fn keep_compact(&self, shutdown: CancellationToken) {
        loop {
            let (journal, stop) = (self.journal.clone(), shutdown.clone());
            let compacting = spawn_blocking(move || compact(&journal, || stop.is_cancelled()));
            let compacted = compacting.await;
            let next = async {
                if let Err(error) = compacted.unwrap_or_else(|panic| Err(panic.into())) {
                    tracing::warn!(%error, "the feedback file cannot be made smaller yet");
                    sleep(COMPACT_AGAIN).await;
                }
                self.exceeded.notified().await;
            };
            if shutdown.run_until_cancelled(next).await.is_none() {
                return;
            }
        }
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
        let exceeded = self.exceeded.clone();
        // It runs to its end even if the caller goes away: what is in the file is learned too.
        let recording = spawn_blocking(move || {
            let recorded = journal.record(&interactions, |new| {
                let mut learned = write(&learned);
                for interaction in new {
                    learned.model.learn(
                        &interaction.consumer_id,
                        &interaction.item_id,
                        &interaction.context,
                        FEEDBACK_WEIGHT,
                    );
                }
            });
            if journal.is_exceeded() {
                exceeded.notify_one();
            }
            recorded
        });
        recording.await.map_err(|error| {
            tracing::error!(%error, "recording feedback failed");
            RecommendError::Unavailable("recording failed".to_owned())
        })?
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
