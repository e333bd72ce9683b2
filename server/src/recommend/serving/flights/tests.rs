//! What a race would have to hit, made to happen.

use async_trait::async_trait;
use touchline_store::ids::ConsumerId;

use super::*;
use crate::recommend::{Interaction, Origin, Ranking, Recorded, serving::cache};

#[derive(Debug)]
struct NotToBeAsked;

#[async_trait]
impl Recommender for NotToBeAsked {
    async fn rank(&self, _: &[Query]) -> Vec<Result<Ranking, RecommendError>> {
        panic!("the answer was there already");
    }

    async fn record(&self, _: &[Interaction]) -> Result<Recorded, RecommendError> {
        Err(RecommendError::Unsupported("not here"))
    }
}

#[tokio::test]
async fn an_answer_that_came_between_the_look_and_the_flight_is_not_asked_for_again() {
    let counters: Arc<Counters> = Arc::default();
    let flights = Arc::new(Flights::new(Parts {
        recommender: Arc::new(NotToBeAsked),
        cache: cache::new(1 << 20, Duration::from_secs(60)),
        time_to_live: Duration::from_secs(60),
        budget: Arc::new(Budget::new(10.0, 10, counters.serving.budget.clone())),
        popular: Arc::default(),
        counters,
        tasks: TaskTracker::new(),
        shutdown: CancellationToken::new(),
    }));
    let query = Query {
        consumer_id: ConsumerId::new("fan").unwrap(),
        context: Arc::default(),
        num_results: 10,
        refinement: Arc::default(),
    };
    let answer = Answer {
        ranking: Arc::new(Ranking {
            items: Vec::new(),
            recommendation_id: None,
            origin: Origin::Personalize,
        }),
        given_at: Instant::now(),
        generation: 0,
        kept: Arc::default(),
        is_prefetched: false,
    };
    flights.cache.insert(Key::from(&query), answer).await;
    let until = Instant::now() + Duration::from_secs(20);
    let wanted = Wanted {
        priority: Priority::Caller,
        until,
        standing: None,
        trace: Default::default(),
    };
    let mut claim = flights.join(&query, wanted).unwrap();
    let outcome = claim.outcome(until).await.unwrap();
    assert!(outcome.unwrap().ranking.items.is_empty());
    assert_eq!(
        flights.budget.state().waiting,
        [0; 4],
        "and its place is free"
    );
}
