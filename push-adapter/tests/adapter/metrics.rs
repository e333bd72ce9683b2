//! What operators see: metrics that move with what happens, and why an adapter is not ready.

use std::time::Duration;

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::connect_async;
use touchline_proto::v1::{FollowRequest, change_feed_client::ChangeFeedClient};

use crate::support::{
    Adapter, Fan, StubServer, World, args, observed, put, shown, state, store_at, until_shown,
};

#[tokio::test]
async fn an_adapter_that_reaches_nobody_lives_and_says_why_it_is_not_ready() {
    // Nothing listens on port 1.
    let store = store_at("http://127.0.0.1:1").await;
    let server = StubServer::start().await;
    let adapter = Adapter::standing_by(args(&server), &store).await;
    let address = adapter.running.metrics_address;
    assert_eq!(observed(address, "/healthz").await.0, 200);
    let (status, reason) = observed(address, "/readyz").await;
    assert_eq!(status, 503);
    assert_eq!(reason.lines().count(), 1, "{reason}");
    assert!(reason.contains("no leader was reached"), "{reason}");
    until_shown(address, &["touchline_push_leader 0"]).await;
    let (_, metrics) = observed(address, "/metrics").await;
    assert!(!metrics.contains("stream_age"), "it reads nothing");
    adapter.stop().await;
    assert!(TcpStream::connect(address).await.is_err(), "it has ended");
}

#[tokio::test]
async fn a_leader_and_who_stands_by_are_ready() {
    let world = World::start().await;
    let beside = touchline_push::PushArgs {
        sole_leader: false,
        ..args(&world.server)
    };
    let second = Adapter::standing_by(beside, &world.store).await;
    let leader = &world.adapter.running;
    assert_eq!(observed(leader.metrics_address, "/readyz").await.0, 200);
    crate::support::eventually(|| async {
        observed(second.running.metrics_address, "/readyz").await.0 == 200
    })
    .await;
    let lines = [
        "touchline_push_leader 1",
        "touchline_push_terms_total 1",
        "touchline_push_feed_followers 1",
    ];
    until_shown(leader.metrics_address, &lines).await;
    let lines = ["touchline_push_leader 0", "touchline_push_terms_total 0"];
    until_shown(second.running.metrics_address, &lines).await;
    world.adapter.stop().await;
    second.leads().await;
    until_shown(second.running.metrics_address, &["touchline_push_leader 1"]).await;
    second.stop().await;
}

#[tokio::test]
async fn metrics_move_with_a_change_that_is_pushed() {
    let world = World::start().await;
    let mut ann = world.registered("ann").await;
    let _silent = world.fan().await;
    let mut bob = world.fan().await;
    bob.register_2("bob", "final", None).await;
    let address = world.adapter.running.metrics_address;
    until_shown(
        address,
        &[
            "touchline_push_fans{protocol=\"none\"} 1",
            "touchline_push_fans{protocol=\"1\"} 1",
            "touchline_push_fans{protocol=\"2\"} 1",
            "touchline_push_messages_received_total{route=\"sendmessage\"} 2",
            "touchline_push_change_to_last_seconds_count 0",
        ],
    )
    .await;
    world.put("1", "GOAL").await;
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
    bob.hear().await;
    until_shown(
        address,
        &[
            "touchline_push_stream_records_total 1",
            "touchline_push_fan_outs_total 1",
            "touchline_push_pushes_total{outcome=\"delivered\"} 2",
            "touchline_push_change_to_last_seconds_count 1",
            "touchline_push_change_to_last_seconds_bucket{le=\"+Inf\"} 1",
        ],
    )
    .await;
    let (_, metrics) = observed(address, "/metrics").await;
    assert!(
        metrics.contains("touchline_push_stream_age_seconds "),
        "{metrics}"
    );
    assert!(!metrics.contains("ann"), "nobody is named");
    // The same state once more decides nothing.
    world.put("1", "GOAL").await;
    let lines = [
        "touchline_push_changes_display_only_total 1",
        "touchline_push_stream_records_total 2",
    ];
    until_shown(address, &lines).await;
    ann.send(tokio_tungstenite::tungstenite::Message::text("hello"))
        .await;
    drop(bob);
    until_shown(
        address,
        &[
            "touchline_push_messages_received_total{route=\"default\"} 1",
            "touchline_push_fans{protocol=\"2\"} 0",
            "touchline_push_change_to_last_seconds_count 1",
        ],
    )
    .await;
}

#[tokio::test]
async fn poison_is_counted_and_stops_nothing() {
    let world = World::start().await;
    let mut ann = world.registered("ann").await;
    let endpoint = format!("http://{}", world.embedded.address());
    let timeout = Duration::from_secs(5);
    let config = touchline_store::aws::sdk_config(None, Some(&endpoint), timeout).await;
    let odd = Client::new(&config)
        .put_item()
        .table_name("rt_personalize_event_manager")
        .item("event_id", AttributeValue::S("odd".to_owned()))
        .item("content_id", AttributeValue::N("7".to_owned()));
    odd.send().await.unwrap();
    world.put("1", "GOAL").await;
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
    let lines = [
        "touchline_push_stream_records_poison_total 1",
        "touchline_push_stream_records_total 2",
    ];
    until_shown(world.adapter.running.metrics_address, &lines).await;
}

#[tokio::test]
async fn who_is_not_served_is_counted_by_why() {
    let world = World::with(|args| {
        args.fans.fans_max = 1;
        args.fans.fan_handshake_timeout = Duration::from_millis(200);
    })
    .await;
    let address = world.adapter.fans();
    let metrics = world.adapter.running.metrics_address;
    connect_async(format!("ws://{address}/nowhere"))
        .await
        .unwrap_err();
    until_shown(
        metrics,
        &["touchline_push_handshakes_refused_total{reason=\"forbidden\"} 1"],
    )
    .await;
    let silent = TcpStream::connect(address).await.unwrap();
    until_shown(
        metrics,
        &["touchline_push_handshakes_refused_total{reason=\"timeout\"} 1"],
    )
    .await;
    drop(silent);
    let mut ann = world.registered("ann").await;
    connect_async(format!("ws://{address}/dev"))
        .await
        .unwrap_err();
    until_shown(
        metrics,
        &["touchline_push_handshakes_refused_total{reason=\"full\"} 1"],
    )
    .await;
    for _ in 0..100 {
        ann.say(&json!({"action": "no such"})).await;
    }
    let many = async {
        loop {
            let (_, text) = observed(metrics, "/metrics").await;
            if !text.contains("touchline_push_messages_throttled_total 0\n") {
                return;
            }
        }
    };
    tokio::time::timeout(crate::support::DEADLINE, many)
        .await
        .unwrap();
}

#[tokio::test]
async fn superseded_fan_outs_and_who_is_found_late_are_counted() {
    let world = World::with(|args| args.second_look = Duration::from_secs(3)).await;
    let metrics = world.adapter.running.metrics_address;
    let mut ann = world.registered("ann").await;
    world.server.hold(true);
    world.put("1", "GOAL").await;
    crate::support::eventually(|| async { !world.server.asked().is_empty() }).await;
    world.put("1", "PENALTY").await;
    until_shown(
        metrics,
        &[
            "touchline_push_fan_outs_total 2",
            "touchline_push_fan_outs_superseded_total 1",
        ],
    )
    .await;
    world.server.hold(false);
    assert_eq!(ann.hear().await, shown("ann", "PENALTY"));
    // A fan of the prototype's protocol is answered by a later change, or by the second look.
    let mut late = Fan::connect(world.adapter.fans()).await;
    late.register("late", "final").await;
    assert_eq!(late.hear().await, shown("late", "PENALTY"));
    until_shown(
        metrics,
        &[
            "touchline_push_second_looks_total 1",
            "touchline_push_second_look_fans_total 1",
            "touchline_push_change_to_last_seconds_count 1",
        ],
    )
    .await;
}

#[tokio::test]
async fn followers_of_the_feed_are_counted_while_they_are_there() {
    let world = World::start().await;
    put(&world.store, &state("1", "GOAL")).await;
    let metrics = world.adapter.running.metrics_address;
    let feed = format!("http://{}", world.adapter.running.grpc_address);
    let mut client = ChangeFeedClient::connect(feed).await.unwrap();
    let followed = client.follow(FollowRequest {}).await.unwrap();
    until_shown(metrics, &["touchline_push_feed_followers 1"]).await;
    drop((followed, client));
    until_shown(metrics, &["touchline_push_feed_followers 0"]).await;
}
