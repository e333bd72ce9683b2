//! Leaders that sleep, die and leave, as processes beside a standby.

use std::time::Duration;

use tonic::Code;
use touchline_proto::v1::{FollowRequest, change_feed_client::ChangeFeedClient};
use touchline_store::{embedded::Embedded, tables::Store};

use crate::support::{
    DEADLINE, Fan, StubServer,
    connections::{StandIn, session},
    eventually,
    process::Process,
    put, state,
};

/// Connections of the stand-in.
const CONNECTIONS: usize = 40;

/// What adapters lead over.
struct World {
    embedded: Embedded,
    store: Store,
    server: StubServer,
    stand_in: StandIn,
}

impl World {
    async fn start() -> Self {
        let (embedded, store) = crate::support::store().await;
        let world = Self {
            embedded,
            store,
            server: StubServer::start().await,
            stand_in: StandIn::start(&[]).await,
        };
        for number in 0..CONNECTIONS {
            let name = format!("fan-{number}");
            // No endpoint: whoever leads posts to its own.
            session(&world.store, &name, &name, "").await;
        }
        world
    }

    /// An adapter that posts to the stand-in under this name; `more` are flags.
    async fn adapter(&self, name: &str, more: &[&str]) -> Process {
        let store = format!("http://{}", self.embedded.address());
        let (server, stage) = (self.server.url(), self.stand_in.endpoint(name));
        let mut args = vec![
            "--dynamodb-endpoint",
            &store,
            "--server",
            &server,
            "--api-gateway-endpoint",
            &stage,
        ];
        args.extend(more);
        Process::start(&args).await
    }

    /// Waits until somebody leads who is not reached at `but`; gives where they are.
    async fn leader(&self, but: &str) -> String {
        let found = async {
            loop {
                let row = self.store.lease().await.unwrap();
                match row {
                    Some(row) if !row.owner.is_empty() && row.address != but => return row.address,
                    Some(_) | None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        tokio::time::timeout(DEADLINE, found).await.unwrap()
    }

    /// Waits until everybody was served once more by this adapter, which had posted so much before.
    async fn is_served_by(&self, name: &str, before: usize) {
        eventually(|| async { self.stand_in.posts_by(name) == before + CONNECTIONS }).await;
    }
}

#[tokio::test]
async fn a_leader_that_slept_past_its_lease_posts_nothing_more_and_stands_by() {
    let world = World::start().await;
    // Many posts wait for the few that may be under way, and begin as soon as one of these ends.
    let gateway = [
        "--connections",
        "api-gateway",
        "--posts-at-once",
        "4",
        "--batch-consumers",
        "5",
    ];
    let sleeper = world.adapter("sleeper", &gateway).await;
    let slept = world.leader("").await;
    let _standby = world.adapter("standby", &gateway).await;
    let mut feed = ChangeFeedClient::connect(slept.clone()).await.unwrap();
    // The leader reads first what there is.
    eventually(|| async { feed.clone().follow(FollowRequest {}).await.is_ok() }).await;
    let mut followed = feed.follow(FollowRequest {}).await.unwrap().into_inner();

    world.stand_in.hold(Some("sleeper"));
    put(&world.store, &state("1", "GOAL")).await;
    eventually(|| async { world.stand_in.posts_by("sleeper") >= 4 }).await;
    sleeper.signal("-STOP").await;
    let leader = world.leader(&slept).await;
    world.is_served_by("standby", 0).await;
    // Seconds later this is all that was on its way when it fell asleep.
    let posted = world.stand_in.posts_by("sleeper");
    assert!(posted < CONNECTIONS, "it slept in the middle");
    // What it waited for is answered as it wakes.
    world.stand_in.hold(None);
    sleeper.signal("-CONT").await;
    let ended = async {
        loop {
            if let Err(status) = followed.message().await {
                return status;
            }
        }
    };
    let ended = tokio::time::timeout(DEADLINE, ended).await.unwrap();
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    let refused = feed.follow(FollowRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&leader), "{refused}");
    put(&world.store, &state("1", "PENALTY")).await;
    world.is_served_by("standby", CONNECTIONS).await;
    assert_eq!(world.stand_in.posts_by("sleeper"), posted);
}

#[tokio::test]
async fn a_standby_leads_after_the_leader_was_killed() {
    let world = World::start().await;
    let gateway = ["--connections", "api-gateway"];
    let mut killed = world.adapter("killed", &gateway).await;
    let died = world.leader("").await;
    let _standby = world.adapter("standby", &gateway).await;
    put(&world.store, &state("1", "GOAL")).await;
    world.is_served_by("killed", 0).await;
    killed.child.kill().await.unwrap();
    put(&world.store, &state("1", "PENALTY")).await;
    world.leader(&died).await;
    eventually(|| async {
        let last = |number| world.stand_in.posted_to(&format!("fan-{number}")).pop();
        (0..CONNECTIONS).all(|number| last(number).is_some_and(|text| text.contains("PENALTY")))
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_is_asked_to_end_hands_over_before_its_lease_would_have_ended() {
    let world = World::start().await;
    // Much longer than anything is waited for here.
    let lasting = ["--lease-duration", "60s"];
    assert!(DEADLINE.as_secs() < 60);
    let mut leaving = world.adapter("leaving", &lasting).await;
    let left = world.leader("").await;
    let standby = world.adapter("standby", &lasting).await;
    put(&world.store, &state("1", "GOAL")).await;
    // An answer says that the standby follows the leader.
    let mut ann = Fan::connect(standby.fans()).await;
    ann.register_2("ann", "final", None).await;
    assert_eq!(ann.hear().await["set_id"], "ann:GOAL");
    leaving.signal("-TERM").await;
    world.leader(&left).await;
    assert_eq!(leaving.ended().await, Some(0));
    put(&world.store, &state("1", "PENALTY")).await;
    while ann.hear().await["set_id"] != "ann:PENALTY" {}
    eventually(|| async {
        let last = world.stand_in.posted_to("fan-0").pop();
        last.is_some_and(|text| text.contains("PENALTY"))
    })
    .await;
}
