//! Rankings that are asked for before anybody needs them, against the stand-in.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{io::Write, time::Duration};

use tokio::time::sleep;
use touchline_server::recommend::serving::Source;
use touchline_tests::{
    alone::{Alone, consumers, state},
    eventually,
};

/// Calls of the stand-in, by `MATCH_EVENT`.
fn calls_in(alone: &Alone, match_event: &str) -> usize {
    let calls = alone.stand_in.calls();
    let at = |call: &touchline_tests::personalize::Call| call.context["MATCH_EVENT"] == match_event;
    calls.iter().filter(|(call, _)| at(call)).count()
}

#[tokio::test]
async fn after_a_penalty_the_goal_that_followed_the_last_one_is_asked_for_ahead() {
    let alone = Alone::start().await;
    let fans = consumers(50);
    // One consumer teaches: a penalty, a goal, nothing.
    for event in ["PENALTY", "GOAL", "NONE"] {
        alone.batch_in(state(event), &consumers(1)).await;
    }
    assert_eq!(calls_in(&alone, "GOAL"), 1);
    alone.batch_in(state("PENALTY"), &fans).await;
    let asked = async || (calls_in(&alone, "GOAL") >= 50).then_some(());
    eventually("a goal's rankings are asked for", asked).await;

    let calls = alone.stand_in.calls_total();
    for answer in alone.batch_in(state("GOAL"), &fans).await {
        answer.unwrap();
    }
    // What follows a goal is asked for a moment later.
    assert_eq!(calls_in(&alone, "GOAL"), 50);
    assert_eq!(
        alone.stand_in.calls_total(),
        calls,
        "all came from the cache"
    );
    let serving = &alone.server.counters.serving;
    assert!(serving.prefetched_used.get() >= 49);
    alone.stop().await;
}

#[tokio::test]
async fn nothing_is_asked_ahead_where_that_is_turned_off_or_nothing_is_left_of_the_budget() {
    let off = Alone::start_with(|args| args.serving.prefetch_contexts = 0).await;
    // Ten a second, and a hundred others that were answered from elsewhere and still wait.
    let busy = Alone::start_with(|args| {
        args.serving.personalize_tps = 10;
        args.serving.patience = Duration::from_millis(50);
        args.serving.fallback = vec![Source::Popular];
    })
    .await;
    for alone in [off, busy] {
        for event in ["PENALTY", "GOAL", "NONE", "PENALTY"] {
            alone.batch_in(state(event), &consumers(3)).await;
        }
        for round in 0..20 {
            let fans: Vec<_> = (0..10).map(|fan| format!("{round}-{fan}")).collect();
            alone.batch_in(state("PENALTY"), &fans).await;
            sleep(Duration::from_millis(100)).await;
        }
        let tokens = &alone.server.counters.serving.budget.tokens;
        assert_eq!(tokens[3].get(), 0);
        alone.stop().await;
    }
}

#[tokio::test]
async fn a_cohort_is_asked_for_ahead_of_its_members() {
    let mut users = tempfile::NamedTempFile::new().unwrap();
    writeln!(users, "USER_ID,COUNTRY").unwrap();
    for fan in consumers(20) {
        writeln!(users, "{fan},AR").unwrap();
    }
    users.flush().unwrap();
    let alone = Alone::start_with(|args| {
        args.users = Some(users.path().to_owned());
        args.serving.fallback = vec![Source::Cohort];
    })
    .await;
    for event in ["PENALTY", "GOAL", "NONE", "PENALTY"] {
        alone.batch_in(state(event), &consumers(20)).await;
    }
    let cohort = "cohort:COUNTRY=AR";
    let asked = async || (alone.stand_in.calls_for(cohort) > 0).then_some(());
    eventually("the cohort's ranking is asked for", asked).await;
    let calls = alone.stand_in.calls();
    let goal = calls
        .iter()
        .find(|(call, _)| call.consumer_id == cohort)
        .unwrap();
    assert_eq!(goal.0.context["MATCH_EVENT"], "GOAL");
    alone.stop().await;
}
