//! `touchline warm`, the binary, against a server and the stand-in for Personalize: what is in the
//! cache afterwards, what it cost, and what is said when something cannot be warmed.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{collections::BTreeMap, io::Write};

use futures::TryStreamExt;
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::{
    io::AsyncWriteExt,
    time::{Duration, Instant, timeout},
};
use touchline_proto::v1::{
    BatchGetComponentsRequest, EventState, Freshness, consumer_answer::Answer,
};
use touchline_server::recommend::budget::Priority;
use touchline_tests::{
    DEADLINE,
    alone::{Alone, GOAL, by_type, consumers, fail, goal},
    eventually,
    personalize::{Budget, CAMPAIGN_ARN, Fault},
    process::{Said, Talking},
};

fn list(ids: &[String]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(ids.join("\n").as_bytes()).unwrap();
    file.flush().unwrap();
    file
}

fn start(alone: &Alone, arguments: &[&str]) -> Talking {
    let server = format!("http://{}", alone.server.grpc_address);
    let shared = ["warm", "1", "--server", &server, "--patience", "2s"];
    let arguments = [&shared, arguments].concat();
    Talking::start("touchline", &arguments).unwrap()
}

async fn warm(alone: &Alone, arguments: &[&str]) -> Said {
    start(alone, arguments).ended().await.unwrap()
}

/// The last line, as JSON.
fn summary(said: &Said) -> Value {
    let last = said.out.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

fn penalty() -> EventState {
    let mut state = goal();
    let change = [("match_event", "PENALTY"), ("score_difference", "0")];
    let change = change.map(|(name, value)| (name.to_owned(), value.to_owned()));
    state.attributes.extend(change);
    state
}

/// How fresh the answers of a live push in this state are, and what they show.
async fn pushed(
    alone: &Alone,
    state: EventState,
    ids: &[String],
) -> BTreeMap<usize, (Freshness, BTreeMap<String, String>)> {
    let request = BatchGetComponentsRequest {
        state: Some(state),
        consumer_ids: ids.to_vec(),
        ..BatchGetComponentsRequest::default()
    };
    let mut client = alone.client.clone();
    let stream = client.batch_get_components(request).await.unwrap();
    let parts: Vec<_> = stream.into_inner().try_collect().await.unwrap();
    let sets: Vec<_> = parts.iter().flat_map(|part| &part.component_sets).collect();
    let answers = parts.iter().flat_map(|part| &part.answers);
    let answers = answers.map(|answer| match answer.answer {
        Some(Answer::ComponentSetIndex(index)) => {
            let set = sets[index as usize];
            let place = answer.consumer_index as usize;
            (place, (set.freshness(), by_type(set)))
        }
        ref other => panic!("no answer: {other:?}"),
    });
    answers.collect()
}

#[tokio::test]
async fn what_was_warmed_is_answered_from_the_cache_and_warming_it_again_costs_nothing() {
    let alone = Alone::start().await;
    let fans = consumers(60);
    let mut users = NamedTempFile::new().unwrap();
    writeln!(users, "COUNTRY,USER_ID").unwrap();
    for fan in &fans {
        writeln!(users, "AR,{fan}").unwrap();
    }
    users.flush().unwrap();
    let users = users.path().to_str().unwrap();
    let state = "match_event=PENALTY,score_difference=0";
    let arguments = ["--users", users, "--state", state];
    let said = warm(&alone, &arguments).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let first = said.out.lines().next().unwrap();
    assert_eq!(first, "120 rankings: 60 consumers, in 2 states of event 1");
    assert!(
        said.out
            .contains("about a second at the budget of 100,000 a second (1 replica)")
    );
    // One is asked for its budget's sake, and so is cached already.
    assert!(said.out.contains("120 of 120 warmed"), "{said:?}");
    assert!(
        said.out.contains("119 asked for, 1 cached already"),
        "{said:?}"
    );
    assert_eq!(alone.stand_in.calls_total(), 120);
    let tokens = &alone.server.counters.serving.budget.tokens;
    let tokens = [Priority::Caller, Priority::Prefetch].map(|it| tokens[it as usize].get());
    assert_eq!(tokens, [1, 119], "what nobody else wants is spent");

    for (state, context) in [
        (goal(), GOAL),
        (penalty(), {
            let mut context = GOAL;
            (context[0].1, context[2].1) = ("PENALTY", "0");
            context
        }),
    ] {
        for (place, (freshness, shown)) in pushed(&alone, state, &fans).await {
            assert_eq!(freshness, Freshness::Cached, "{place}");
            let ranking = alone.stand_in.ranking_of(&fans[place], &context);
            let first = shown.values().any(|item| *item == ranking[0]);
            assert!(first, "{place}: what this consumer is shown in this state");
        }
    }
    assert_eq!(
        alone.get(&fans[7]).await.unwrap().freshness(),
        Freshness::Cached
    );
    assert_eq!(alone.stand_in.calls_total(), 120, "nothing was asked again");

    let said = warm(&alone, &[&arguments[..], &["--json"]].concat()).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let summary = summary(&said);
    assert_eq!(
        (&summary["asked"], &summary["cached"]),
        (&0.into(), &120.into())
    );
    assert_eq!(alone.stand_in.calls_total(), 120);
    alone.stop().await;
}

#[tokio::test]
async fn warming_never_asks_for_more_than_the_budget_and_says_how_long_that_takes() {
    let alone = Alone::start_with(|args| {
        args.serving.personalize_tps = 200;
        // However slow this machine is, no answer is late.
        args.personalize_timeout = Duration::from_secs(30);
    })
    .await;
    // The service's own limit, with what lies between two machines' clocks.
    let budget = Budget {
        per_second: 200.0,
        burst: 20.0,
    };
    alone.stand_in.behave(|it| it.budget = Some(budget));
    let file = list(&consumers(600));
    let file = file.path().to_str().unwrap();
    let said = warm(&alone, &["--consumers", file, "--dry-run"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let told = "about 3s at the budget of 200 a second";
    assert!(said.out.contains(told), "{said:?}");
    assert_eq!(alone.stand_in.calls_total(), 1, "for the budget's sake");

    let began = Instant::now();
    let said = warm(&alone, &["--consumers", file]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(alone.stand_in.calls_total(), 600);
    let allowed = 200.0 * began.elapsed().as_secs_f64() + 8.0;
    assert!(600.0 <= allowed, "600 calls where {allowed} were allowed");
    assert_eq!(alone.server.counters.recommender.throttled.get(), 0);
    alone.stop().await;
}

#[tokio::test]
async fn warming_other_states_drops_no_work_for_the_one_that_is_on() {
    let alone = Alone::start_with(|args| args.personalize_timeout = DEADLINE).await;
    alone.stand_in.behave(|it| {
        it.consumer_faults.insert("live".to_owned(), Fault::Hang);
    });
    let fans = consumers(20);
    let live = async { pushed(&alone, goal(), &["live".to_owned()]).await };
    let warming = async {
        eventually("the push is asked", async || {
            (alone.stand_in.calls_for("live") == 1).then_some(())
        })
        .await;
        let file = list(&fans);
        let file = file.path().to_str().unwrap();
        let state = ["--state", "match_event=PENALTY"];
        warm(&alone, &[&["--consumers", file], &state[..]].concat()).await
    };
    let said = tokio::select! {
        _ = live => panic!("the push is under way all the while"),
        said = warming => said,
    };
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(alone.server.counters.serving.superseded.get(), 0);
    alone.stop().await;
}

#[tokio::test]
async fn what_cannot_be_warmed_is_counted_by_reason_and_leaves_the_others_alone() {
    let alone = Alone::start().await;
    alone.stand_in.behave(|it| {
        for consumer in ["fan-3", "fan-30"] {
            let faults = &mut it.consumer_faults;
            faults.insert(consumer.to_owned(), Fault::Throttle);
        }
    });
    let file = list(&consumers(40));
    let said = warm(&alone, &["--consumers", file.path().to_str().unwrap()]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("38 of 40 warmed"), "{said:?}");
    assert!(said.out.contains("  2 not warmed: "), "{said:?}");
    assert!(said.out.contains("the recommender throttles"), "{said:?}");
    let last = said.err.lines().last().unwrap();
    assert!(
        last.contains("2 of 40 rankings were not warmed"),
        "{said:?}"
    );
    assert!(!said.out.contains("fan-") && !said.err.contains("fan-"));

    alone.stand_in.behave(|it| it.consumer_faults.clear());
    alone.stand_in.forget_calls();
    let said = warm(&alone, &["--consumers", file.path().to_str().unwrap()]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(alone.stand_in.calls_total(), 2, "those alone");
    alone.stop().await;
}

#[tokio::test]
async fn an_older_ranking_is_asked_for_again_until_a_newer_one_is_there() {
    let mut campaign = NamedTempFile::new().unwrap();
    write!(campaign, "{CAMPAIGN_ARN}").unwrap();
    campaign.flush().unwrap();
    let path = campaign.path().to_owned();
    let alone = Alone::start_with(|args| args.serving.campaign_file = Some(path.clone())).await;
    let fans = consumers(30);
    let file = list(&fans);
    let arguments = ["--consumers", file.path().to_str().unwrap(), "--json"];
    let said = warm(&alone, &arguments).await;
    assert_eq!(said.code, Some(0), "{said:?}");

    // Another campaign makes every ranking an older one.
    let other = format!("{CAMPAIGN_ARN}-2");
    alone
        .stand_in
        .behave(|it| it.campaign_arn.clone_from(&other));
    std::fs::write(&path, &other).unwrap();
    alone.get("witness").await.ok();
    eventually("the other campaign is asked", async || {
        let set = alone.get("witness").await.ok()?;
        let calls = alone.stand_in.calls();
        let asked = calls.iter().any(|(call, _)| call.campaign_arn == other);
        (asked && set.freshness() != Freshness::Stale).then_some(())
    })
    .await;
    let said = warm(&alone, &arguments).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    // But perhaps the one that was asked for the budget's sake.
    let asked = summary(&said)["asked"].as_u64().unwrap();
    assert!(asked >= 29, "{said:?}");
    for (place, (freshness, _)) in pushed(&alone, goal(), &fans).await {
        assert_eq!(freshness, Freshness::Cached, "{place}");
    }
    let calls = alone.stand_in.calls();
    for fan in &fans {
        let own = calls.iter().filter(|(call, _)| call.consumer_id == *fan);
        let own: Vec<_> = own
            .map(|(call, count)| (&call.campaign_arn, count))
            .collect();
        assert_eq!(own.len(), 2, "each campaign: {own:?}");
        assert!(own.iter().all(|(_, count)| **count == 1), "once: {own:?}");
    }
    alone.stop().await;
}

#[tokio::test]
async fn an_interrupted_run_says_what_was_done_and_the_next_one_does_the_rest() {
    let alone = Alone::start_with(|args| args.serving.personalize_tps = 20).await;
    let file = list(&consumers(300));
    let arguments = ["--consumers", file.path().to_str().unwrap(), "--json"];
    let running = start(&alone, &arguments);
    eventually("some are warmed", async || {
        (alone.stand_in.calls_total() >= 10).then_some(())
    })
    .await;
    running.interrupt().await.unwrap();
    let said = running.ended().await.unwrap();
    assert_eq!(said.code, Some(1), "{said:?}");
    let summary = summary(&said);
    assert_eq!(summary["end"], "interrupted", "{said:?}");
    let done = summary["asked"].as_u64().unwrap() + summary["cached"].as_u64().unwrap();
    assert!((1..300).contains(&done), "{said:?}");
    assert_eq!(summary["not_asked"], 300 - done, "{said:?}");
    assert!(said.err.contains("interrupted: "), "{said:?}");
    alone.stop().await;
}

#[tokio::test]
async fn when_the_time_is_over_the_rest_is_left_and_what_it_would_need_is_said() {
    let alone = Alone::start_with(|args| args.serving.personalize_tps = 20).await;
    let file = list(&consumers(300));
    let file = file.path().to_str().unwrap();
    let said = warm(&alone, &["--consumers", file, "--within", "2s"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("the time was over: "), "{said:?}");
    for named in [
        "within 2s: 150 a second, minProvisionedTPS 150",
        "advice: within 2s needs 150 a second; the server's --personalize-tps allows 20",
        "aws personalize update-campaign --campaign-arn CAMPAIGN_ARN --min-provisioned-tps 150",
        "costs money until it is lowered again",
    ] {
        assert!(said.err.contains(named), "{named}: {said:?}");
    }
    let calls = alone.stand_in.calls_total();
    assert!((1..=20 * 3).contains(&calls), "{calls}");
    alone.stop().await;
}

#[cfg(not(feature = "campaign"))]
#[tokio::test]
async fn a_build_that_cannot_change_a_campaign_says_the_command_and_warms_nothing() {
    let alone = Alone::start().await;
    let file = list(&consumers(3));
    let mut arguments = vec!["--consumers", file.path().to_str().unwrap()];
    arguments.extend(["--within", "1s", "--campaign-arn", CAMPAIGN_ARN]);
    arguments.push("--apply-min-provisioned-tps");
    let said = warm(&alone, &arguments).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    let command = format!(
        "aws personalize update-campaign --campaign-arn {CAMPAIGN_ARN} --min-provisioned-tps 3 \
         --region us-east-1"
    );
    assert!(said.err.contains(&command), "{said:?}");
    assert!(said.err.contains("nothing was warmed"), "{said:?}");
    assert_eq!(alone.stand_in.calls_total(), 1, "for the budget's sake");
    alone.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_said_before_anything_is_asked() {
    let alone = Alone::start().await;
    let good = list(&consumers(3));
    let good = good.path().to_str().unwrap();
    let bad = list(&["a".to_owned(), "b".repeat(257)]);
    let bad = bad.path().to_str().unwrap();
    for (arguments, named) in [
        (
            &["--consumers", bad][..],
            "line 2: a consumer's id of 1 to 256",
        ),
        (&["--users", good], "line 1: column USER_ID is missing"),
        (&["--users", "/no/such.csv"], "/no/such.csv: "),
        (&["--consumers", "-"], "standard input: names no consumer"),
        (
            &["--consumers", good, "--max-consumers", "2"],
            "line 3: is one consumer too many; at most 2",
        ),
        (
            &["--consumers", good, "--state", "match_even=GOAL"],
            "match_even is no attribute that the recommender is asked with; match_event,",
        ),
        (
            &["--consumers", good, "--state", "display_clock=1"],
            "--context-keys",
        ),
    ] {
        let said = warm(&alone, arguments).await;
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains(named), "{named}: {said:?}");
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
    }
    let server = format!("http://{}", alone.server.grpc_address);
    let arguments = ["warm", "2", "--consumers", good, "--server", &server];
    let said = Talking::start("touchline", &arguments).unwrap();
    let said = said.ended().await.unwrap();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("`touchline event list`"), "{said:?}");
    assert_eq!(alone.stand_in.calls_total(), 0);
    alone.stop().await;
}

#[tokio::test]
async fn a_campaign_that_gives_nothing_is_not_asked_for_everybody() {
    let alone = Alone::start().await;
    let file = list(&consumers(3_000));
    let arguments = ["--consumers", file.path().to_str().unwrap()];
    alone
        .stand_in
        .behave(|it| it.campaign_arn = "another".to_owned());
    let said = warm(&alone, &arguments).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("the recommender refuses"), "{said:?}");
    assert_eq!(alone.stand_in.calls_total(), 1);

    // The budget is told, and then nothing works.
    alone
        .stand_in
        .behave(|it| it.campaign_arn = CAMPAIGN_ARN.to_owned());
    alone.get("fan-0").await.unwrap();
    alone.stand_in.forget_calls();
    fail(&alone, Some(Fault::Error));
    let said = warm(&alone, &arguments).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("rankings were not warmed"), "{said:?}");
    let calls = alone.stand_in.calls_total();
    assert!(calls < 1_000, "{calls}");
    alone.stop().await;
}

#[tokio::test]
async fn a_server_that_goes_away_ends_the_run() {
    let alone = Alone::start_with(|args| args.serving.personalize_tps = 20).await;
    let file = list(&consumers(3_000));
    let running = start(
        &alone,
        &["--consumers", file.path().to_str().unwrap(), "--json"],
    );
    eventually("some are warmed", async || {
        (alone.stand_in.calls_total() >= 5).then_some(())
    })
    .await;
    alone.stop().await;
    let said = running.ended().await.unwrap();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(summary(&said)["end"], "gave_up", "{said:?}");
}

#[tokio::test]
async fn whoever_waits_for_standard_input_can_be_interrupted() {
    let arguments = ["warm", "1", "--consumers", "-"];
    let (running, mut input) = Talking::start_told("touchline", &arguments).unwrap();
    // More than a pipe holds: it is being read, and is not at its end.
    let ids = consumers(50_000).join("\n");
    let written = timeout(DEADLINE, input.write_all(ids.as_bytes()));
    written.await.unwrap().unwrap();
    running.interrupt().await.unwrap();
    let said = running.ended().await.unwrap();
    assert_eq!(said.code, Some(130), "{said:?}");
    drop(input);
}

#[tokio::test]
async fn consumers_come_from_standard_input() {
    let alone = Alone::start().await;
    let server = format!("http://{}", alone.server.grpc_address);
    let arguments = ["warm", "1", "--consumers", "-", "--server", &server];
    let (running, mut input) = Talking::start_told("touchline", &arguments).unwrap();
    input
        .write_all(b"diego\n\ncamille\r\ndiego\n")
        .await
        .unwrap();
    drop(input);
    let said = running.ended().await.unwrap();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.err.contains("named again and asked once: 1"),
        "{said:?}"
    );
    assert_eq!(alone.stand_in.calls_total(), 2);
    assert_eq!(alone.stand_in.calls_for("camille"), 1);
    alone.stop().await;
}
