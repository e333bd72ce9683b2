//! The recommender port: who is asked for a ranking, and what comes back. How a ranking is served
//! (cached, coalesced, bounded) is [`serving`]; a recommender knows nothing of that.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use touchline_store::{
    event::Context,
    ids::{ConsumerId, EventId, ItemId},
};

use self::refinement::Refinement;

pub mod breaker;
pub mod budget;
pub mod campaign;
pub mod cohort;
pub mod embedded;
pub mod personalize;
pub mod popular;
pub mod prefetch;
pub mod refinement;
pub mod replicas;
pub mod serving;
pub mod standing;
pub mod transitions;

/// Items that can be asked for at once (Personalize, GetRecommendations, `numResults`).
pub const NUM_RESULTS_MAX: u32 = 500;

/// Asks for one ranking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Who.
    pub consumer_id: ConsumerId,
    /// In which situation.
    pub context: Arc<Context>,
    /// How many items at most.
    pub num_results: usize,
    /// Filter, promotion and metadata columns.
    pub refinement: Arc<Refinement>,
}

/// The recommender's ordered answer. An empty one is an answer, not a failure.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// Best first.
    pub items: Vec<RankedItem>,
    /// The recommender's name for this answer.
    pub recommendation_id: Option<String>,
    /// Where it came from.
    pub origin: Origin,
}

/// One place of a ranking.
#[derive(Debug, Clone, PartialEq)]
pub struct RankedItem {
    /// The item.
    pub item_id: ItemId,
    /// From 0 to 1, where the recommender gives scores.
    pub score: Option<f64>,
    /// What else it says; `None` when that is nothing.
    pub details: Option<Arc<Details>>,
}

/// What a recommender may say of an item beside its score.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Details {
    /// Why it is there.
    pub reasons: Vec<String>,
    /// The promotion that brought it.
    pub promotion: Option<String>,
    /// The metadata columns that were asked for.
    pub metadata: BTreeMap<String, String>,
}

/// Where a ranking came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Amazon Personalize, for this consumer.
    Personalize,
    /// Amazon Personalize, for the consumer's cohort.
    Cohort,
    /// The embedded contextual ranker.
    Embedded,
    /// What is popular, regardless of the consumer.
    Popular,
}

impl Origin {
    /// All of them, the best first.
    pub const ALL: [Self; 4] = [
        Self::Personalize,
        Self::Cohort,
        Self::Embedded,
        Self::Popular,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Personalize => "personalize",
            Self::Cohort => "cohort",
            Self::Embedded => "embedded",
            Self::Popular => "popular",
        }
    }
}

/// What one consumer did with one item.
#[derive(Debug, Clone, PartialEq)]
pub struct Interaction {
    /// Makes a repeat harmless; empty: never taken for a duplicate.
    pub interaction_id: String,
    /// Who.
    pub consumer_id: ConsumerId,
    /// With what.
    pub item_id: ItemId,
    /// What happened, such as `tap`.
    pub event_type: String,
    /// When, in seconds since 1970.
    pub timestamp_seconds: i64,
    /// The event that was on, if any was named.
    pub event_id: Option<EventId>,
    /// In which situation.
    pub context: Context,
    /// The answer that showed the item.
    pub recommendation_id: Option<String>,
}

/// What became of interactions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recorded {
    /// New.
    pub recorded: usize,
    /// Seen before.
    pub duplicates: usize,
}

/// Why there is no ranking, in terms of what a caller can do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecommendError {
    /// The recommender asks for less.
    #[error("the recommender throttles")]
    Throttled {
        /// When to ask again.
        retry_after: Duration,
    },
    /// It did not answer in time.
    #[error("the recommender did not answer in time")]
    TimedOut,
    /// It cannot be reached or fails.
    #[error("the recommender is not available: {0}")]
    Unavailable(String),
    /// It refuses this very question.
    #[error("the recommender refuses: {0}")]
    Invalid(String),
    /// This recommender cannot do that.
    #[error("{0}")]
    Unsupported(&'static str),
}

impl RecommendError {
    /// The word for it, without what was said.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Throttled { .. } => "throttled",
            Self::TimedOut => "timed out",
            Self::Unavailable(_) => "unavailable",
            Self::Invalid(_) => "refused",
            Self::Unsupported(_) => "unsupported",
        }
    }
}

/// Ranks items for consumers.
#[async_trait]
pub trait Recommender: fmt::Debug + Send + Sync {
    /// One answer a query, in the queries' order. One that fails leaves the others alone.
    async fn rank(&self, queries: &[Query]) -> Vec<Result<Ranking, RecommendError>>;

    /// Learns from what consumers did. When it returns, the interactions outlive a crash of this
    /// process (where the recommender keeps any).
    async fn record(&self, interactions: &[Interaction]) -> Result<Recorded, RecommendError>;

    /// Whether it knows filters, promotions and metadata columns.
    fn refines(&self) -> bool {
        false
    }

    /// Rises when answers given before are out of date: another campaign is asked.
    fn generation(&self) -> u64 {
        0
    }
}
