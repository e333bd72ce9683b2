//! SEED.md, "A change of the event table" and the promises of its defects that pushing keeps.

use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use touchline_store::{
    event::Attribute,
    ids::{ConnectionId, ConsumerId, ContentId, DeviceId, EventId},
    session::{Protocol, Registration},
};

use crate::support::{
    World, put, round,
    server::{FLAKY, UNKNOWN},
    shown, state, state_for,
};

#[tokio::test]
async fn an_insert_and_each_modify_are_pushed_personalised_with_keys_in_order() {
    let world = World::start().await;
    let (mut ann, mut bob) = (world.registered("ann").await, world.registered("bob").await);
    world.put("1", "GOAL").await;
    assert_eq!(
        ann.hear_text().await,
        r#"{"PLAYER":"ann:GOAL","GENERAL":"all:GOAL"}"#
    );
    assert_eq!(bob.hear().await, shown("bob", "GOAL"));
    world.put("1", "PENALTY").await;
    assert_eq!(ann.hear().await, shown("ann", "PENALTY"));
    assert_eq!(bob.hear().await, shown("bob", "PENALTY"));
}

#[tokio::test]
async fn unregistered_sessions_are_skipped() {
    let world = World::start().await;
    let mut silent = world.fan().await;
    let mut ann = world.registered("ann").await;
    world.put("1", "GOAL").await;
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
    silent.has_heard_nothing().await;
}

#[tokio::test]
async fn a_gone_connection_never_stops_the_others_and_loses_its_row() {
    let world = World::start().await;
    let mut fans = Vec::new();
    for consumer in 0..9 {
        fans.push(world.registered(&consumer.to_string()).await);
    }
    let endpoint = format!(
        "http://{}/dev",
        world.adapter.running.management_address.unwrap()
    );
    let gone = ConnectionId::new("gone").unwrap();
    world.store.open_session(&gone, &endpoint).await.unwrap();
    world
        .store
        .register_session(&gone, &registration("ghost"))
        .await
        .unwrap();
    let mut rounds = world.adapter.running.rounds();
    world.put("1", "GOAL").await;
    for (consumer, fan) in fans.iter_mut().enumerate() {
        assert_eq!(fan.hear().await, shown(&consumer.to_string(), "GOAL"));
    }
    let round = round(&mut rounds, |_| true).await;
    assert_eq!((round.audience, round.pushed), (10, 9));
    assert_eq!((round.gone, round.failed), (1, 0));
    assert!(round.change_to_last > Duration::ZERO);
    assert_eq!(world.store.session(&gone).await.unwrap(), None);
}

fn registration(consumer: &str) -> Registration {
    Registration {
        consumer_id: ConsumerId::new(consumer).unwrap(),
        device_id: DeviceId::new("phone").unwrap(),
        content_id: ContentId::new("final").unwrap(),
        protocol: Protocol::V1,
    }
}

#[tokio::test]
async fn a_front_that_cannot_be_reached_never_stops_the_others() {
    let world = World::start().await;
    let mut ann = world.registered("ann").await;
    // Port 1 is closed, and the second is no URL at all.
    for (id, endpoint) in [("a", "http://127.0.0.1:1/dev"), ("b", "nonsense")] {
        let id = ConnectionId::new(id).unwrap();
        world.store.open_session(&id, endpoint).await.unwrap();
        let registration = registration("elsewhere");
        world
            .store
            .register_session(&id, &registration)
            .await
            .unwrap();
    }
    let mut rounds = world.adapter.running.rounds();
    world.put("1", "GOAL").await;
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
    let round = round(&mut rounds, |_| true).await;
    assert_eq!((round.pushed, round.failed), (1, 2));
}

#[tokio::test]
async fn a_consumer_without_an_answer_is_counted_and_stops_nobody() {
    let world = World::start().await;
    let mut unknown = world.registered(UNKNOWN).await;
    let mut ann = world.registered("ann").await;
    let mut rounds = world.adapter.running.rounds();
    world.put("1", "GOAL").await;
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
    let round = round(&mut rounds, |_| true).await;
    assert_eq!((round.pushed, round.failed), (1, 1));
    unknown.has_heard_nothing().await;
}

#[tokio::test]
async fn an_event_with_contents_reaches_only_who_watches_them() {
    let world = World::start().await;
    let mut ann = world.registered("ann").await;
    let mut bob = world.fan().await;
    bob.register("bob", "other").await;
    put(&world.store, &state_for("1", "GOAL", "other")).await;
    assert_eq!(bob.hear().await, shown("bob", "GOAL"));
    ann.has_heard_nothing().await;
    put(&world.store, &state("2", "THROW")).await;
    assert_eq!(ann.hear().await, shown("ann", "THROW"));
    assert_eq!(bob.hear().await, shown("bob", "THROW"));
}

#[tokio::test]
async fn a_change_of_display_attributes_alone_is_not_pushed_but_is_in_the_feed() {
    let world = World::start().await;
    let mut ann = world.registered("ann").await;
    world.put("1", "GOAL").await;
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
    let feed = world.adapter.running.led().borrow().clone().unwrap();
    let mut follower = feed.follow();
    follower.next().await.unwrap();
    let mut clocked = state("1", "GOAL");
    let clock = Attribute::Text("23'".to_owned());
    clocked.attributes.insert("display_clock".to_owned(), clock);
    put(&world.store, &clocked).await;
    let news = tokio::time::timeout(crate::support::DEADLINE, follower.next());
    assert_eq!(news.await.unwrap().unwrap().changes.len(), 1);
    world.put("1", "PENALTY").await;
    assert_eq!(
        ann.hear().await,
        shown("ann", "PENALTY"),
        "nothing came between"
    );
}

#[tokio::test]
async fn of_ten_quick_changes_every_fan_ends_on_the_newest() {
    let world = World::start().await;
    let mut fans = Vec::new();
    for consumer in 0..20 {
        fans.push(world.registered(&consumer.to_string()).await);
    }
    for change in 0..10 {
        world.put("1", &format!("CHANGE-{change}")).await;
    }
    for (consumer, fan) in fans.iter_mut().enumerate() {
        fan.hear_until(&shown(&consumer.to_string(), "CHANGE-9"))
            .await;
        fan.has_heard_nothing().await;
    }
}

#[tokio::test]
async fn a_newer_state_supersedes_the_fan_out_of_an_older_one() {
    let world = World::start().await;
    let mut ann = world.registered("ann").await;
    let mut rounds = world.adapter.running.rounds();
    world.server.hold(true);
    world.put("1", "GOAL").await;
    crate::support::eventually(|| async { !world.server.asked().is_empty() }).await;
    world.put("1", "PENALTY").await;
    let first = round(&mut rounds, |_| true).await;
    assert!(first.superseded);
    assert_eq!(first.pushed, 0);
    world.server.hold(false);
    assert_eq!(ann.hear().await, shown("ann", "PENALTY"));
    let second = round(&mut rounds, |_| true).await;
    assert!(!second.superseded);
    assert_eq!(second.pushed, 1);
    ann.has_heard_nothing().await;
}

#[tokio::test]
async fn a_server_that_is_away_for_longer_than_a_push_leaves_no_fan_behind_and_serves_none_twice() {
    let world = World::with(|args| args.lookup.push_deadline = Duration::from_millis(500)).await;
    let (mut ann, mut bob) = (world.registered("ann").await, world.registered("bob").await);
    let mut rounds = world.adapter.running.rounds();
    world.server.fail(usize::MAX);
    world.put("1", "GOAL").await;
    let late = round(&mut rounds, |_| true).await;
    assert_eq!((late.pushed, late.failed), (0, 2));
    world.server.fail(0);
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
    assert_eq!(bob.hear().await, shown("bob", "GOAL"));
    let done = round(&mut rounds, |round| round.pushed > 0).await;
    assert_eq!((done.pushed, done.failed), (2, 0));
    ann.has_heard_nothing().await;
    bob.has_heard_nothing().await;
}

#[tokio::test]
async fn consumers_are_asked_for_in_batches_and_once_however_many_screens_they_have() {
    let world = World::with(|args| args.lookup.batch_consumers = 2).await;
    let mut fans = Vec::new();
    for consumer in ["ann", "ann", "ann", "bob", "cem"] {
        fans.push((consumer, world.registered(consumer).await));
    }
    world.put("1", "GOAL").await;
    for (consumer, fan) in &mut fans {
        assert_eq!(fan.hear().await, shown(consumer, "GOAL"));
    }
    let asked = world.server.asked();
    assert!(asked.iter().all(|(_, consumers)| *consumers <= 2));
    // Consumers whose sessions stand on different pages are asked for on each.
    assert!(asked.iter().map(|(_, consumers)| consumers).sum::<usize>() <= 5);
}

#[tokio::test]
async fn protocol_2_is_shown_the_newest_set_at_once_then_each_change_then_the_end() {
    let world = World::start().await;
    let mut first = world.registered("bob").await;
    world.put("1", "GOAL").await;
    assert_eq!(first.hear().await, shown("bob", "GOAL"));
    let mut ann = world.fan().await;
    ann.register_2("ann", "final", None).await;
    let answer = ann.hear().await;
    assert_eq!(answer["type"], "components");
    assert_eq!(answer["event_id"], "1");
    assert_eq!(answer["set_id"], "ann:GOAL");
    assert_eq!(answer["recommendation_id"], "recommendation-ann");
    assert_eq!(answer["origin"], "embedded");
    assert_eq!(answer["components"][0]["item_id"], "ann:GOAL");
    world.put("1", "PENALTY").await;
    let push = ann.hear().await;
    assert_eq!(push["set_id"], "ann:PENALTY");
    assert_eq!(push["epoch"], answer["epoch"]);
    assert!(push["sequence"].as_str() > answer["sequence"].as_str());
    let event_id = EventId::new("1").unwrap();
    world.store.delete_event(&event_id).await.unwrap();
    let ended = ann.hear().await;
    assert_eq!(
        (&ended["type"], &ended["event_id"]),
        (&json!("ended"), &json!("1"))
    );
    assert!(ended["sequence"].as_str() > push["sequence"].as_str());
    // Protocol 1 knows no end.
    assert_eq!(first.hear().await, shown("bob", "PENALTY"));
    first.has_heard_nothing().await;
}

#[tokio::test]
async fn a_set_that_still_stands_is_not_sent_again() {
    let world = World::start().await;
    let mut bob = world.registered("bob").await;
    world.put("1", "GOAL").await;
    bob.hear().await;
    let mut ann = world.fan().await;
    ann.register_2("ann", "final", Some("ann:GOAL")).await;
    ann.has_heard_nothing().await;
    // Whoever asks again is answered again, as often as they ask.
    for shown in [Some("ann:THROW"), None] {
        ann.register_2("ann", "final", shown).await;
        assert_eq!(ann.hear().await["set_id"], "ann:GOAL");
    }
}

#[tokio::test]
async fn an_answer_to_a_registration_never_comes_after_a_newer_state() {
    // The second look of GOAL would ask for ann too.
    let world = World::with(|args| args.second_look = Duration::from_secs(60)).await;
    let mut bob = world.registered("bob").await;
    world.put("1", "GOAL").await;
    bob.hear().await;
    let mut ann = world.fan().await;
    world.server.hold(true);
    ann.register_2("ann", "final", None).await;
    // The question for GOAL is on its way; PENALTY overtakes it and both are answered at once.
    let asked = |count| {
        let world = &world;
        move || async move { world.server.asked().len() >= count }
    };
    crate::support::eventually(asked(2)).await;
    world.put("1", "PENALTY").await;
    crate::support::eventually(asked(3)).await;
    world.server.hold(false);
    let mut sets = vec![ann.hear().await];
    while sets.last().unwrap()["set_id"] != "ann:PENALTY" {
        sets.push(ann.hear().await);
    }
    ann.has_heard_nothing().await;
    assert!(sets.len() <= 2);
}

#[tokio::test]
async fn who_registers_as_somebody_else_receives_nothing_for_who_they_were() {
    let world = World::start().await;
    let mut fan = world.registered("ann").await;
    world.put("1", "GOAL").await;
    assert_eq!(fan.hear().await, shown("ann", "GOAL"));
    fan.register("bob", "final").await;
    world.put("1", "PENALTY").await;
    assert_eq!(fan.hear().await, shown("bob", "PENALTY"));
}

#[tokio::test]
async fn hundreds_of_fans_all_get_it() {
    const FANS: usize = 300;
    let world = World::start().await;
    let fans = (0..FANS).map(|consumer| {
        let world = &world;
        async move {
            let consumer = format!("consumer-{}", consumer % 100);
            (world.registered(&consumer).await, consumer)
        }
    });
    let fans = futures::stream::iter(fans).buffer_unordered(20);
    let mut fans: Vec<_> = fans.collect().await;
    let mut rounds = world.adapter.running.rounds();
    world.put("1", "GOAL").await;
    for (fan, consumer) in &mut fans {
        assert_eq!(fan.hear().await, shown(consumer, "GOAL"));
    }
    let round = round(&mut rounds, |_| true).await;
    assert_eq!((round.audience, round.pushed), (FANS, FANS));
}

#[tokio::test]
async fn who_has_to_wait_for_an_answer_costs_no_other_fan_a_second_message() {
    let world = World::with(|args| args.lookup.push_deadline = Duration::from_secs(1)).await;
    let mut ann = world.registered("ann").await;
    let mut flaky = world.registered(FLAKY).await;
    let mut rounds = world.adapter.running.rounds();
    world.server.set_flaky(true);
    world.put("1", "GOAL").await;
    let served = round(&mut rounds, |round| round.pushed > 0).await;
    assert_eq!((served.pushed, served.failed), (1, 1));
    world.server.set_flaky(false);
    assert_eq!(flaky.hear().await, shown(FLAKY, "GOAL"));
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
    ann.has_heard_nothing().await;
}
