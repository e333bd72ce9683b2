//! Tests of the serving path with a recommender in this process, in paused time where time matters.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
};

use async_trait::async_trait;
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use touchline_store::{
    event::Context,
    ids::{ConsumerId, ItemId},
};

use super::*;

mod in_time;
use crate::recommend::{Interaction, RankedItem, Recorded, budget::queue::Budget};

/// Answers each question with the consumer's own id, after a while.
#[derive(Debug, Default)]
struct Slow {
    delay: Duration,
    questions: AtomicUsize,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
    /// What goes wrong with the next questions.
    failures: Mutex<Vec<RecommendError>>,
    generation: AtomicU64,
    /// Answers at once from now on.
    hurries: AtomicBool,
}

#[async_trait]
impl Recommender for Slow {
    async fn rank(&self, queries: &[Query]) -> Vec<Result<Ranking, RecommendError>> {
        self.questions.fetch_add(queries.len(), SeqCst);
        let at_once = self.at_once.fetch_add(1, SeqCst) + 1;
        self.at_once_max.fetch_max(at_once, SeqCst);
        if !self.hurries.load(SeqCst) {
            sleep(self.delay).await;
        }
        self.at_once.fetch_sub(1, SeqCst);
        if let Some(error) = self.failures.lock().unwrap().pop() {
            return vec![Err(error); queries.len()];
        }
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

    fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }
}

const LIMITS: RemoteLimits = RemoteLimits {
    time_to_live: Duration::from_secs(30),
    cache_bytes: 1 << 20,
    concurrency: 4,
    stale_for: Duration::ZERO,
    per_second: 100_000.0,
    patience: Duration::from_millis(250),
    late: Duration::ZERO,
};

fn slow(delay_ms: u64) -> Arc<Slow> {
    Arc::new(Slow {
        delay: Duration::from_millis(delay_ms),
        ..Slow::default()
    })
}

fn with(recommender: &Arc<Slow>, limits: RemoteLimits, fallbacks: Fallbacks) -> Arc<Rankings> {
    let counters: Arc<Counters> = Arc::default();
    let budget = counters.serving.budget.clone();
    Arc::new(Rankings::remote(RemoteParts {
        recommender: recommender.clone(),
        budget: Arc::new(Budget::new(limits.per_second, limits.concurrency, budget)),
        fallbacks,
        limits,
        counters,
        tasks: TaskTracker::new(),
        shutdown: CancellationToken::new(),
    }))
}

fn remote(recommender: &Arc<Slow>) -> Arc<Rankings> {
    with(recommender, LIMITS, Fallbacks::default())
}

fn query(consumer: &str) -> Query {
    Query {
        consumer_id: ConsumerId::new(consumer).unwrap(),
        context: Arc::default(),
        num_results: 10,
        refinement: Arc::default(),
    }
}

fn lookup(query: Query, deadline: Instant) -> Lookup {
    Lookup {
        query,
        deadline,
        priority: Priority::Caller,
        standing: None,
        trace: Default::default(),
    }
}

fn ask(consumer: &str) -> Lookup {
    lookup(query(consumer), soon())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

#[tokio::test]
async fn equal_questions_at_the_same_moment_are_asked_once_and_all_are_live() {
    let recommender = slow(20);
    let rankings = remote(&recommender);
    let answers = futures::future::join_all((0..50).map(|_| rankings.rank(ask("fan")))).await;
    assert_eq!(recommender.questions.load(SeqCst), 1);
    for answer in answers {
        assert_eq!(answer.unwrap().freshness, Freshness::Live);
    }
    let again = rankings.rank(ask("fan")).await.unwrap();
    assert_eq!(again.freshness, Freshness::Cached);
    assert!(again.age > Duration::ZERO);
    assert_eq!(recommender.questions.load(SeqCst), 1);
}

#[tokio::test]
async fn another_context_or_number_of_results_is_another_question() {
    let recommender = slow(0);
    let rankings = remote(&recommender);
    rankings.rank(ask("fan")).await.unwrap();
    let other = Context::from([("MATCH_EVENT".to_owned(), "GOAL".to_owned())]);
    let elsewhere = Query {
        context: Arc::new(other),
        ..query("fan")
    };
    rankings.rank(lookup(elsewhere, soon())).await.unwrap();
    let more = Query {
        num_results: 11,
        ..query("fan")
    };
    rankings.rank(lookup(more, soon())).await.unwrap();
    assert_eq!(recommender.questions.load(SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_another_campaign_was_asked_is_another_question() {
    let recommender = slow(100);
    let rankings = remote(&recommender);
    let before = rankings.rank(ask("fan"));
    let after = async {
        sleep(Duration::from_millis(50)).await;
        recommender.generation.store(1, SeqCst);
        rankings.rank(ask("fan")).await
    };
    let (before, after) = tokio::join!(before, after);
    before.unwrap();
    assert_eq!(after.unwrap().freshness, Freshness::Live);
    assert_eq!(recommender.questions.load(SeqCst), 2);
    // The newer answer stands in the cache, whichever came last.
    let again = rankings.rank(ask("fan")).await.unwrap();
    assert_eq!(again.freshness, Freshness::Cached);
    assert_eq!(recommender.questions.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_of_a_former_campaign_takes_no_newer_ones_place() {
    let recommender = slow(100);
    let rankings = remote(&recommender);
    let before = rankings.rank(ask("fan"));
    let after = async {
        sleep(Duration::from_millis(50)).await;
        recommender.generation.store(1, SeqCst);
        recommender.hurries.store(true, SeqCst);
        rankings.rank(ask("fan")).await
    };
    let (before, after) = tokio::join!(before, after);
    before.unwrap();
    after.unwrap();
    let again = rankings.rank(ask("fan")).await.unwrap();
    assert_eq!(again.freshness, Freshness::Cached);
    assert_eq!(recommender.questions.load(SeqCst), 2);
}

#[tokio::test]
async fn a_failure_is_never_cached() {
    let recommender = slow(0);
    let rankings = remote(&recommender);
    for _ in 0..2 {
        rankings.rank(ask("unlucky")).await.unwrap_err();
    }
    // Each of the two was asked once more.
    assert_eq!(recommender.questions.load(SeqCst), 4);
}

#[tokio::test]
async fn a_bounded_number_of_questions_is_asked_at_a_time() {
    let recommender = slow(5);
    let rankings = remote(&recommender);
    let queries = (0..50).map(|index| ask(&index.to_string())).collect();
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
        rankings.rank(lookup(query("fan"), in_a_moment)),
        rankings.rank(ask("fan"))
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
                500 => ask("unlucky"),
                index => ask(&index.to_string()),
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
    let rankings = with(&recommender, limits, Fallbacks::default());
    for _ in 0..2 {
        rankings.rank(ask("fan")).await.unwrap();
    }
    assert_eq!(recommender.questions.load(SeqCst), 2);
}
