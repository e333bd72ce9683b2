//! Where rankings come from: the recommender that the flags choose, with everything that stands
//! around and behind it. Asks nobody anything yet.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::task::spawn_blocking;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use touchline_store::tables::Store;

use crate::{
    catalog::CatalogCache,
    config::{RecommenderKind, ServerArgs},
    counters::Counters,
    recommend::{
        Recommender,
        budget::queue::Budget,
        campaign,
        cohort::Cohorts,
        embedded::{EmbeddedConfig, EmbeddedRecommender, FeedbackConfig},
        personalize::{PersonalizeConfig, PersonalizeRecommender},
        popular::Popular,
        prefetch::Prefetcher,
        replicas,
        serving::{Fallbacks, Rankings, RemoteParts, Source},
    },
    users::Users,
};

/// Where tasks run, and what ends them.
pub(super) struct Life {
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
}

/// The catalog and what ranks its items.
pub(super) struct Sources {
    pub(super) catalog: Arc<CatalogCache>,
    pub(super) rankings: Arc<Rankings>,
    /// What asks them ahead, where asking costs something.
    pub(super) prefetcher: Option<Prefetcher>,
    /// The ranker, where one learns in this process.
    pub(super) ranker: Option<Arc<EmbeddedRecommender>>,
    /// Personalize, where it is asked.
    pub(super) personalize: Option<PersonalizeRecommender>,
}

/// Opens them.
pub(super) async fn open(
    args: &ServerArgs,
    store: &Store,
    counters: &Arc<Counters>,
    users: Option<Arc<Users>>,
    life: Life,
) -> anyhow::Result<Sources> {
    let catalog = |on_change| CatalogCache::new(store.clone(), counters.clone(), on_change);
    Ok(match args.recommender {
        RecommenderKind::Embedded => {
            let ranker = embedded(args).await?;
            let rankings = Rankings::direct(ranker.clone(), counters.clone());
            let learner = ranker.clone();
            let catalog = catalog(Box::new(move |items| learner.set_items(items)));
            Sources {
                catalog: Arc::new(catalog),
                rankings: Arc::new(rankings),
                prefetcher: None,
                ranker: Some(ranker),
                personalize: None,
            }
        }
        RecommenderKind::Personalize => {
            let popular: Arc<Mutex<Popular>> = Arc::default();
            // One that has nothing to learn from knows no better than what is popular.
            let learns = args.interactions.is_some() || args.feedback.is_some();
            let ranker = match learns && args.serving.fallback.contains(&Source::Embedded) {
                true => Some(embedded(args).await?),
                false => None,
            };
            let fallbacks = Fallbacks {
                order: args.serving.fallback.clone(),
                is_unfiltered_allowed: args.serving.fallback_unfiltered,
                cohorts: users
                    .map(|users| Cohorts::new(users, args.serving.cohort_columns.clone())),
                embedded: ranker.clone().map(|ranker| ranker as Arc<dyn Recommender>),
                popular: popular.clone(),
            };
            let (tasks, shutdown) = (life.tasks.clone(), life.shutdown.clone());
            let config = args.personalize()?;
            let recommender = PersonalizeRecommender::connect(&config).await;
            let asked = (&config, &recommender);
            let rankings = Arc::new(personalize(args, asked, counters, life, fallbacks));
            let prefetcher = match args.serving.prefetch_contexts {
                0 => None,
                most => Some(Prefetcher::new(rankings.clone(), most, tasks, shutdown)),
            };
            let learner = ranker.clone();
            let catalog = catalog(Box::new(move |items| {
                if let Some(ranker) = &learner {
                    ranker.set_items(items);
                }
                let item_ids = items.iter().map(|item| item.item_id.clone());
                let mut popular = popular.lock().unwrap_or_else(PoisonError::into_inner);
                popular.set_items(item_ids);
            }));
            Sources {
                catalog: Arc::new(catalog),
                rankings,
                prefetcher,
                ranker,
                personalize: Some(recommender),
            }
        }
    })
}

fn personalize(
    args: &ServerArgs,
    (config, recommender): (&PersonalizeConfig, &PersonalizeRecommender),
    counters: &Arc<Counters>,
    life: Life,
    fallbacks: Fallbacks,
) -> Rankings {
    let limits = args.remote_limits();
    let budget = Budget::new(
        limits.per_second,
        limits.concurrency,
        counters.serving.budget.clone(),
    );
    let budget = Arc::new(budget);
    let Life { tasks, shutdown } = life;
    if let Some(name) = args.serving.replicas_service.clone() {
        let whole = limits.per_second;
        tasks.spawn(replicas::share(
            budget.clone(),
            whole,
            name,
            shutdown.clone(),
        ));
    }
    if let Some(path) = args.serving.campaign_file.clone() {
        let region = config.target.region().to_owned();
        let following = campaign::follow(path, region, recommender.clone(), shutdown.clone());
        tasks.spawn(following);
    }
    Rankings::remote(RemoteParts {
        recommender: Arc::new(recommender.clone()),
        budget,
        fallbacks,
        limits,
        counters: counters.clone(),
        tasks,
        shutdown,
    })
}

async fn embedded(args: &ServerArgs) -> anyhow::Result<Arc<EmbeddedRecommender>> {
    let config = EmbeddedConfig {
        interactions: args.interactions.clone(),
        feedback: args.feedback.clone().map(|path| FeedbackConfig {
            path,
            max: args.feedback_max,
        }),
    };
    // Learning from a large file takes a while, and others share the runtime.
    let opened = spawn_blocking(move || EmbeddedRecommender::open(&config)).await;
    Ok(Arc::new(
        opened.context("the embedded ranker did not open")??,
    ))
}
