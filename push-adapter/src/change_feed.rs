//! `ChangeFeed` over gRPC: what the leader reads, for everybody who needs it. Serves only while this
//! process leads; who follows finds the leader by its lease row.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use touchline_proto::v1::{
    CaughtUp, FollowRequest, FollowResponse, change_feed_server::ChangeFeed,
    follow_response::Message,
};
use touchline_runtime::metrics::{Gauge, Held};
use touchline_store::{feed::Feed, tables::Store};

use crate::convert::change_to_proto;

/// The feed as a service.
pub(crate) struct Service {
    pub(crate) led: watch::Receiver<Option<Arc<Feed>>>,
    pub(crate) store: Store,
    pub(crate) followers: Gauge,
    pub(crate) stopping: CancellationToken,
}

#[tonic::async_trait]
impl ChangeFeed for Service {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<FollowResponse, Status>> + Send>>;

    async fn follow(
        &self,
        _: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let led = self.led.borrow().clone();
        let Some(feed) = led else {
            return Err(self.not_leading().await);
        };
        let counted = Held::in_gauge(&self.followers);
        let stream = follow(feed, self.led.clone(), self.stopping.clone(), counted);
        Ok(Response::new(Box::pin(stream)))
    }
}

impl Service {
    /// Says who leads instead, so that a person with grpcurl knows where to go.
    async fn not_leading(&self) -> Status {
        let leader = match self.store.lease().await {
            Ok(Some(row)) if !row.owner.is_empty() => row.address,
            Ok(_) | Err(_) => return Status::unavailable("nobody leads at the moment"),
        };
        Status::failed_precondition(format!("this adapter does not lead; {leader} does"))
    }
}

fn follow(
    feed: Arc<Feed>,
    mut led: watch::Receiver<Option<Arc<Feed>>>,
    stopping: CancellationToken,
    counted: Held,
) -> impl Stream<Item = Result<FollowResponse, Status>> {
    let mut follower = feed.follow();
    async_stream::stream! {
        let _counted = counted;
        let mut told_caught_up = false;
        loop {
            let moved = async {
                let same = |led: &Option<Arc<Feed>>| {
                    led.as_ref().is_some_and(|led| Arc::ptr_eq(led, &feed))
                };
                // A closed channel means that the leader has ended, which is as good as moved.
                let _ = led.wait_for(|led| !same(led)).await;
            };
            let news = tokio::select! {
                biased;
                () = stopping.cancelled() => {
                    yield Err(Status::unavailable("this adapter is shutting down; follow again"));
                    return;
                }
                () = moved => {
                    yield Err(Status::unavailable("the lease was lost; follow the new leader"));
                    return;
                }
                news = follower.next() => news,
            };
            let news = match news {
                Ok(news) => news,
                Err(lagged) => {
                    yield Err(Status::unavailable(lagged.to_string()));
                    return;
                }
            };
            for change in news.changes {
                yield Ok(change_to_proto(&change));
            }
            if news.caught_up && !told_caught_up {
                told_caught_up = true;
                let message = Some(Message::CaughtUp(CaughtUp {}));
                yield Ok(FollowResponse { message, ..FollowResponse::default() });
            }
        }
    }
}
