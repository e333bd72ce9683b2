//! The server with `--recommender personalize`, against the stand-in over the real SDK: what is
//! asked, how often, and what a caller sees when Personalize fails.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use touchline_proto::v1::{Freshness, Origin};
use touchline_tests::{
    alone::{Alone, GOAL, by_type, consumers, fail, slow_down},
    eventually,
    personalize::{CAMPAIGN_ARN, Call, Fault},
    rows,
};

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().unwrap().reason.clone()
}

#[tokio::test]
async fn consumer_and_context_arrive_as_the_prototype_sent_them() {
    let bench = Alone::start().await;
    let set = bench.get("diego").await.unwrap();

    let context = GOAL.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let call = Call {
        campaign_arn: CAMPAIGN_ARN.to_owned(),
        consumer_id: "diego".to_owned(),
        num_results: 10,
        context: BTreeMap::from(context),
    };
    assert_eq!(bench.stand_in.calls(), [(call, 1)]);
    assert_eq!(by_type(&set), bench.expected("diego"));
    assert_eq!(set.origin(), Origin::Personalize);
    assert_eq!(set.freshness(), Freshness::Live);
    assert!(!set.recommendation_id.is_empty());
    bench.stop().await;
}

#[tokio::test]
async fn an_attribute_that_is_missing_from_the_row_is_left_out_of_the_context() {
    let bench = Alone::start().await;
    let row = [
        ("event_id", rows::text("1")),
        ("match_event", rows::text("GOAL")),
    ];
    rows::put(&bench.tables, rows::EVENT_TABLE, row)
        .await
        .unwrap();
    bench.get("diego").await.unwrap();
    let calls = bench.stand_in.calls();
    let context = &calls[0].0.context;
    let keys: Vec<_> = context.keys().collect();
    assert_eq!(keys, ["MATCH_EVENT"]);
    bench.stop().await;
}

#[tokio::test]
async fn equal_lookups_at_one_moment_are_asked_once_and_later_ones_are_cached() {
    let bench = Alone::start().await;
    slow_down(&bench, 100.0);
    let sets = join_all((0..50).map(|_| bench.get("diego"))).await;
    assert_eq!(bench.stand_in.calls_total(), 1);
    for set in sets {
        assert_eq!(by_type(&set.unwrap()), bench.expected("diego"));
    }

    let cached = bench.get("diego").await.unwrap();
    assert_eq!(cached.freshness(), Freshness::Cached);
    assert_eq!(bench.stand_in.calls_total(), 1);
    bench.get("camille").await.unwrap();
    assert_eq!(bench.stand_in.calls_for("camille"), 1);
    bench.stop().await;
}

#[tokio::test]
async fn a_batch_asks_no_more_at_a_time_than_it_may() {
    let bench = Alone::start_with(|args| args.personalize_concurrency = 4).await;
    slow_down(&bench, 5.0);
    let consumers = consumers(100);
    for (consumer_id, answer) in consumers.iter().zip(bench.batch(&consumers).await) {
        assert_eq!(answer.unwrap(), bench.expected(consumer_id));
    }
    assert_eq!(bench.stand_in.calls_total(), 100);
    assert_eq!(bench.stand_in.calls_at_once_max(), 4);
    bench.stop().await;
}

#[tokio::test]
async fn one_consumer_that_fails_leaves_the_others_of_a_batch_alone() {
    let bench = Alone::start().await;
    bench.stand_in.behave(|behaviour| {
        let faults = &mut behaviour.consumer_faults;
        faults.insert("fan-1".to_owned(), Fault::Throttle);
        faults.insert("fan-3".to_owned(), Fault::Error);
        faults.insert("fan-5".to_owned(), Fault::Reset);
    });
    let consumers = consumers(7);
    let answers = bench.batch(&consumers).await;
    let refused = |place: usize| answers[place].clone().unwrap_err();
    assert_eq!(refused(1), Code::ResourceExhausted as i32);
    assert_eq!(refused(3), Code::Unavailable as i32);
    assert_eq!(refused(5), Code::Unavailable as i32);
    for place in [0, 2, 4, 6] {
        let expected = bench.expected(&consumers[place]);
        assert_eq!(answers[place], Ok(expected));
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_throttle_is_resource_exhausted_says_when_to_come_back_and_is_not_kept() {
    let bench = Alone::start().await;
    fail(&bench, Some(Fault::Throttle));
    let status = bench.get("diego").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status), "RECOMMENDER_THROTTLED");
    let details = status.get_error_details();
    let retry = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(retry > Duration::ZERO);
    assert_eq!(bench.stand_in.calls_total(), 2, "asked once more, later");

    fail(&bench, None);
    assert_eq!(
        by_type(&bench.get("diego").await.unwrap()),
        bench.expected("diego")
    );
    bench.stop().await;
}

#[tokio::test]
async fn errors_resets_and_garbage_are_unavailable_and_tell_nothing_internal() {
    let bench = Alone::start().await;
    for fault in [Fault::Error, Fault::Reset, Fault::Garbage] {
        fail(&bench, Some(fault));
        let status = bench.get("diego").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{fault:?}");
        assert_eq!(reason(&status), "RECOMMENDER_UNAVAILABLE", "{fault:?}");
        assert_eq!(status.message(), "the recommender is not available");
    }
    fail(&bench, None);
    // After failures in a row it is given a pause.
    eventually("an answer", async || bench.get("diego").await.ok()).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_campaign_that_does_not_exist_is_a_failed_precondition() {
    let elsewhere = CAMPAIGN_ARN.replace("touchline", "elsewhere");
    let bench = Alone::start_with(|args| args.campaign_arn = Some(elsewhere)).await;
    let status = bench.get("diego").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(!status.message().contains("arn:"), "{}", status.message());
    bench.stop().await;
}

#[tokio::test]
async fn a_recommender_that_hangs_costs_its_time_out_and_nobody_elses_answer() {
    let quickly = Duration::from_millis(300);
    let bench = Alone::start_with(|args| args.personalize_timeout = quickly).await;
    bench.stand_in.behave(|behaviour| {
        let faults = &mut behaviour.consumer_faults;
        faults.insert("diego".to_owned(), Fault::Hang);
    });
    let (hung, served) = tokio::join!(bench.get("diego"), bench.get("camille"));
    assert_eq!(hung.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(by_type(&served.unwrap()), bench.expected("camille"));
    bench.stop().await;
}

#[tokio::test]
async fn items_that_the_catalog_does_not_know_are_skipped_and_an_empty_ranking_is_an_empty_set() {
    let bench = Alone::start().await;
    bench.stand_in.behave(|behaviour| {
        let known = ["ITEM_ID_1", "ITEM_ID_2", "ITEM_ID_3"].map(str::to_owned);
        let unknown = (0..5).map(|number| format!("UNKNOWN_{number}"));
        behaviour.items = unknown.chain(known).collect();
    });
    let types: Vec<_> = by_type(&bench.get("diego").await.unwrap())
        .into_keys()
        .collect();
    assert_eq!(types, ["GENERAL", "MONETIZE", "PLAYER"]);

    bench.stand_in.behave(|behaviour| behaviour.items.clear());
    let set = bench.get("camille").await.unwrap();
    assert!(set.components.is_empty());
    bench.stop().await;
}
