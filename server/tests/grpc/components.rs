//! GetComponents: by event and by context, what it refuses, and how a failing recommender looks.

use std::time::Duration;

use tonic::Code;
use touchline_proto::v1::{
    Component, ComponentSet, Freshness, GetComponentsRequest, Origin,
    component_service_client::ComponentServiceClient,
};
use touchline_server::{ServerArgs, config::NumResults};

use crate::{
    harness::{
        Server, asking, by_context, by_event, event, item, reason, refused_fields,
        says_when_to_retry, soon, until,
    },
    standin::{Answer, Standin},
};

async fn get(server: &Server, request: GetComponentsRequest) -> ComponentSet {
    let answer = server.components().get_components(request).await.unwrap();
    answer.into_inner().component_set.unwrap()
}

fn shown(set: &ComponentSet) -> Vec<String> {
    let show = |component: &Component| {
        let Component {
            item_type,
            item_id,
            rank,
            ..
        } = component;
        format!("{item_type}={item_id} #{rank}")
    };
    set.components.iter().map(show).collect()
}

#[tokio::test]
async fn a_set_is_the_moderated_ranking_of_the_events_newest_state() {
    let standin = Standin::with_items(&["c2", "a1", "c1", "gone", "b1", "a2"]).await;
    let server = Server::personalize(&standin).await;
    let state = server
        .put(event(
            "1",
            &[("match_event", "GOAL"), ("score_difference", "1")],
        ))
        .await;

    let set = get(&server, by_event("fan", "1")).await;
    insta::assert_debug_snapshot!(shown(&set), @r#"
    [
        "MONETIZE=c2 #1",
        "PLAYER=a1 #2",
        "SOCIAL=b1 #5",
    ]
    "#);
    assert_eq!(set.event_id, "1");
    assert_eq!(set.version, state.version);
    assert_eq!(set.set_id.len(), 16);
    assert_eq!(set.recommendation_id, "RID-1");
    assert_eq!(set.origin(), Origin::Personalize);
    assert_eq!(set.freshness(), Freshness::Live);
    assert_eq!(set.components[0].attributes["item_label"], "Label of c2");
    assert!((set.components[0].score - 0.5).abs() < f64::EPSILON);
    // SEED #3 and #9: counted, and nobody is the worse for it.
    assert_eq!(server.running.counters.dropped.unknown_item.get(), 1);
    assert_eq!(server.running.counters.context_keys_missing.get(), 3);

    let question = standin.asked.lock().unwrap()[0].clone();
    assert_eq!(
        standin.region(),
        "eu-west-1",
        "signed for the campaign's region"
    );
    assert_eq!(question["userId"], "fan");
    assert_eq!(question["numResults"], 10);
    assert_eq!(
        question["context"],
        serde_json::json!({"MATCH_EVENT": "GOAL", "SCORE_DIFFERENCE": "1"})
    );
    server.stop().await;
}

#[tokio::test]
async fn all_results_are_as_many_as_the_catalog_has_and_grow_with_it() {
    let standin = Standin::with_items(&["a1"]).await;
    let args = ServerArgs {
        num_results: NumResults::All,
        catalog_refresh: Duration::from_secs(1),
        ..asking(&standin)
    };
    let server = Server::with(args).await;
    let asked = |place: usize| standin.asked.lock().unwrap()[place]["numResults"].clone();
    get(&server, by_context("fan", &[])).await;
    assert_eq!(asked(0), 6);
    let mut said = by_context("fan", &[]);
    said.num_results = 2;
    get(&server, said).await;
    assert_eq!(asked(1), 2);

    let new = [item("d1", "GENERAL")];
    let store = &server.tables.store;
    store.put_items(&new, &[], &|_| {}).await.unwrap();
    until(|| async {
        get(&server, by_context("fan", &[])).await;
        standin
            .asked
            .lock()
            .unwrap()
            .iter()
            .any(|call| call["numResults"] == 7)
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn a_context_may_be_given_instead_of_an_event_in_any_case_of_letters() {
    let standin = Standin::with_items(&["a1"]).await;
    let server = Server::personalize(&standin).await;
    let set = get(&server, by_context("fan", &[("match_event", "GOAL")])).await;
    assert_eq!((set.event_id.as_str(), set.version.as_str()), ("", ""));
    assert_eq!(shown(&set), ["PLAYER=a1 #1"]);
    let again = get(&server, by_context("fan", &[("MATCH_EVENT", "GOAL")])).await;
    assert_eq!(again.freshness(), Freshness::Cached);
    assert_eq!(standin.questions(), 1);
    assert_eq!(again.set_id, set.set_id);
    server.stop().await;
}

#[tokio::test]
async fn the_embedded_ranker_answers_without_any_account() {
    let server = Server::embedded().await;
    server.put(event("1", &[("match_event", "GOAL")])).await;
    for _ in 0..2 {
        let set = get(&server, by_event("fan", "1")).await;
        assert_eq!(set.components.len(), 3, "one of each type: {set:?}");
        assert_eq!(set.origin(), Origin::Embedded);
        assert_eq!(set.freshness(), Freshness::Live, "never cached");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_attribute_that_is_too_long_for_a_context_is_left_out_and_nobody_is_the_worse_for_it() {
    let standin = Standin::with_items(&["a1"]).await;
    let server = Server::personalize(&standin).await;
    let (fits, long) = ("é".repeat(1_000), "é".repeat(1_001));
    server
        .put(event("1", &[("match_event", &fits), ("match_type", &long)]))
        .await;
    let set = get(&server, by_event("fan", "1")).await;
    assert_eq!(shown(&set), ["PLAYER=a1 #1"]);
    let question = standin.asked.lock().unwrap()[0].clone();
    assert_eq!(
        question["context"],
        serde_json::json!({"MATCH_EVENT": fits})
    );
    assert_eq!(server.running.counters.context_keys_missing.get(), 4);
    server.stop().await;
}

#[tokio::test]
async fn an_empty_ranking_gives_an_empty_set() {
    let standin = Standin::with_items(&[]).await;
    let server = Server::personalize(&standin).await;
    let set = get(&server, by_context("fan", &[])).await;
    assert!(set.components.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn an_item_that_is_added_to_the_table_is_shown_soon_after_it_was_missed() {
    let standin = Standin::start(|_| Answer::Items(&["new"])).await;
    let server = Server::with(ServerArgs {
        // The refresh that is waited for is the early one.
        catalog_refresh: std::time::Duration::from_secs(3_600),
        ..asking(&standin)
    })
    .await;
    assert!(
        get(&server, by_context("fan", &[]))
            .await
            .components
            .is_empty()
    );
    let new = [item("new", "PLAYER")];
    let store = &server.tables.store;
    store.put_items(&new, &[], &|_| {}).await.unwrap();
    until(|| async {
        !get(&server, by_context("fan", &[]))
            .await
            .components
            .is_empty()
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn the_last_good_catalog_serves_while_the_table_cannot_be_read() {
    let standin = Standin::with_items(&["a1"]).await;
    let server = Server::with(ServerArgs {
        catalog_refresh: std::time::Duration::from_secs(1),
        ..asking(&standin)
    })
    .await;
    let Server {
        tables,
        running,
        shutdown,
        channel,
    } = server;
    tables.embedded.stop().await;
    until(|| async { running.counters.catalog_refreshes_failed.get() > 0 }).await;
    let mut client = ComponentServiceClient::new(channel);
    let answer = client.get_components(by_context("fan", &[])).await.unwrap();
    assert_eq!(
        shown(&answer.into_inner().component_set.unwrap()),
        ["PLAYER=a1 #1"]
    );

    // What needs the table says that it is the store, and when to ask again.
    let status = client
        .get_components(by_event("fan", "1"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(reason(&status), "STORE_UNAVAILABLE");
    assert!(says_when_to_retry(&status));
    shutdown.cancel();
    drop(client);
    soon(running.stopped()).await.unwrap();
}

#[tokio::test]
async fn every_bad_field_is_named() {
    let server = Server::embedded().await;
    let long = "x".repeat(257);
    let many: Vec<_> = (0..151).map(|key| (key.to_string(), "v")).collect();
    let many: Vec<_> = many
        .iter()
        .map(|(key, value)| (key.as_str(), *value))
        .collect();
    let huge = "v".repeat(1_001);
    let nothing = GetComponentsRequest::default();
    let too_many_results = GetComponentsRequest {
        num_results: 501,
        ..by_event("fan", "1")
    };
    for (request, fields) in [
        (by_event("", "1"), vec!["consumer_id"]),
        (by_event(&long, "1"), vec!["consumer_id"]),
        (by_event("fan", ""), vec!["event_id"]),
        (by_event("fan", &long), vec!["event_id"]),
        (nothing, vec!["consumer_id", "event_id"]),
        (too_many_results, vec!["num_results"]),
        (by_context("fan", &many), vec!["context.values"]),
        (by_context("fan", &[("", "v")]), vec!["context.values"]),
        (
            by_context("fan", &[("k", &huge)]),
            vec!["context.values[k]"],
        ),
        (
            by_context("fan", &[("no key", "v")]),
            vec!["context.values"],
        ),
        (by_context("fan", &[(&long, "v")]), vec!["context.values"]),
        (
            by_context("fan", &[("k", "1"), ("K", "2")]),
            vec!["context.values"],
        ),
    ] {
        let text = format!("{request:?}");
        let refused = server.components().get_components(request).await;
        assert_eq!(refused_fields(&refused.unwrap_err()), fields, "{text}");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_event_without_a_row_is_not_found() {
    let server = Server::embedded().await;
    let answer = server
        .components()
        .get_components(by_event("fan", "no"))
        .await;
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(reason(&status), "EVENT_NOT_FOUND");
    server.stop().await;
}

#[tokio::test]
async fn a_failing_recommender_is_told_by_code_and_its_words_stay_here() {
    let standin = Standin::start(|question| match question["userId"].as_str() {
        Some("throttled") => Answer::Error(400, "ThrottlingException"),
        Some("429") => Answer::Error(429, "SomethingElse"),
        Some("broken") => Answer::Error(500, "InternalFailure"),
        Some("invalid") => Answer::Error(400, "InvalidInputException"),
        Some("missing") => Answer::Error(404, "ResourceNotFoundException"),
        _ => Answer::Silence,
    })
    .await;
    let server = Server::with(ServerArgs {
        personalize_timeout: std::time::Duration::from_millis(300),
        ..asking(&standin)
    })
    .await;
    for (consumer, code, expected, retry, asked) in [
        (
            "throttled",
            Code::ResourceExhausted,
            "RECOMMENDER_THROTTLED",
            true,
            2,
        ),
        (
            "429",
            Code::ResourceExhausted,
            "RECOMMENDER_THROTTLED",
            true,
            2,
        ),
        (
            "broken",
            Code::Unavailable,
            "RECOMMENDER_UNAVAILABLE",
            true,
            2,
        ),
        (
            "invalid",
            Code::FailedPrecondition,
            "RECOMMENDER_REFUSED",
            false,
            1,
        ),
        (
            "missing",
            Code::FailedPrecondition,
            "RECOMMENDER_REFUSED",
            false,
            1,
        ),
        (
            "silent",
            Code::DeadlineExceeded,
            "RECOMMENDER_TIMED_OUT",
            false,
            1,
        ),
    ] {
        let questions = standin.questions();
        let request = by_context(consumer, &[]);
        let answer = soon(server.components().get_components(request)).await;
        let status = answer.map(|_| ()).unwrap_err();
        assert_eq!(status.code(), code, "{consumer}");
        assert_eq!(reason(&status), expected, "{consumer}");
        assert_eq!(says_when_to_retry(&status), retry, "{consumer}");
        assert!(!format!("{status:?}").contains("10.0.0.7"), "{status:?}");
        assert_eq!(standin.questions(), questions + asked, "{consumer}");
    }
    server.stop().await;
}
