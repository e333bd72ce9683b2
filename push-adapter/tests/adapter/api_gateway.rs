//! Posting to API Gateway through the real SDK, against a stand-in that throttles, refuses and waits.

use std::time::Instant;

use tokio_util::sync::CancellationToken;
use touchline_push::{
    connections::{
        Connections, Frame, Limits, PostError,
        api_gateway::{ApiGateway, ApiGatewayOptions},
    },
    leader::lease::Tenure,
};
use touchline_store::ids::ConnectionId;

use crate::support::{
    DEADLINE, World,
    connections::{StandIn, session},
    eventually, round,
};

/// A connection that the stand-in holds, with an id as API Gateway gives them.
const CONNECTION: &str = "L0SM9cOFvHcCIhw=";

async fn ann(world: &World, stand_in: &StandIn) {
    session(&world.store, CONNECTION, "ann", &stand_in.endpoint("prod")).await;
}

#[tokio::test]
async fn a_throttled_post_is_backed_off_within_the_pushs_deadline() {
    let world = World::start().await;
    let stand_in = StandIn::start(&[429, 429, 503]).await;
    ann(&world, &stand_in).await;
    let mut rounds = world.adapter.running.rounds();
    world.put("1", "GOAL").await;
    let served = round(&mut rounds, |_| true).await;
    assert_eq!((served.pushed, served.failed), (1, 0));
    let message = r#"{"PLAYER":"ann:GOAL","GENERAL":"all:GOAL"}"#;
    assert_eq!(stand_in.posted_to(CONNECTION), [message; 4]);
}

#[tokio::test]
async fn a_refused_post_is_reported_and_never_tried_again() {
    for status in [400, 403, 413] {
        let world = World::start().await;
        let stand_in = StandIn::start(&[status]).await;
        ann(&world, &stand_in).await;
        let mut rounds = world.adapter.running.rounds();
        world.put("1", "GOAL").await;
        let served = round(&mut rounds, |_| true).await;
        assert_eq!((served.pushed, served.failed), (0, 1), "{status}");
        assert_eq!(stand_in.posted_to(CONNECTION).len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_connection_has_one_post_in_flight_and_the_newest_state_last() {
    let world = World::with(|args| {
        args.post_timeout = DEADLINE;
        args.lease_duration = DEADLINE * 3;
    })
    .await;
    let stand_in = StandIn::start(&[]).await;
    ann(&world, &stand_in).await;
    let mut rounds = world.adapter.running.rounds();
    stand_in.hold(Some("prod"));
    world.put("1", "GOAL").await;
    eventually(|| async { stand_in.posted_to(CONNECTION).len() == 1 }).await;
    for later in ["THROW", "PENALTY"] {
        world.put("1", later).await;
        // The server was asked, so the post for it waits its turn.
        eventually(|| async { world.server.asked().iter().any(|(asked, _)| asked == later) }).await;
    }
    stand_in.hold(None);
    round(&mut rounds, |round| !round.superseded && round.pushed == 1).await;
    let posted = stand_in.posted_to(CONNECTION);
    assert_eq!(
        posted.len(),
        2,
        "what was superseded was never posted: {posted:?}"
    );
    assert!(posted[0].contains("GOAL") && posted[1].contains("PENALTY"));
    assert_eq!(stand_in.in_flight_max(), 1);
}

#[tokio::test]
async fn once_the_tenure_has_ended_no_post_is_begun_or_tried_again() {
    let stand_in = StandIn::start(&[429]).await;
    stand_in.hold(Some("prod"));
    let front = ApiGateway::new(ApiGatewayOptions {
        endpoint: Some(stand_in.endpoint("prod")),
        timeout: DEADLINE,
        posts_at_once: 1,
        posts_per_second: 10_000,
    });
    let tenure = Tenure::ended();
    tenure.extend(Instant::now() + DEADLINE);
    let limits = Limits {
        deadline: Instant::now() + DEADLINE,
        superseded: CancellationToken::new(),
        tenure: tenure.clone(),
    };
    let post = async |connection: &str| {
        let id = ConnectionId::new(connection).unwrap();
        front.post(&id, None, Frame::reply("GOAL"), &limits).await
    };
    let ending = async {
        eventually(|| async { stand_in.posted().len() == 1 }).await;
        tenure.end();
        stand_in.hold(None);
    };
    let (throttled, waiting, ()) = tokio::join!(post("throttled"), post("waiting"), ending);
    assert_eq!(throttled, Err(PostError::Lapsed));
    assert_eq!(waiting, Err(PostError::Lapsed));
    assert_eq!(stand_in.posted().len(), 1);
}
