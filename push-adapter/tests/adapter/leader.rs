//! The lease, the checkpoint and the change feed.

use std::time::Duration;

use tokio::net::TcpListener;
use tonic::Code;
use touchline_proto::v1::{
    FollowRequest, change_feed_client::ChangeFeedClient, follow_response::Message,
};
use touchline_push::PushArgs;
use touchline_store::ids::EventId;

use crate::support::{Adapter, Fan, World, args, eventually, loopback, put, shown, state};

/// How long leases last here.
const LASTS: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_restart_resumes_at_the_checkpoint_and_nothing_is_lost_or_pushed_twice() {
    let world = World::start().await;
    let mut ann = world.registered("ann").await;
    world.put("1", "GOAL").await;
    world.put("2", "THROW").await;
    ann.hear_until(&shown("ann", "THROW")).await;
    world.adapter.stop().await;
    // Written while nobody leads.
    put(&world.store, &state("1", "PENALTY")).await;

    let beside = Adapter::standing_by(
        PushArgs {
            sole_leader: false,
            ..args(&world.server)
        },
        &world.store,
    )
    .await;
    let mut ann = Fan::connect(beside.fans()).await;
    ann.register("ann", "final").await;
    beside.leads().await;
    assert_eq!(ann.hear().await, shown("ann", "PENALTY"));
    ann.has_heard_nothing().await;
    beside.stop().await;
}

#[tokio::test]
async fn an_event_that_ends_while_nobody_leads_is_ended_by_the_next_leader() {
    let world = World::start().await;
    let mut ann = world.registered("ann").await;
    world.put("1", "GOAL").await;
    ann.hear().await;
    world.adapter.stop().await;
    let event_id = EventId::new("1").unwrap();
    world.store.delete_event(&event_id).await.unwrap();
    let beside = Adapter::standing_by(
        PushArgs {
            sole_leader: false,
            ..args(&world.server)
        },
        &world.store,
    )
    .await;
    let mut ann = Fan::connect(beside.fans()).await;
    ann.register_2("ann", "final", None).await;
    let ended = ann.hear().await;
    assert_eq!(
        (&ended["type"], &ended["event_id"]),
        (&"ended".into(), &"1".into())
    );
}

#[tokio::test]
async fn the_first_leader_shows_each_event_once_and_then_what_comes() {
    let (_embedded, store) = crate::support::store().await;
    put(&store, &state("1", "GOAL")).await;
    put(&store, &state("2", "THROW")).await;
    let server = crate::support::StubServer::start().await;
    let adapter = Adapter::start(args(&server), &store).await;
    let mut ann = Fan::connect(adapter.fans()).await;
    ann.register_2("ann", "final", None).await;
    let answer = ann.hear().await;
    assert_eq!(answer["type"], "components");
    put(&store, &state("1", "PENALTY")).await;
    while ann.hear().await["set_id"] != "ann:PENALTY" {}
    adapter.stop().await;
}

#[tokio::test]
async fn a_second_adapter_stands_by_and_takes_over_when_the_lease_stands_still() {
    let world = World::start().await;
    let beside = PushArgs {
        sole_leader: false,
        ..args(&world.server)
    };
    let second = Adapter::standing_by(beside, &world.store).await;
    let mut bob = Fan::connect(second.fans()).await;
    bob.register("bob", "final").await;
    let mut client = ChangeFeedClient::connect(format!("http://{}", second.running.grpc_address))
        .await
        .unwrap();
    let refused = client.follow(FollowRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let leader = format!("http://{}", world.adapter.running.grpc_address);
    assert!(refused.message().contains(&leader), "{}", refused.message());
    world.adapter.stop().await;
    second.leads().await;
    put(&world.store, &state("1", "GOAL")).await;
    assert_eq!(bob.hear().await, shown("bob", "GOAL"));
    second.stop().await;
}

#[tokio::test]
async fn a_front_that_never_leads_is_posted_to_by_whoever_does_and_leaves_the_lease_alone() {
    let world = World::start().await;
    let front = PushArgs {
        sole_leader: false,
        never_lead: true,
        lease_duration: Duration::from_millis(500),
        post_timeout: Duration::from_millis(250),
        ..args(&world.server)
    };
    let front = Adapter::standing_by(front, &world.store).await;
    let mut bob = Fan::connect(front.fans()).await;
    bob.register("bob", "final").await;
    world.put("1", "GOAL").await;
    assert_eq!(bob.hear().await, shown("bob", "GOAL"));
    world.adapter.stop().await;
    // Who stands by to lead has taken a free lease by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let lease = world.store.lease().await.unwrap().unwrap();
    assert_eq!(lease.owner, "");
    front.stop().await;
}

#[tokio::test]
async fn a_leader_that_sleeps_is_left_for_the_one_that_took_its_lease() {
    let (_embedded, store) = crate::support::store().await;
    put(&store, &state("1", "GOAL")).await;
    let server = crate::support::StubServer::start().await;
    // As for a process that is stopped: connections are taken, and nothing is ever said.
    let asleep = TcpListener::bind(loopback()).await.unwrap();
    let address = format!("http://{}", asleep.local_addr().unwrap());
    let taking = store.take_lease("asleep", &address, LASTS, None);
    taking.await.unwrap();
    let front = PushArgs {
        sole_leader: false,
        never_lead: true,
        ..args(&server)
    };
    let front = Adapter::standing_by(front, &store).await;
    let _following = asleep.accept().await.unwrap();
    let mut ann = Fan::connect(front.fans()).await;
    ann.register("ann", "final").await;
    let next = Adapter::start(args(&server), &store).await;
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
    // Past the second look, so that only the front can know what to show.
    assert!(ann.is_quiet_for(Duration::from_millis(300)).await);
    let mut bob = Fan::connect(front.fans()).await;
    bob.register_2("bob", "final", None).await;
    assert_eq!(bob.hear().await["set_id"], "bob:GOAL");
    next.stop().await;
    front.stop().await;
}

#[tokio::test]
async fn a_leader_whose_lease_is_taken_stops_leading() {
    let world = World::with(|args| {
        args.sole_leader = false;
        args.lease_duration = Duration::from_secs(2);
    })
    .await;
    let mut led = world.adapter.running.led();
    let row = world.store.lease().await.unwrap().unwrap();
    let lost = async {
        // The counter moves with each renewal, so taking it may need a few attempts.
        let mut row = row;
        while world
            .store
            .take_lease("thief", "http://127.0.0.1:1", LASTS, Some(&row))
            .await
            .is_err()
        {
            row = world.store.lease().await.unwrap().unwrap();
        }
        led.wait_for(Option::is_none).await.unwrap();
    };
    tokio::time::timeout(crate::support::DEADLINE, lost)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_change_feed_gives_what_exists_then_caught_up_then_each_change_and_the_end() {
    let world = World::start().await;
    world.put("1", "GOAL").await;
    let feed = world.adapter.running.led().borrow().clone().unwrap();
    let event_id = EventId::new("1").unwrap();
    eventually(|| async { feed.get(&event_id).is_some() }).await;
    let mut client =
        ChangeFeedClient::connect(format!("http://{}", world.adapter.running.grpc_address))
            .await
            .unwrap();
    let mut messages = client.follow(FollowRequest {}).await.unwrap().into_inner();
    let mut next = async || {
        let next = tokio::time::timeout(crate::support::DEADLINE, messages.message());
        next.await
            .unwrap()
            .map(|message| message.unwrap().message.unwrap())
    };
    let Message::State(first) = next().await.unwrap() else {
        panic!("a state comes first");
    };
    assert_eq!(first.event_id, "1");
    assert_eq!(first.version.len(), 16);
    assert_eq!(first.position.unwrap().sequence.len(), 20 + 1 + 6 + 1 + 40);
    assert!(matches!(next().await.unwrap(), Message::CaughtUp(_)));
    world.put("1", "PENALTY").await;
    assert!(matches!(next().await.unwrap(), Message::State(_)));
    world.store.delete_event(&event_id).await.unwrap();
    assert!(matches!(next().await.unwrap(), Message::Ended(_)));
    world.adapter.shutdown.cancel();
    assert_eq!(next().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_leader_that_was_cut_off_in_the_middle_shows_the_newest_state_again() {
    let world = World::with(|args| args.drain_timeout = Duration::ZERO).await;
    let mut ann = world.registered("ann").await;
    world.put("1", "GOAL").await;
    ann.hear().await;
    world.server.hold(true);
    world.put("1", "PENALTY").await;
    eventually(|| async { world.server.asked().len() > 1 }).await;
    // The fan-out never finishes, so the checkpoint stays before it.
    world.adapter.stop().await;
    world.server.hold(false);
    let beside = Adapter::standing_by(
        PushArgs {
            sole_leader: false,
            ..args(&world.server)
        },
        &world.store,
    )
    .await;
    let mut ann = Fan::connect(beside.fans()).await;
    ann.register("ann", "final").await;
    assert_eq!(ann.hear().await, shown("ann", "PENALTY"));
    beside.stop().await;
}

#[tokio::test]
async fn a_lease_that_stands_still_is_taken_over_after_its_duration() {
    let (_embedded, store) = crate::support::store().await;
    let server = crate::support::StubServer::start().await;
    // A leader that died without a word.
    let dead = "http://127.0.0.1:1";
    store.take_lease("dead", dead, LASTS, None).await.unwrap();
    let began = std::time::Instant::now();
    let adapter = Adapter::start(
        PushArgs {
            sole_leader: false,
            lease_duration: Duration::from_millis(500),
            post_timeout: Duration::from_millis(100),
            ..args(&server)
        },
        &store,
    )
    .await;
    assert!(began.elapsed() >= Duration::from_millis(500));
    adapter.stop().await;
}
