//! A gateway: sessions in memory, changes from whoever leads, and every fan made whole again after
//! whatever happens.

use std::time::Duration;

use serde_json::json;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use touchline_store::ids::EventId;

use crate::support::{Adapter, Fan, Front, World, args, eventually, put, shown, state, state_for};

/// What a fan of protocol 2 is shown of the match, waiting for it.
async fn sees(fan: &mut Fan, match_event: &str) -> serde_json::Value {
    loop {
        let message = fan.hear().await;
        let items = message["components"].to_string();
        if message["type"] == "components" && items.contains(&format!(":{match_event}\"")) {
            return message;
        }
    }
}

#[tokio::test]
async fn a_change_reaches_fans_of_both_protocols_and_no_row_is_written() {
    let world = World::start().await;
    let front = Front::start(&world).await;
    let mut ann = front.registered("ann").await;
    let mut bob = front.registered_2("bob", "final").await;
    bob.has_heard_nothing().await;
    world.put("1", "GOAL").await;
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
    let message = bob.hear().await;
    assert_eq!(message["type"], "components");
    assert_eq!(message["event_id"], "1");
    assert!(message["components"].to_string().contains("bob:GOAL"));
    let mut audience = world.store.audience(&[].into());
    while let Some(page) = futures::StreamExt::next(&mut audience).await {
        assert_eq!(page.unwrap().sessions, []);
    }
    front.stop().await;
}

#[tokio::test]
async fn an_event_reaches_those_who_watch_what_it_names() {
    let world = World::start().await;
    let front = Front::start(&world).await;
    let mut ann = front.registered_2("ann", "final").await;
    let mut bob = front.registered_2("bob", "third-place").await;
    ann.has_heard_nothing().await;
    bob.has_heard_nothing().await;
    put(&world.store, &state_for("1", "GOAL", "final")).await;
    sees(&mut ann, "GOAL").await;
    put(&world.store, &state_for("2", "FOUL", "third-place")).await;
    sees(&mut bob, "FOUL").await;
    ann.has_heard_nothing().await;
    // Who registers anew watches something else from then on.
    ann.register_2("ann", "third-place", None).await;
    sees(&mut ann, "FOUL").await;
    put(&world.store, &state_for("1", "CORNER", "final")).await;
    put(&world.store, &state_for("2", "PENALTY", "third-place")).await;
    assert_eq!(sees(&mut ann, "PENALTY").await["event_id"], "2");
    ann.has_heard_nothing().await;
}

#[tokio::test]
async fn who_comes_back_is_sent_the_newest_set_unless_it_shows_that() {
    let world = World::start().await;
    let front = Front::start(&world).await;
    world.put("1", "GOAL").await;
    let mut ann = front.registered_2("ann", "final").await;
    let message = sees(&mut ann, "GOAL").await;
    drop(ann);
    let set_id = message["set_id"].as_str().unwrap();
    let mut again = front.fan().await;
    again.register_2("ann", "final", Some(set_id)).await;
    again.has_heard_nothing().await;
    let mut behind = front.fan().await;
    behind.register_2("ann", "final", Some("another")).await;
    sees(&mut behind, "GOAL").await;
}

#[tokio::test]
async fn many_who_register_at_once_are_asked_for_together() {
    let world = World::start().await;
    let front = Front::start(&world).await;
    world.put("1", "GOAL").await;
    let mut first = front.registered_2("first", "final").await;
    sees(&mut first, "GOAL").await;
    // While the server takes its time for some, the others gather.
    world.server.hold(true);
    let mut fans = Vec::new();
    for number in 0..60 {
        fans.push(front.registered_2(&format!("fan-{number}"), "final").await);
    }
    eventually(|| async { world.server.asked().len() > 1 }).await;
    world.server.hold(false);
    for (number, fan) in fans.iter_mut().enumerate() {
        let message = sees(fan, "GOAL").await;
        let own = format!("fan-{number}:GOAL");
        assert!(message["components"].to_string().contains(&own));
    }
    let questions = world.server.asked().len();
    assert!(questions < 30, "60 fans took {questions} questions");
}

#[tokio::test]
async fn the_end_of_an_event_is_told_to_protocol_2() {
    let world = World::start().await;
    let front = Front::start(&world).await;
    let mut ann = front.registered("ann").await;
    let mut bob = front.registered_2("bob", "final").await;
    bob.has_heard_nothing().await;
    world.put("1", "GOAL").await;
    sees(&mut bob, "GOAL").await;
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
    world
        .store
        .delete_event(&EventId::new("1").unwrap())
        .await
        .unwrap();
    let ended = bob.hear().await;
    assert_eq!(
        (&ended["type"], &ended["event_id"]),
        (&json!("ended"), &json!("1"))
    );
    ann.has_heard_nothing().await;
}

#[tokio::test]
async fn another_leader_is_followed_and_repeats_nothing() {
    let world = World::start().await;
    let front = Front::start(&world).await;
    world.put("1", "GOAL").await;
    world.put("2", "KICKOFF").await;
    let mut ann = front.registered_2("ann", "final").await;
    let mut bob = front.registered("bob").await;
    let first = ann.hear_what_waits().await;
    assert!(first.iter().all(|message| message["type"] == "components"));
    let World {
        store,
        server,
        adapter,
        embedded,
    } = world;
    adapter.stop().await;
    // Written while nobody leads: one match goes on, one is over.
    put(&store, &state("1", "CORNER")).await;
    store
        .delete_event(&EventId::new("2").unwrap())
        .await
        .unwrap();
    let second = Adapter::start(args(&server), &store).await;
    // What was written before they registered may have been on its way to them still.
    while bob.hear().await != shown("bob", "CORNER") {}
    let (mut corners, mut ends) = (0, 0);
    while (corners, ends) != (1, 1) {
        let message = ann.hear().await;
        corners += usize::from(message["components"].to_string().contains("ann:CORNER"));
        ends += usize::from(message["type"] == "ended");
        assert!(corners <= 1 && ends <= 1, "{message}");
        if message["type"] == "ended" {
            assert_eq!(message["event_id"], "2");
        }
    }
    second.stop().await;
    let third = Adapter::start(args(&server), &store).await;
    put(&store, &state("1", "FOUL")).await;
    assert_eq!(bob.hear().await, shown("bob", "FOUL"));
    sees(&mut ann, "FOUL").await;
    third.stop().await;
    drop(embedded);
}

#[tokio::test]
async fn fans_are_shown_what_the_server_could_not_say_when_it_can() {
    let world = World::start().await;
    let front = Front::with(&world, |args| {
        args.lookup.push_deadline = Duration::from_millis(100);
        args.lookup.server_timeout = Duration::from_millis(100);
    })
    .await;
    let mut ann = front.registered("ann").await;
    world.server.fail(20);
    world.put("1", "GOAL").await;
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
}

#[tokio::test]
async fn a_newer_state_ends_the_work_for_an_older_one() {
    let world = World::start().await;
    let front = Front::start(&world).await;
    let mut ann = front.registered("ann").await;
    world.server.hold(true);
    world.put("1", "GOAL").await;
    eventually(|| async { !world.server.asked().is_empty() }).await;
    world.put("1", "CORNER").await;
    eventually(|| async { world.server.asked().len() > 1 }).await;
    world.server.hold(false);
    assert_eq!(ann.hear().await, shown("ann", "CORNER"));
    ann.has_heard_nothing().await;
}

#[tokio::test]
async fn fans_are_sent_away_in_waves_and_served_until_then() {
    const FANS: usize = 300;
    let world = World::start().await;
    let front = Front::with(&world, |args| args.drain_timeout = Duration::from_secs(4)).await;
    let mut fans = Vec::new();
    for number in 0..FANS {
        fans.push(front.registered(&format!("fan-{number}")).await);
    }
    front.shutdown.cancel();
    eventually(|| async { front.running.fans() < FANS }).await;
    let left = front.running.fans();
    assert!(left > 0, "they were all sent away at once");
    world.put("1", "GOAL").await;
    let mut served = 0;
    for fan in &mut fans {
        served += usize::from(fan.closed_after_texts().await.0 > 0);
    }
    assert!(served > 0, "nobody of {left} was served");
    let stopped = tokio::time::timeout(crate::support::DEADLINE, front.running.stopped());
    stopped.await.unwrap();
}

#[tokio::test]
async fn every_state_that_was_offered_comes_to_one_end() {
    let world = World::start().await;
    let front = Front::start(&world).await;
    let mut fans = Vec::new();
    for number in 0..30 {
        fans.push(front.registered(&format!("fan-{number}")).await);
    }
    let mut heard = 0;
    for round in 0..20 {
        world.put("1", &format!("ROUND-{round}")).await;
        // Some leave without a word while messages are under way.
        if round % 4 == 3 {
            fans.pop();
        }
    }
    for (number, fan) in fans.iter_mut().enumerate() {
        let last = shown(&format!("fan-{number}"), "ROUND-19");
        heard += fan.hear_until(&last).await as u64 + 1;
    }
    eventually(|| async { front.running.fans() == fans.len() }).await;
    let balance = || async {
        let mut ends = 0;
        for outcome in ["delivered", "conflated", "stale", "closed"] {
            ends += front.states(outcome).await;
        }
        (front.states("offered").await, ends)
    };
    eventually(|| async {
        let (offered, ends) = balance().await;
        offered == ends
    })
    .await;
    assert!(front.states("delivered").await >= heard);
}

#[tokio::test]
async fn who_watches_its_health_does_not_hold_up_its_end() {
    let world = World::start().await;
    let front = Front::start(&world).await;
    let url = format!("http://{}", front.running.grpc_address);
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap();
    let mut health = HealthClient::new(channel.connect().await.unwrap());
    let watched = health.watch(HealthCheckRequest::default()).await;
    let mut watched = watched.unwrap().into_inner();
    watched.message().await.unwrap();
    front.stop().await;
}
