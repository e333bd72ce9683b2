//! The path that serves rankings: cache, coalescing, bounded concurrency, deadline. It does not
//! choose another source when the recommender fails; [`Rankings::ask`] is where that will be done.

use std::{sync::Arc, time::Duration};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use moka::future::Cache;
use tokio::{
    sync::Semaphore,
    task::yield_now,
    time::{Instant, timeout_at},
};
use touchline_store::{event::Context, ids::ConsumerId};

use super::{Query, Ranking, RecommendError, Recommender, refinement::Refinement};
use crate::counters::Counters;

/// Queries that a recommender in this process is given at a time: between two such chunks other
/// tasks get their turn.
const CHUNK: usize = 64;
/// Bytes that an entry costs beside its texts: keys, counters and pointers of the cache.
const ENTRY_OVERHEAD_BYTES: usize = 256;

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

/// A ranking, and how it was come by.
#[derive(Debug, Clone)]
pub struct Served {
    /// The recommender's answer.
    pub ranking: Arc<Ranking>,
    /// Whether it is of this moment.
    pub freshness: Freshness,
    /// Time since the recommender gave it; zero when live.
    pub age: Duration,
}

/// Some of many answers: each with its question's place, and a failure where there is none.
pub type Chunk<T> = Vec<(usize, Result<T, RecommendError>)>;

/// Limits on what a remote recommender is asked.
#[derive(Debug, Clone, Copy)]
pub struct RemoteLimits {
    /// How long an answer is served again.
    pub time_to_live: Duration,
    /// Size of the cache.
    pub cache_bytes: u64,
    /// Questions at the same time.
    pub concurrency: usize,
}

/// Rankings, served.
#[derive(Debug)]
pub struct Rankings {
    recommender: Arc<dyn Recommender>,
    remote: Option<Remote>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Remote {
    cache: Cache<Key, Answer>,
    permits: Semaphore,
    concurrency: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    consumer_id: ConsumerId,
    context: Arc<Context>,
    num_results: usize,
    refinement: Arc<Refinement>,
}

#[derive(Debug, Clone)]
struct Answer {
    ranking: Arc<Ranking>,
    given_at: Instant,
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

    /// Caches by consumer, context and number of results, asks once for equal questions at the same
    /// moment, and asks a bounded number of questions at a time.
    pub fn remote(
        recommender: Arc<dyn Recommender>,
        limits: RemoteLimits,
        counters: Arc<Counters>,
    ) -> Self {
        let cache = Cache::builder()
            .weigher(weigh)
            .max_capacity(limits.cache_bytes)
            .time_to_live(limits.time_to_live)
            .build();
        Self {
            recommender,
            remote: Some(Remote {
                cache,
                permits: Semaphore::new(limits.concurrency),
                concurrency: limits.concurrency,
            }),
            counters,
        }
    }

    /// The recommender behind, for feedback.
    pub fn recommender(&self) -> &dyn Recommender {
        self.recommender.as_ref()
    }

    /// One ranking, before the deadline.
    pub async fn rank(&self, query: Query, deadline: Instant) -> Result<Served, RecommendError> {
        let answer = match &self.remote {
            Some(remote) => timeout_at(deadline, self.rank_remotely(remote, query)).await,
            None => timeout_at(deadline, self.rank_directly(query)).await,
        };
        answer.unwrap_or(Err(RecommendError::TimedOut))
    }

    /// Many rankings, as they are ready: each with its place in `queries`, exactly once.
    pub fn rank_all(
        self: Arc<Self>,
        queries: Vec<Query>,
        deadline: Instant,
    ) -> BoxStream<'static, Chunk<Served>> {
        let Some(remote) = &self.remote else {
            return self.rank_all_directly(queries, deadline);
        };
        // Twice the questions that may be under way: cached answers need no permit and should not
        // queue behind those that do.
        let concurrency = remote.concurrency * 2;
        stream::iter(queries.into_iter().enumerate())
            .map(move |(index, query)| {
                let rankings = self.clone();
                async move { (index, rankings.rank(query, deadline).await) }
            })
            .buffer_unordered(concurrency)
            .ready_chunks(CHUNK)
            .boxed()
    }

    fn rank_all_directly(
        self: Arc<Self>,
        queries: Vec<Query>,
        deadline: Instant,
    ) -> BoxStream<'static, Chunk<Served>> {
        async_stream::stream! {
            for (chunk_index, chunk) in queries.chunks(CHUNK).enumerate() {
                let answers = match timeout_at(deadline, self.ask(chunk)).await {
                    Ok(answers) => answers,
                    Err(_) => vec![Err(RecommendError::TimedOut); chunk.len()],
                };
                let first = chunk_index * CHUNK;
                yield answers
                    .into_iter()
                    .enumerate()
                    .map(|(index, answer)| (first + index, answer.map(live)))
                    .collect();
                yield_now().await;
            }
        }
        .boxed()
    }

    async fn rank_directly(&self, query: Query) -> Result<Served, RecommendError> {
        self.ask_one(query).await.map(live)
    }

    async fn rank_remotely(&self, remote: &Remote, query: Query) -> Result<Served, RecommendError> {
        let asked_at = Instant::now();
        let key = Key {
            consumer_id: query.consumer_id.clone(),
            context: query.context.clone(),
            num_results: query.num_results,
            refinement: query.refinement.clone(),
        };
        // If the first of several equal questions is dropped at its deadline, the next one asks.
        let answer = remote.cache.try_get_with(key, async {
            let _permit = remote.permits.acquire().await.map_err(|_| {
                RecommendError::Unavailable("the limit of questions is closed".to_owned())
            })?;
            let ranking = Arc::new(self.ask_one(query).await?);
            Ok(Answer {
                ranking,
                given_at: Instant::now(),
            })
        });
        let answer = answer
            .await
            .map_err(|error: Arc<RecommendError>| RecommendError::clone(&error))?;
        if answer.given_at >= asked_at {
            return Ok(Served {
                ranking: answer.ranking,
                freshness: Freshness::Live,
                age: Duration::ZERO,
            });
        }
        Ok(Served {
            ranking: answer.ranking,
            freshness: Freshness::Cached,
            age: answer.given_at.elapsed(),
        })
    }

    async fn ask_one(&self, query: Query) -> Result<Ranking, RecommendError> {
        let answers = self.ask(std::slice::from_ref(&query)).await;
        answers.into_iter().next().unwrap_or_else(|| {
            Err(RecommendError::Unavailable(
                "no answer was given".to_owned(),
            ))
        })
    }

    /// The one place that asks the recommender.
    async fn ask(&self, queries: &[Query]) -> Vec<Result<Ranking, RecommendError>> {
        self.counters.recommender_questions.add(queries.len());
        let answers = self.recommender.rank(queries).await;
        let failures = answers.iter().filter(|answer| answer.is_err()).count();
        self.counters.recommender_failures.add(failures);
        answers
    }
}

fn live(ranking: Ranking) -> Served {
    Served {
        ranking: Arc::new(ranking),
        freshness: Freshness::Live,
        age: Duration::ZERO,
    }
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
        .map(|ranked| ranked.item_id.as_str().len() + size_of_val(ranked))
        .sum();
    let recommendation_id = ranking.recommendation_id.as_ref().map_or(0, String::len);
    let bytes =
        ENTRY_OVERHEAD_BYTES + key.consumer_id.as_str().len() + context + items + recommendation_id;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use async_trait::async_trait;
    use tokio::time::sleep;
    use touchline_store::ids::ItemId;

    use super::*;
    use crate::recommend::{Interaction, Origin, RankedItem, Recorded};

    /// Answers each question with the consumer's own id, after a while.
    #[derive(Debug, Default)]
    struct Slow {
        delay: Duration,
        questions: AtomicUsize,
        at_once: AtomicUsize,
        at_once_max: AtomicUsize,
    }

    #[async_trait]
    impl Recommender for Slow {
        async fn rank(&self, queries: &[Query]) -> Vec<Result<Ranking, RecommendError>> {
            self.questions.fetch_add(queries.len(), SeqCst);
            let at_once = self.at_once.fetch_add(1, SeqCst) + 1;
            self.at_once_max.fetch_max(at_once, SeqCst);
            sleep(self.delay).await;
            self.at_once.fetch_sub(1, SeqCst);
            queries
                .iter()
                .map(|query| {
                    if query.consumer_id.as_str() == "unlucky" {
                        return Err(RecommendError::Unavailable("no luck".to_owned()));
                    }
                    Ok(Ranking {
                        items: vec![RankedItem {
                            item_id: ItemId::new(query.consumer_id.as_str()).unwrap(),
                            score: None,
                            details: None,
                        }],
                        recommendation_id: None,
                        origin: Origin::Personalize,
                    })
                })
                .collect()
        }

        async fn record(&self, _: &[Interaction]) -> Result<Recorded, RecommendError> {
            Err(RecommendError::Unsupported("not here"))
        }
    }

    const LIMITS: RemoteLimits = RemoteLimits {
        time_to_live: Duration::from_secs(30),
        cache_bytes: 1 << 20,
        concurrency: 4,
    };

    fn slow(delay_ms: u64) -> Arc<Slow> {
        Arc::new(Slow {
            delay: Duration::from_millis(delay_ms),
            ..Slow::default()
        })
    }

    fn remote(recommender: &Arc<Slow>) -> Arc<Rankings> {
        Arc::new(Rankings::remote(
            recommender.clone(),
            LIMITS,
            Arc::default(),
        ))
    }

    fn query(consumer: &str) -> Query {
        Query {
            consumer_id: ConsumerId::new(consumer).unwrap(),
            context: Arc::default(),
            num_results: 10,
            refinement: Arc::default(),
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn equal_questions_at_the_same_moment_are_asked_once_and_all_are_live() {
        let recommender = slow(20);
        let rankings = remote(&recommender);
        let answers =
            futures::future::join_all((0..50).map(|_| rankings.rank(query("fan"), soon()))).await;
        assert_eq!(recommender.questions.load(SeqCst), 1);
        for answer in answers {
            assert_eq!(answer.unwrap().freshness, Freshness::Live);
        }
        let again = rankings.rank(query("fan"), soon()).await.unwrap();
        assert_eq!(again.freshness, Freshness::Cached);
        assert!(again.age > Duration::ZERO);
        assert_eq!(recommender.questions.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn another_context_or_number_of_results_is_another_question() {
        let recommender = slow(0);
        let rankings = remote(&recommender);
        rankings.rank(query("fan"), soon()).await.unwrap();
        let other = Context::from([("MATCH_EVENT".to_owned(), "GOAL".to_owned())]);
        let elsewhere = Query {
            context: Arc::new(other),
            ..query("fan")
        };
        rankings.rank(elsewhere, soon()).await.unwrap();
        let more = Query {
            num_results: 11,
            ..query("fan")
        };
        rankings.rank(more, soon()).await.unwrap();
        assert_eq!(recommender.questions.load(SeqCst), 3);
    }

    #[tokio::test]
    async fn a_failure_is_never_cached() {
        let recommender = slow(0);
        let rankings = remote(&recommender);
        for _ in 0..2 {
            rankings.rank(query("unlucky"), soon()).await.unwrap_err();
        }
        assert_eq!(recommender.questions.load(SeqCst), 2);
    }

    #[tokio::test]
    async fn a_bounded_number_of_questions_is_asked_at_a_time() {
        let recommender = slow(5);
        let rankings = remote(&recommender);
        let queries = (0..50).map(|index| query(&index.to_string())).collect();
        let answers: Vec<_> = rankings.rank_all(queries, soon()).concat().await;
        assert_eq!(answers.len(), 50);
        assert_eq!(recommender.at_once_max.load(SeqCst), LIMITS.concurrency);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_too_late_is_none_and_the_next_caller_still_gets_his() {
        let recommender = slow(1_000);
        let rankings = remote(&recommender);
        let in_a_moment = Instant::now() + Duration::from_millis(100);
        let (late, patient) = tokio::join!(
            rankings.rank(query("fan"), in_a_moment),
            rankings.rank(query("fan"), soon())
        );
        assert!(matches!(late, Err(RecommendError::TimedOut)), "{late:?}");
        assert_eq!(patient.unwrap().freshness, Freshness::Live);
    }

    #[tokio::test]
    async fn each_of_many_is_answered_exactly_once_and_a_failure_is_its_own() {
        for rankings in [
            Arc::new(Rankings::direct(slow(0), Arc::default())),
            remote(&slow(0)),
        ] {
            let queries: Vec<_> = (0..1_000)
                .map(|index| match index {
                    500 => query("unlucky"),
                    index => query(&index.to_string()),
                })
                .collect();
            let mut answers: Vec<_> = rankings.rank_all(queries, soon()).concat().await;
            answers.sort_by_key(|(index, _)| *index);
            assert_eq!(answers.len(), 1_000);
            for (place, (index, answer)) in answers.iter().enumerate() {
                assert_eq!(place, *index);
                match answer {
                    Ok(served) => {
                        let item_id = &served.ranking.items[0].item_id;
                        assert_eq!(item_id.as_str(), index.to_string());
                    }
                    Err(_) => assert_eq!(*index, 500),
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_its_time_to_live_a_ranking_is_asked_for_again() {
        let recommender = slow(0);
        let limits = RemoteLimits {
            time_to_live: Duration::from_nanos(1),
            ..LIMITS
        };
        let rankings = Rankings::remote(recommender.clone(), limits, Arc::default());
        for _ in 0..2 {
            rankings.rank(query("fan"), soon()).await.unwrap();
        }
        assert_eq!(recommender.questions.load(SeqCst), 2);
    }

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
        };
        assert!(weigh(&key, &answer) >= 440);
    }
}
