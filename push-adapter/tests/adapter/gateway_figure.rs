//! How long a gateway says that its fans waited: since the leader read the change, which only the change
//! feed can tell it. The feed here is a test's own.

use std::{sync::Arc, time::Duration};

use futures::stream::BoxStream;
use tokio::{net::TcpListener, sync::Notify};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::{Request, Response, Status, transport::Server};
use touchline_proto::v1::{
    CaughtUp, EventState, FollowRequest, FollowResponse, Position,
    change_feed_server::{ChangeFeed, ChangeFeedServer},
    follow_response::Message,
};

use crate::support::{Front, StubServer, front::gateway_args, observed, shown, store, until_shown};

/// A leader that has no events at first, and says of a goal that it read it a while ago.
struct Leader {
    scored: Arc<Notify>,
    read_ago: Duration,
}

#[tonic::async_trait]
impl ChangeFeed for Leader {
    type FollowStream = BoxStream<'static, Result<FollowResponse, Status>>;

    async fn follow(
        &self,
        _: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let (scored, read_ago) = (self.scored.clone(), self.read_ago);
        let said = async_stream::stream! {
            yield Ok(FollowResponse {
                message: Some(Message::CaughtUp(CaughtUp {})),
                ..FollowResponse::default()
            });
            scored.notified().await;
            yield Ok(FollowResponse {
                message: Some(Message::State(goal())),
                read_ago: read_ago.try_into().ok(),
                ..FollowResponse::default()
            });
            std::future::pending::<()>().await;
        };
        Ok(Response::new(Box::pin(said)))
    }
}

fn goal() -> EventState {
    EventState {
        event_id: "1".to_owned(),
        attributes: [("match_event".to_owned(), "GOAL".to_owned())].into(),
        position: Some(Position {
            epoch: "epoch".to_owned(),
            sequence: "1".to_owned(),
        }),
        ..EventState::default()
    }
}

/// Changes that took at most so many seconds.
async fn within(front: &Front, seconds: &str) -> u64 {
    let (_, text) = observed(front.running.metrics_address, "/metrics").await;
    let name = format!("touchline_push_change_to_last_seconds_bucket{{le=\"{seconds}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_gateways_fans_have_waited_since_the_leader_read_the_change() {
    let (embedded, store) = store().await;
    let server = StubServer::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let scored = Arc::new(Notify::new());
    let leader = Leader {
        scored: scored.clone(),
        read_ago: Duration::from_secs(7),
    };
    let serving = Server::builder()
        .add_service(ChangeFeedServer::new(leader))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let _serving = AbortOnDropHandle::new(TaskTracker::new().spawn(serving));
    let lasts = Duration::from_secs(60);
    store
        .take_lease("feed", &address, lasts, None)
        .await
        .unwrap();
    let front = Front::of(gateway_args(&server), &store).await;
    let mut ann = front.registered("ann").await;
    scored.notify_one();
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
    let lines = ["touchline_push_change_to_last_seconds_count 1"];
    until_shown(front.running.metrics_address, &lines).await;
    assert_eq!(within(&front, "5.0").await, 0, "the leader's part is in it");
    assert_eq!(within(&front, "30.0").await, 1);
    front.stop().await;
    embedded.stop().await;
}
