//! What operators see: metrics that move with what is asked, and why a server is not ready.

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use touchline_proto::v1::{BatchGetComponentsRequest, GetEventRequest, WatchEventRequest};
use touchline_server::{ServerArgs, start};
use touchline_store::{
    embedded::{Embedded, Place},
    tables::Store,
};

use crate::{
    harness::{
        Server, by_context, by_event, event, observed, soon, store_args, until, until_shown,
    },
    standin::{Answer, Standin},
};

#[tokio::test]
async fn a_server_that_reaches_nobody_lives_and_says_why_it_is_not_ready() {
    // A port that nobody listens on for now.
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let store = Store::connect(&store_args(address)).await;
    let shutdown = CancellationToken::new();
    let args = ServerArgs {
        listen: ([127, 0, 0, 1], 0).into(),
        metrics_listen: ([127, 0, 0, 1], 0).into(),
        ..ServerArgs::default()
    };
    let running = start(args, store, shutdown.clone()).await.unwrap();
    let metrics = running.metrics_address;
    assert_eq!(observed(metrics, "/healthz").await.0, 200);
    let (status, reason) = observed(metrics, "/readyz").await;
    assert_eq!(status, 503);
    assert_eq!(reason.lines().count(), 1, "{reason}");
    assert!(reason.contains("the tables or the catalog"), "{reason}");
    let (_, shown) = observed(metrics, "/metrics").await;
    assert!(!shown.contains("catalog_age"), "none was read: {shown}");

    let embedded = Embedded::start(Place::Memory, address).await.unwrap();
    soon(running.ready()).await.unwrap();
    assert_eq!(observed(metrics, "/readyz").await.0, 200);
    shutdown.cancel();
    soon(running.stopped()).await.unwrap();
    let listening = tokio::net::TcpStream::connect(metrics).await;
    assert!(listening.is_err(), "it has ended");
    embedded.stop().await;
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code_and_watchers_while_they_are_there() {
    let server = Server::embedded().await;
    let metrics = server.running.metrics_address;
    server.put(event("1", &[("match_event", "GOAL")])).await;
    let mut client = server.components();
    client.get_components(by_event("ann", "1")).await.unwrap();
    let nowhere = client.get_components(by_event("ann", "nowhere")).await;
    assert_eq!(nowhere.unwrap_err().code(), Code::NotFound);
    let wanted = [
        "touchline_server_calls_total{method=\"EventService/PutEvent\",code=\"OK\"} 1",
        "touchline_server_calls_total{method=\"ComponentService/GetComponents\",code=\"OK\"} 1",
        "touchline_server_calls_total{method=\"ComponentService/GetComponents\",code=\"NOT_FOUND\"} 1",
        "touchline_server_call_seconds_count{method=\"ComponentService/GetComponents\"} 2",
        "touchline_server_answers_total{origin=\"embedded\",freshness=\"live\"} 1",
        "touchline_server_deadline_left_seconds_count 1",
        "touchline_server_recommender_questions_total{outcome=\"answered\"} 1",
        "touchline_server_recommender_call_seconds_count 1",
        "touchline_server_catalog_items 6",
        "touchline_server_catalog_generation 1",
        "touchline_server_catalog_refreshes_failed_total 0",
        "touchline_server_calls_in_flight 0",
        "touchline_server_following 0",
        "touchline_server_watchers 0",
    ];
    until_shown(metrics, &wanted).await;
    let (_, shown) = observed(metrics, "/metrics").await;
    assert!(shown.contains("\ntouchline_server_catalog_age_seconds "));
    assert!(!shown.contains("ann"), "nobody is named");

    let request = WatchEventRequest {
        event_id: "1".to_owned(),
        ..WatchEventRequest::default()
    };
    let mut watched = client.watch_event(request).await.unwrap().into_inner();
    soon(watched.message()).await.unwrap();
    until_shown(metrics, &["touchline_server_watchers 1"]).await;
    // Without a feed the watched row is polled.
    until(|| async { server.running.counters.polls.get() > 0 }).await;
    drop(watched);
    let wanted = [
        "touchline_server_watchers 0",
        "touchline_server_calls_total{method=\"ComponentService/WatchEvent\",code=\"CANCELLED\"} 1",
    ];
    until_shown(metrics, &wanted).await;
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn rankings_are_counted_by_where_they_came_from_and_questions_by_their_outcome() {
    let standin = Standin::start(|question| match question["userId"] == "unlucky" {
        true => Answer::Error(429, "ThrottlingException"),
        false => Answer::Items(&["a1"]),
    })
    .await;
    let server = Server::personalize(&standin).await;
    let mut client = server.components();
    let consumer_ids = ["fan", "fan", "unlucky"].map(str::to_owned);
    let batch = BatchGetComponentsRequest {
        state: Some(event("1", &[("match_event", "GOAL")])),
        consumer_ids: consumer_ids.to_vec(),
        ..BatchGetComponentsRequest::default()
    };
    let answers = client.batch_get_components(batch).await.unwrap();
    soon(answers.into_inner().collect::<Vec<_>>()).await;
    let again = by_context("fan", &[("MATCH_EVENT", "GOAL")]);
    client.get_components(again).await.unwrap();
    assert_eq!(standin.questions(), 3, "one is asked once more");
    let wanted = [
        "touchline_server_ranking_lookups_total{result=\"hit\"} 1",
        "touchline_server_ranking_lookups_total{result=\"miss\"} 3",
        "touchline_server_ranking_lookups_total{result=\"coalesced\"} 1",
        "touchline_server_answers_total{origin=\"personalize\",freshness=\"live\"} 2",
        "touchline_server_answers_total{origin=\"personalize\",freshness=\"cached\"} 1",
        "touchline_server_recommender_questions_total{outcome=\"answered\"} 1",
        "touchline_server_recommender_questions_total{outcome=\"throttled\"} 2",
        "touchline_server_recommender_retries_total 1",
        "touchline_server_budget_tokens_total{priority=\"push\"} 3",
        "touchline_server_budget_waiting{priority=\"push\"} 0",
        "touchline_server_recommender_call_seconds_count 3",
        "touchline_server_calls_total{method=\"ComponentService/BatchGetComponents\",code=\"OK\"} 1",
    ];
    until_shown(server.running.metrics_address, &wanted).await;
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn what_is_turned_away_is_counted_as_what_the_caller_was_told() {
    let standin = Standin::start(|_| Answer::Silence).await;
    let server = Server::with(ServerArgs {
        max_calls: 1,
        default_deadline: std::time::Duration::from_secs(1),
        personalize_timeout: std::time::Duration::from_secs(2),
        ..crate::harness::asking(&standin)
    })
    .await;
    let metrics = server.running.metrics_address;
    let mut client = server.components();
    let slow = client.get_components(by_context("fan", &[]));
    let others = async {
        until_shown(metrics, &["touchline_server_calls_in_flight 1"]).await;
        let request = GetEventRequest {
            event_id: "1".to_owned(),
        };
        server.events().get_event(request).await.unwrap_err();
    };
    let (slow, ()) = tokio::join!(slow, others);
    slow.unwrap_err();
    let wanted = [
        "touchline_server_calls_shed_total 1",
        "touchline_server_calls_total{method=\"EventService/GetEvent\",code=\"RESOURCE_EXHAUSTED\"} 1",
        "touchline_server_calls_total{method=\"ComponentService/GetComponents\",code=\"DEADLINE_EXCEEDED\"} 1",
        // It goes on after its caller has left.
        "touchline_server_recommender_questions_total{outcome=\"timed_out\"} 1",
        "touchline_server_calls_in_flight 0",
    ];
    until_shown(metrics, &wanted).await;
    server.stop().await;
}
