//! An answer in time, always: what is served when the recommender is slow, short of budget or away.
//! Time is paused, so that a minute of overload takes a moment and nothing depends on the machine.

use touchline_store::{ids::EventId, position::Position};

use super::*;
use crate::{
    recommend::{cohort::Cohorts, popular::Popular, standing::Standings},
    users::Users,
};

const PATIENT: RemoteLimits = RemoteLimits {
    time_to_live: Duration::from_secs(10),
    stale_for: Duration::from_secs(600),
    cache_bytes: 64 << 20,
    concurrency: 10_000,
    per_second: 500.0,
    patience: Duration::from_millis(250),
    late: Duration::from_secs(30),
};

fn popular() -> Fallbacks {
    let mut popular = Popular::default();
    popular.set_items([ItemId::new("popular").unwrap()].into_iter());
    Fallbacks {
        order: vec![Source::Cohort, Source::Embedded, Source::Popular],
        popular: Arc::new(Mutex::new(popular)),
        ..Fallbacks::default()
    }
}

/// `fan-0`, `fan-1` … of twenty countries.
fn with_cohorts(fans: usize) -> Fallbacks {
    let rows: String = (0..fans)
        .map(|fan| format!("fan-{fan},C{}\n", fan % 20))
        .collect();
    let users = Users::read(format!("USER_ID,COUNTRY\n{rows}").as_bytes()).unwrap();
    Fallbacks {
        cohorts: Some(Cohorts::new(Arc::new(users), vec!["COUNTRY".to_owned()])),
        ..popular()
    }
}

fn shown(served: &Served) -> &str {
    served.ranking.items[0].item_id.as_str()
}

fn push(consumer: &str) -> Lookup {
    Lookup {
        priority: Priority::Push,
        ..ask(consumer)
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_of_one_question_are_one_call() {
    let recommender = slow(50);
    let rankings = with(&recommender, PATIENT, Fallbacks::default());
    let answers = (0..10_000).map(|_| rankings.rank(ask("fan")));
    for answer in futures::future::join_all(answers).await {
        assert_eq!(answer.unwrap().freshness, Freshness::Live);
    }
    assert_eq!(recommender.questions.load(SeqCst), 1);
    assert_eq!(rankings.counters.serving.coalesced.get(), 9_999);
}

#[tokio::test(start_paused = true)]
async fn a_stale_ranking_is_served_at_once_while_one_newer_is_asked_for() {
    let recommender = slow(100);
    let rankings = with(&recommender, PATIENT, Fallbacks::default());
    rankings.rank(ask("fan")).await.unwrap();
    sleep(Duration::from_secs(11)).await;
    let began = Instant::now();
    let stale = (0..100).map(|_| rankings.rank(ask("fan")));
    let mut later = None;
    for served in futures::future::join_all(stale).await {
        let served = served.unwrap();
        assert_eq!(served.freshness, Freshness::Stale);
        assert_eq!(served.age.as_secs(), 11);
        later = served.later;
    }
    assert!(began.elapsed() < Duration::from_millis(10));
    assert_eq!(later.unwrap().answer().await.unwrap().age, Duration::ZERO);
    assert_eq!(recommender.questions.load(SeqCst), 2);
    let served = rankings.rank(ask("fan")).await.unwrap();
    assert_eq!(served.freshness, Freshness::Cached);
}

#[tokio::test(start_paused = true)]
async fn another_campaign_takes_effect_without_anybody_waiting_and_without_a_stampede() {
    let recommender = slow(10);
    let rankings = with(&recommender, PATIENT, Fallbacks::default());
    let fans = |rankings: &Arc<Rankings>| {
        let rankings = rankings.clone();
        let asked = (0..200).map(move |fan| {
            let rankings = rankings.clone();
            async move { rankings.rank(ask(&format!("fan-{fan}"))).await.unwrap() }
        });
        futures::future::join_all(asked)
    };
    fans(&rankings).await;
    sleep(Duration::from_secs(1)).await;
    recommender.generation.store(1, SeqCst);
    let served = fans(&rankings).await;
    assert!(served.iter().all(|it| it.freshness == Freshness::Stale));
    sleep(Duration::from_millis(200)).await;
    let asked = recommender.questions.load(SeqCst) - 200;
    assert!(
        (80..=125).contains(&asked),
        "{asked} in a fifth of a second"
    );
    sleep(Duration::from_secs(1)).await;
    let served = fans(&rankings).await;
    assert!(served.iter().all(|it| it.freshness == Freshness::Cached));
    assert_eq!(recommender.questions.load(SeqCst), 400);
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_for_long_enough_is_answered_by_the_next_source_and_the_answer_follows() {
    let recommender = slow(1_000);
    let rankings = with(&recommender, PATIENT, popular());
    let began = Instant::now();
    let served = rankings.rank(ask("fan")).await.unwrap();
    assert_eq!(began.elapsed().as_millis(), 250);
    assert_eq!(
        (shown(&served), served.origin),
        ("popular", Origin::Popular)
    );
    let later = served.later.unwrap().answer().await.unwrap();
    assert_eq!((shown(&later), later.origin), ("fan", Origin::Personalize));
    assert_eq!(began.elapsed().as_millis(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_is_near_shortens_the_patience() {
    let rankings = with(&slow(1_000), PATIENT, popular());
    let began = Instant::now();
    let deadline = began + Duration::from_millis(100);
    let served = rankings.rank(lookup(query("fan"), deadline)).await;
    assert_eq!(served.unwrap().origin, Origin::Popular);
    assert_eq!(began.elapsed().as_millis(), 80);
}

#[tokio::test(start_paused = true)]
async fn without_another_source_the_recommender_is_waited_for_until_the_deadline() {
    let rankings = with(&slow(1_000), PATIENT, Fallbacks::default());
    let served = rankings.rank(ask("fan")).await.unwrap();
    assert_eq!(shown(&served), "fan");
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_asked_once_more_and_what_cannot_succeed_is_not() {
    let retry_after = Duration::from_millis(500);
    for (error, questions, answered) in [
        (RecommendError::Unavailable("reset".to_owned()), 2, true),
        (RecommendError::Throttled { retry_after }, 2, true),
        (RecommendError::TimedOut, 1, false),
        (
            RecommendError::Invalid("no such campaign".to_owned()),
            1,
            false,
        ),
    ] {
        let recommender = slow(1);
        recommender.failures.lock().unwrap().push(error.clone());
        let rankings = with(&recommender, PATIENT, Fallbacks::default());
        let served = rankings.rank(ask("fan")).await;
        assert_eq!(served.is_ok(), answered, "{error}");
        assert_eq!(recommender.questions.load(SeqCst), questions, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_recommender_costs_nobody_his_patience_and_its_return_is_noticed() {
    let recommender = slow(400);
    let dead = vec![RecommendError::TimedOut; 10_000];
    *recommender.failures.lock().unwrap() = dead;
    let rankings = with(&recommender, PATIENT, popular());
    for fan in 0..5 {
        rankings.rank(ask(&format!("early-{fan}"))).await.unwrap();
    }
    sleep(Duration::from_millis(450)).await;
    let (began, questions) = (Instant::now(), recommender.questions.load(SeqCst));
    for fan in 0..1_000 {
        let served = rankings.rank(ask(&format!("late-{fan}"))).await.unwrap();
        assert_eq!(served.origin, Origin::Popular);
    }
    // A probe now and then, each at the cost of one caller's patience.
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert!(recommender.questions.load(SeqCst) - questions <= 3);

    recommender.failures.lock().unwrap().clear();
    sleep(Duration::from_secs(5)).await;
    let served = rankings.rank(ask("back")).await.unwrap();
    let later = served.later.unwrap().answer().await.unwrap();
    assert_eq!(later.origin, Origin::Personalize);
}

#[tokio::test(start_paused = true)]
async fn work_for_a_superseded_state_is_dropped_and_takes_no_token() {
    let recommender = slow(1);
    let limits = RemoteLimits {
        per_second: 10.0,
        ..PATIENT
    };
    let rankings = with(&recommender, limits, popular());
    let (standings, event) = (Standings::default(), EventId::new("1").unwrap());
    let observe = |sequence, value: &str| {
        let context = Context::from([("MATCH_EVENT".to_owned(), value.to_owned())]);
        let position = Position::new("2022".to_owned(), sequence);
        standings.observe(&event, Some(&position), Arc::new(context))
    };
    let penalty = observe("1", "PENALTY");
    let pushes = (0..100).map(|fan| Lookup {
        query: Query {
            context: penalty.context.clone(),
            ..query(&format!("fan-{fan}"))
        },
        standing: penalty.standing.clone(),
        ..push("fan")
    });
    let all = rankings.clone().rank_all(pushes.collect(), soon());
    assert_eq!(all.concat().await.len(), 100);
    assert!(rankings.state().unwrap().budget.waiting[Priority::Refresh as usize] > 50);
    observe("2", "GOAL");
    sleep(Duration::from_millis(1)).await;
    let (state, questions) = (
        rankings.state().unwrap(),
        recommender.questions.load(SeqCst),
    );
    assert_eq!(state.budget.waiting, [0; 4]);
    assert!(rankings.counters.serving.superseded.get() > 50);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(recommender.questions.load(SeqCst), questions);
}

/// A goal for 10,000 fans at 500 questions a second.
#[tokio::test(start_paused = true)]
async fn a_goal_for_ten_thousand_fans_is_answered_in_time_and_the_budget_is_used_and_kept() {
    let recommender = slow(40);
    let rankings = with(&recommender, PATIENT, with_cohorts(10_000));
    let began = Instant::now();
    let mut batches = Vec::new();
    for batch in 0..10 {
        let fans = batch * 1_000..(batch + 1) * 1_000;
        let lookups = fans.map(|fan| push(&format!("fan-{fan}"))).collect();
        batches.push(rankings.clone().rank_all(lookups, soon()).concat());
    }
    let answers = futures::future::join_all(batches).await.concat();
    assert!(
        began.elapsed() <= Duration::from_millis(300),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(answers.len(), 10_000);
    let from = |origin| {
        let answers = answers.iter();
        answers
            .filter(|(_, it)| it.as_ref().is_ok_and(|it| it.origin == origin))
            .count()
    };
    assert!(
        from(Origin::Personalize) >= 40,
        "{}",
        from(Origin::Personalize)
    );
    assert_eq!(from(Origin::Personalize) + from(Origin::Cohort), 10_000);

    sleep(Duration::from_secs(10)).await;
    let (questions, seconds) = (
        recommender.questions.load(SeqCst),
        began.elapsed().as_secs_f64(),
    );
    let whole = 500.0 * seconds;
    assert!(questions as f64 <= whole + 20.0, "{questions} of {whole}");
    assert!(questions as f64 >= 0.95 * whole, "{questions} of {whole}");
}

#[tokio::test(start_paused = true)]
async fn twice_the_capacity_for_a_minute_is_survived() {
    let limits = RemoteLimits {
        per_second: 100.0,
        ..PATIENT
    };
    let rankings = with(&slow(20), limits, popular());
    let personal = |from: u32, per_second: u32, seconds: u32| {
        let rankings = rankings.clone();
        let asked = (0..per_second * seconds).map(move |number| {
            let rankings = rankings.clone();
            async move {
                sleep(Duration::from_secs(1) * number / per_second).await;
                let began = Instant::now();
                let served = rankings
                    .rank(ask(&format!("{from}-{number}")))
                    .await
                    .unwrap();
                assert!(began.elapsed() <= Duration::from_millis(250));
                usize::from(served.origin == Origin::Personalize)
            }
        });
        let counts = futures::future::join_all(asked);
        async { counts.await.into_iter().sum::<usize>() }
    };
    let peak = personal(1, 95, 10).await as f64 / 10.0;
    let overloaded = personal(2, 200, 60).await as f64 / 60.0;
    assert!(overloaded >= 0.9 * peak, "{overloaded} of {peak} a second");
    sleep(Duration::from_secs(5)).await;
    let after = personal(3, 90, 5).await as f64 / 5.0;
    assert!(after >= 0.95 * 90.0, "{after} of 90 a second");
}
