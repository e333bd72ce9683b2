//! The serving path against the stand-in, over real sockets: what is promised whatever Personalize
//! does. How long things take is the benchmark's to say; here nothing is timed.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{collections::BTreeMap, io::Write, time::Duration};

use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use tokio::time::Instant;
use tonic::{Code, Request};
use touchline_proto::v1::{
    BatchGetComponentsRequest, Filter, Freshness, GetComponentsRequest, Origin, Refinement,
    get_components_request::Situation,
};
use touchline_server::recommend::serving::Source;
use touchline_tests::{
    alone::{Alone, by_type, consumers, fail, goal, slow_down},
    eventually,
    personalize::{Budget, Fault},
};

#[tokio::test]
async fn ten_thousand_callers_at_once_for_one_key_are_one_call() {
    let alone = Alone::start_with(|args| {
        args.max_calls = 20_000;
        // However slow the machine is: nobody gives up, and no answer is old.
        args.personalize_timeout = Duration::from_secs(30);
        args.ranking_ttl = Duration::from_secs(3_600);
    })
    .await;
    slow_down(&alone, 300.0);
    let answers = join_all((0..10_000).map(|_| alone.get("diego"))).await;
    assert_eq!(alone.stand_in.calls_total(), 1);
    for set in answers {
        assert_eq!(by_type(&set.unwrap()), alone.expected("diego"));
    }
    alone.stop().await;
}

#[tokio::test]
async fn personalize_away_in_the_middle_of_a_match_is_noticed_by_nothing_but_the_origin() {
    let alone = Alone::start_with(|args| {
        args.personalize_timeout = Duration::from_millis(200);
        args.serving.fallback = vec![Source::Popular];
        args.serving.patience = Duration::from_millis(250);
    })
    .await;
    // The first answers are waited for however slow the machine is.
    let personal = async |consumer: &str| {
        eventually("Personalize's own answer", async || {
            let set = alone.get(consumer).await.unwrap();
            (set.origin() == Origin::Personalize).then_some(set)
        })
        .await
    };
    let before = personal("early").await;
    for fault in [Fault::Hang, Fault::Reset, Fault::Error, Fault::Throttle] {
        fail(&alone, Some(fault));
        let known = alone.get("early").await.unwrap();
        assert_eq!(by_type(&known), by_type(&before));
        assert_ne!(known.freshness(), Freshness::Live);
        for consumer in consumers(20) {
            let set = alone.get(&format!("{consumer}-{fault:?}")).await.unwrap();
            assert_eq!(set.origin(), Origin::Popular, "{fault:?}");
            assert!(!set.components.is_empty());
        }
    }
    fail(&alone, None);
    personal("late").await;
    alone.stop().await;
}

#[tokio::test]
async fn the_embedded_ranker_stands_in_with_what_it_learned() {
    // Everybody taps on one item at a goal, and on another one at a penalty.
    let mut interactions = tempfile::NamedTempFile::new().unwrap();
    writeln!(
        interactions,
        "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,MATCH_EVENT"
    )
    .unwrap();
    for number in 0..50 {
        for (item, event) in [("ITEM_ID_14", "GOAL"), ("ITEM_ID_20", "PENALTY")] {
            writeln!(interactions, "u{number},{item},{number},tap,{event}").unwrap();
        }
    }
    interactions.flush().unwrap();
    let alone = Alone::start_with(|args| {
        args.interactions = Some(interactions.path().to_owned());
        args.default_deadline = Duration::from_secs(1);
        args.serving.fallback = vec![Source::Embedded, Source::Popular];
        args.serving.patience = Duration::from_millis(100);
    })
    .await;
    fail(&alone, Some(Fault::Hang));
    let set = alone.get("diego").await.unwrap();
    assert_eq!(set.origin(), Origin::Embedded);
    assert_eq!(
        set.components[0].item_id, "ITEM_ID_14",
        "what a goal asks for"
    );
    // It knows no filters, which may be what keeps an item from somebody.
    let filtered = Request::new(GetComponentsRequest {
        consumer_id: "diego".to_owned(),
        situation: Some(Situation::EventId("1".to_owned())),
        refinement: Some(Refinement {
            filter: Some(Filter {
                filter_arn: "arn:aws:personalize:eu-west-1:123456789012:filter/kids".to_owned(),
                ..Filter::default()
            }),
            ..Refinement::default()
        }),
        ..Default::default()
    });
    let refused = alone.client.clone().get_components(filtered).await;
    assert_eq!(refused.unwrap_err().code(), Code::DeadlineExceeded);
    alone.stop().await;
}

#[tokio::test]
async fn a_goal_for_ten_thousand_fans_is_answered_whole_and_never_asks_for_more_than_the_budget() {
    let mut users = tempfile::NamedTempFile::new().unwrap();
    let fans = consumers(10_000);
    writeln!(users, "USER_ID,COUNTRY").unwrap();
    for (number, fan) in fans.iter().enumerate() {
        writeln!(users, "{fan},C{}", number % 10).unwrap();
    }
    users.flush().unwrap();
    let alone = Alone::start_with(|args| {
        args.serving.personalize_tps = 500;
        args.users = Some(users.path().to_owned());
        args.serving.patience = Duration::from_millis(250);
        args.serving.fallback = vec![Source::Cohort, Source::Popular];
    })
    .await;
    // The service's own limit, with what lies between two machines' clocks.
    let budget = Budget {
        per_second: 500.0,
        burst: 50.0,
    };
    alone.stand_in.behave(|it| it.budget = Some(budget));
    slow_down(&alone, 30.0);
    let began = Instant::now();
    let batches = fans.chunks(1_000).map(|fans| origins(&alone, fans));
    let parts: Vec<_> = stream::iter(batches).buffer_unordered(10).collect().await;
    let mut by_origin: BTreeMap<Origin, usize> = BTreeMap::new();
    for (origin, count) in parts.into_iter().flatten() {
        *by_origin.entry(origin).or_default() += count;
    }
    assert_eq!(by_origin.values().sum::<usize>(), 10_000, "{by_origin:?}");
    assert!(by_origin.contains_key(&Origin::Cohort), "{by_origin:?}");

    // The questions that others have answered go on, and the budget holds all the while.
    let enough = async || (alone.stand_in.calls_total() >= 1_000).then_some(());
    eventually("a thousand calls", enough).await;
    let calls = alone.stand_in.calls_total() as f64;
    let allowed = 500.0 * began.elapsed().as_secs_f64() + 20.0;
    assert!(calls <= allowed, "{calls} of {allowed}");
    assert_eq!(alone.server.counters.recommender.throttled.get(), 0);
    alone.stop().await;
}

/// How many consumers of a batch were answered from where.
async fn origins(alone: &Alone, consumers: &[String]) -> Vec<(Origin, usize)> {
    use touchline_proto::v1::consumer_answer::Answer;
    let request = BatchGetComponentsRequest {
        state: Some(goal()),
        consumer_ids: consumers.to_vec(),
        ..BatchGetComponentsRequest::default()
    };
    let mut client = alone.client.clone();
    let parts = client.batch_get_components(request).await.unwrap();
    let parts: Vec<_> = parts.into_inner().try_collect().await.unwrap();
    let sets: Vec<_> = parts.iter().flat_map(|part| &part.component_sets).collect();
    let answers = parts.iter().flat_map(|part| &part.answers);
    let answered = answers.map(|answer| match answer.answer.as_ref().unwrap() {
        Answer::ComponentSetIndex(index) => (sets[*index as usize].origin(), 1),
        Answer::Error(error) => panic!("no answer: {error:?}"),
    });
    answered.collect()
}
