//! Posting to API Gateway through the real SDK, against a stand-in that throttles, refuses and waits.

use std::time::{Duration, Instant};

use futures::{
    StreamExt,
    future::{join_all, select_all},
    stream,
};

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
    connections::{Conduct, StandIn, session},
    eventually, round,
};

/// A front that posts to the stand-in, and as long as it likes.
fn front(
    stand_in: &StandIn,
    posts_at_once: usize,
    posts_per_second: f64,
    timeout: Duration,
) -> (ApiGateway, Limits) {
    let front = ApiGateway::new(ApiGatewayOptions {
        endpoint: Some(stand_in.endpoint("prod")),
        timeout,
        posts_at_once,
        posts_per_second,
    });
    let tenure = Tenure::ended();
    tenure.extend(Instant::now() + DEADLINE * 3);
    let limits = Limits {
        deadline: Instant::now() + DEADLINE * 2,
        superseded: CancellationToken::new(),
        tenure,
    };
    (front, limits)
}

async fn post(front: &ApiGateway, limits: &Limits, connection: &str) -> Result<(), PostError> {
    let id = ConnectionId::new(connection).unwrap();
    front.post(&id, None, Frame::reply("GOAL"), limits).await
}

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
    let (front, limits) = front(&stand_in, 1, 1_000.0, DEADLINE);
    let tenure = limits.tenure.clone();
    let post = |connection| post(&front, &limits, connection);
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

#[tokio::test]
async fn a_connection_that_is_gone_loses_its_row_and_one_that_is_not_gets_its_message() {
    let world = World::start().await;
    let stand_in = StandIn::start(&[]).await;
    for (connection, conduct) in [("gone", Conduct::Status(410)), ("new", Conduct::GoneOnce)] {
        stand_in.conduct(connection, conduct);
        session(
            &world.store,
            connection,
            connection,
            &stand_in.endpoint("prod"),
        )
        .await;
    }
    let mut rounds = world.adapter.running.rounds();
    world.put("1", "GOAL").await;
    let served = round(&mut rounds, |_| true).await;
    assert_eq!((served.pushed, served.gone, served.failed), (1, 1, 0));
    assert_eq!(stand_in.posted_to("gone").len(), 1);
    assert_eq!(stand_in.posted_to("new").len(), 2);
    world.put("1", "PENALTY").await;
    round(&mut rounds, |served| served.pushed == 1 && served.gone == 0).await;
}

#[tokio::test]
async fn slow_gone_and_refused_connections_hold_up_nobody_else() {
    let stand_in = StandIn::start(&[]).await;
    let conducts = [
        Conduct::Hang,
        Conduct::Status(429),
        Conduct::Status(410),
        Conduct::Status(413),
        Conduct::Status(403),
        Conduct::Status(500),
    ];
    let bad: Vec<(String, Conduct)> = (0..48)
        .map(|number| (format!("bad-{number}"), conducts[number % conducts.len()]))
        .collect();
    for (connection, conduct) in &bad {
        stand_in.conduct(connection, *conduct);
    }
    let (front, limits) = front(&stand_in, 64, 10_000.0, Duration::from_secs(2));
    // The second time it is known who is slow.
    for turn in ["first", "second"] {
        let began = Instant::now();
        let bad = bad.iter().map(async |(connection, conduct)| {
            let posted = post(&front, &limits, connection).await;
            match conduct {
                Conduct::Hang => assert!(matches!(
                    posted,
                    Err(PostError::Unavailable(_) | PostError::Throttled)
                )),
                Conduct::Status(429) => assert_eq!(posted, Err(PostError::Throttled)),
                Conduct::Status(410) => assert_eq!(posted, Err(PostError::Gone)),
                Conduct::Status(413 | 403) => assert!(matches!(posted, Err(PostError::Refused(_)))),
                _ => assert!(matches!(posted, Err(PostError::Unavailable(_)))),
            }
        });
        let healthy = (0..500).map(|number| format!("fan-{number}"));
        let healthy = stream::iter(healthy)
            .map(async |fan| {
                post(&front, &limits, &fan).await.unwrap();
                began.elapsed()
            })
            .buffer_unordered(128)
            .collect::<Vec<_>>();
        let (_, served) = tokio::join!(join_all(bad), healthy);
        let last = served.into_iter().max().unwrap();
        println!("figure: {turn}, the last of 500 healthy connections after {last:?}");
    }
}

/// By order, not by time: posts that are never answered are still under way when everybody else's are
/// done.
#[tokio::test]
async fn everybody_else_is_served_before_a_connection_that_hangs_is_given_up() {
    let stand_in = StandIn::start(&[]).await;
    let (front, limits) = front(&stand_in, 8, 10_000.0, DEADLINE * 2);
    let hanging = ["hangs-1", "hangs-2", "hangs-3", "hangs-4"];
    for connection in hanging {
        stand_in.conduct(connection, Conduct::Hang);
    }
    // Two posts to each: the second one waits for the first one's turn to end, and for nothing else.
    let twice = hanging.iter().chain(&hanging);
    let hanging = join_all(twice.map(async |connection| post(&front, &limits, connection).await));
    let everybody_else = async {
        eventually(|| async { stand_in.posted().len() == 4 }).await;
        everybody_is_served(&front, &limits).await;
    };
    tokio::select! {
        posted = hanging => panic!("given up before the others were served: {posted:?}"),
        () = everybody_else => {}
    }
    let hanging = stand_in
        .posted()
        .into_iter()
        .filter(|posted| posted.connection.starts_with("hangs"));
    assert_eq!(hanging.count(), 4, "one post in flight a connection");
}

/// The same where there are as many slow connections as posts that may be in flight.
#[tokio::test]
async fn connections_that_are_known_to_be_slow_leave_room_for_everybody_else() {
    let stand_in = StandIn::start(&[]).await;
    let (front, limits) = front(&stand_in, 2, 10_000.0, DEADLINE * 2);
    for connection in ["slow-1", "slow-2"] {
        stand_in.conduct(connection, Conduct::Status(429));
        assert_eq!(
            post(&front, &limits, connection).await,
            Err(PostError::Throttled)
        );
        stand_in.conduct(connection, Conduct::Hang);
    }
    // One of them has the lane of the slow ones, and the other is left for the next walk.
    let slow = ["slow-1", "slow-2"].map(|connection| Box::pin(post(&front, &limits, connection)));
    let (left, _, still_under_way) = select_all(slow).await;
    assert_eq!(left, Err(PostError::Throttled));
    tokio::select! {
        posted = select_all(still_under_way) => panic!("given up first: {:?}", posted.0),
        () = everybody_is_served(&front, &limits) => {}
    }
}

async fn everybody_is_served(front: &ApiGateway, limits: &Limits) {
    let posts = stream::iter((0..200).map(|number| format!("fan-{number}")))
        .map(async |fan| post(front, limits, &fan).await.unwrap())
        .buffer_unordered(32)
        .collect::<Vec<_>>();
    tokio::time::timeout(DEADLINE, posts).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_that_bears_less_is_posted_to_as_fast_as_it_bears() {
    const LIMIT: f64 = 200.0;
    let stand_in = StandIn::start(&[]).await;
    let (front, limits) = front(&stand_in, 64, 2.0 * LIMIT, DEADLINE);
    stand_in.limit(LIMIT);
    let began = Instant::now();
    let posts = (0..1_500).map(|number| format!("fan-{number}"));
    let posts: Vec<_> = stream::iter(posts)
        .map(async |fan| post(&front, &limits, &fan).await)
        .buffer_unordered(128)
        .collect()
        .await;
    // Who met the quota while nothing was known of it is left for the next walk.
    let taken = posts.iter().filter(|posted| posted.is_ok()).count();
    let left = posts
        .iter()
        .filter(|posted| **posted == Err(PostError::Throttled));
    assert_eq!(taken + left.count(), posts.len());
    assert!(taken > 1_400, "{taken}");
    let goodput = taken as f64 / began.elapsed().as_secs_f64() / LIMIT;
    println!("figure: goodput {goodput:.2} of the limit");
}
