//! The path that serves rankings. In process a recommender is asked each time; Amazon Personalize is
//! asked sparingly ([`remote`]): from the cache, once for equal questions, within a budget, and when
//! it does not answer in time somebody else does ([`fallback`]). Does not know what is shown.

use std::{sync::Arc, time::Duration};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::{
    task::yield_now,
    time::{Instant, timeout_at},
};

use self::flights::Pending;
pub use self::{
    fallback::{Fallbacks, Source},
    remote::{Remote, RemoteParts, RemoteState},
};
use touchline_runtime::traces;
use touchline_store::ids::ConsumerId;

use super::{
    Origin, Query, Ranking, RecommendError, Recommender, budget::Priority, standing::Standing,
};
use crate::{counters::Counters, moderation::Kept};

mod cache;
mod fallback;
mod flights;
mod remote;
#[cfg(test)]
mod tests;

/// Queries that a recommender in this process is given at a time: between two such chunks other
/// tasks get their turn.
const CHUNK: usize = 64;
/// Lookups of one batch at the same time. They are cheap: what is scarce has limits of its own.
const LOOKUPS_MAX: usize = 1_000;

/// How fresh a served ranking is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Freshness {
    /// Asked for by this very request, or by an equal one at the same moment.
    Live,
    /// From the cache, within its time to live.
    Cached,
    /// From the cache, past it: a newer one was asked for.
    Stale,
}

impl Freshness {
    /// All of them, the freshest first.
    pub const ALL: [Self; 3] = [Self::Live, Self::Cached, Self::Stale];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Cached => "cached",
            Self::Stale => "stale",
        }
    }
}

/// A question with what its answer is for.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// The question.
    pub query: Query,
    /// When the answer must be there.
    pub deadline: Instant,
    /// Whose turn it is when the budget is short.
    pub priority: Priority,
    /// Whether the context that it is asked for still stands; `None` where nobody can tell.
    pub standing: Option<Standing>,
    /// Where in a trace it is asked.
    pub trace: traces::Place,
}

/// A ranking, and how it was come by.
#[derive(Debug, Clone)]
pub struct Served {
    /// The answer.
    pub ranking: Arc<Ranking>,
    /// Where it came from.
    pub origin: Origin,
    /// Whether it is of this moment.
    pub freshness: Freshness,
    /// Time since it was given; zero when live.
    pub age: Duration,
    /// The recommender's own answer, should it still come.
    pub later: Option<Later>,
    /// What was made of the ranking before, where it is kept.
    pub kept: Option<Arc<Kept>>,
}

/// An answer that was not there in time and may still come.
#[derive(Debug, Clone)]
pub struct Later(Pending);

impl Later {
    /// Waits for it; `None` when it will not come.
    pub async fn answer(&mut self) -> Option<Served> {
        let answer = self.0.answer().await?;
        Some(Served {
            origin: answer.ranking.origin,
            ranking: answer.ranking,
            freshness: Freshness::Live,
            age: Duration::ZERO,
            later: None,
            kept: Some(answer.kept),
        })
    }
}

/// Some of many answers: each with its question's place, and a failure where there is none.
pub type Chunk<T> = Vec<(usize, Result<T, RecommendError>)>;

/// Limits on what a remote recommender is asked.
#[derive(Debug, Clone, Copy)]
pub struct RemoteLimits {
    /// How long an answer is served again as if it were new.
    pub time_to_live: Duration,
    /// How long after that it is served while a newer one is asked for.
    pub stale_for: Duration,
    /// Size of the cache.
    pub cache_bytes: u64,
    /// Questions at the same time.
    pub concurrency: usize,
    /// Questions a second, of all replicas together.
    pub per_second: f64,
    /// After this long somebody else answers.
    pub patience: Duration,
    /// How long a question goes on that somebody else has answered.
    pub late: Duration,
}

/// Rankings, served.
#[derive(Debug)]
pub struct Rankings {
    recommender: Arc<dyn Recommender>,
    remote: Option<Remote>,
    counters: Arc<Counters>,
}

impl Rankings {
    /// Asks each time: for a recommender in this process, where a ranking costs microseconds and
    /// feedback takes effect at once.
    pub fn direct(recommender: Arc<dyn Recommender>, counters: Arc<Counters>) -> Self {
        Self {
            recommender,
            remote: None,
            counters,
        }
    }

    /// Asks sparingly, and has an answer in time.
    pub fn remote(parts: RemoteParts) -> Self {
        Self {
            recommender: parts.recommender.clone(),
            counters: parts.counters.clone(),
            remote: Some(Remote::new(parts)),
        }
    }

    /// The recommender behind, for feedback.
    pub fn recommender(&self) -> &dyn Recommender {
        self.recommender.as_ref()
    }

    /// Budget, breaker and the like; `None` for a recommender in this process.
    pub fn state(&self) -> Option<RemoteState> {
        self.remote.as_ref().map(Remote::state)
    }

    /// The consumer's cohort, where cohorts are asked.
    pub fn cohort(&self, consumer_id: &ConsumerId) -> Option<ConsumerId> {
        self.remote.as_ref()?.cohort(consumer_id)
    }

    /// Has a ranking in the cache, if it can be had before the deadline with budget that nobody else
    /// wants.
    pub async fn prefetch(&self, lookup: &Lookup) -> Result<(), RecommendError> {
        match &self.remote {
            Some(remote) => remote.prefetch(lookup).await.map(drop),
            None => Ok(()),
        }
    }

    /// One ranking, before the deadline.
    pub async fn rank(&self, lookup: Lookup) -> Result<Served, RecommendError> {
        let deadline = lookup.deadline;
        let answer = match &self.remote {
            Some(remote) => timeout_at(deadline, remote.rank(lookup)).await,
            None => timeout_at(deadline, self.rank_directly(lookup.query)).await,
        };
        let answer = answer.unwrap_or(Err(RecommendError::TimedOut));
        self.count(&answer, deadline);
        answer
    }

    /// Many rankings, as they are ready: each with its place in `lookups`, exactly once. All must
    /// have the same deadline.
    pub fn rank_all(
        self: Arc<Self>,
        lookups: Vec<Lookup>,
        deadline: Instant,
    ) -> BoxStream<'static, Chunk<Served>> {
        if self.remote.is_none() {
            return self.rank_all_directly(lookups, deadline);
        }
        stream::iter(lookups.into_iter().enumerate())
            .map(move |(index, lookup)| {
                let rankings = self.clone();
                async move { (index, rankings.rank(lookup).await) }
            })
            .buffer_unordered(LOOKUPS_MAX)
            .ready_chunks(CHUNK)
            .boxed()
    }

    fn rank_all_directly(
        self: Arc<Self>,
        lookups: Vec<Lookup>,
        deadline: Instant,
    ) -> BoxStream<'static, Chunk<Served>> {
        let queries: Vec<Query> = lookups.into_iter().map(|lookup| lookup.query).collect();
        async_stream::stream! {
            for (chunk_index, chunk) in queries.chunks(CHUNK).enumerate() {
                let answers = match timeout_at(deadline, self.ask(chunk)).await {
                    Ok(answers) => answers,
                    Err(_) => vec![Err(RecommendError::TimedOut); chunk.len()],
                };
                let first = chunk_index * CHUNK;
                let served = answers.into_iter().enumerate().map(|(index, answer)| {
                    let answer = answer.map(live);
                    self.count(&answer, deadline);
                    (first + index, answer)
                });
                yield served.collect();
                yield_now().await;
            }
        }
        .boxed()
    }

    async fn rank_directly(&self, query: Query) -> Result<Served, RecommendError> {
        let answers = self.ask(std::slice::from_ref(&query)).await;
        let answer = answers.into_iter().next().unwrap_or_else(|| {
            let nothing = "no answer was given".to_owned();
            Err(RecommendError::Unavailable(nothing))
        });
        answer.map(live)
    }

    async fn ask(&self, queries: &[Query]) -> Vec<Result<Ranking, RecommendError>> {
        let asking = self.counters.recommender.asking(queries.len());
        let answers = self.recommender.rank(queries).await;
        asking.answered(&answers);
        answers
    }

    fn count(&self, answer: &Result<Served, RecommendError>, deadline: Instant) {
        let counters = &self.counters.serving;
        match answer {
            Ok(served) => {
                let left = deadline.saturating_duration_since(Instant::now());
                counters.answered(served.origin, served.freshness, left);
            }
            Err(_) => counters.unanswered.add(1),
        }
    }
}

fn live(ranking: Ranking) -> Served {
    Served {
        origin: ranking.origin,
        ranking: Arc::new(ranking),
        freshness: Freshness::Live,
        age: Duration::ZERO,
        later: None,
        kept: None,
    }
}
