//! `ChangeFeed` over gRPC: what the leader reads, for everybody who needs it. Serves only while this
//! process leads; who follows finds the leader by its lease row.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::{StreamExt as _, wrappers::TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use touchline_auth::{
    Scope,
    grpc::{AuthLayer, Need, common},
    tls::{Accepted, ServerTls},
};
use touchline_proto::v1::{
    CaughtUp, FILE_DESCRIPTOR_SET, FollowRequest, FollowResponse,
    change_feed_server::{ChangeFeed, ChangeFeedServer},
    follow_response::Message,
};
use touchline_runtime::metrics::{Gauge, Held};
use touchline_store::{feed::Feed, tables::Store};

use crate::convert::change_to_proto;

/// Followers at once: servers and other adapters, not fans.
const FOLLOWERS_MAX: u32 = 1_000;

struct Service {
    led: watch::Receiver<Option<Arc<Feed>>>,
    store: Store,
    followers: Gauge,
    stopping: CancellationToken,
}

/// What each call needs.
pub fn needs(path: &str) -> Need {
    match path {
        "/touchline.v1.ChangeFeed/Follow" => Need::OneOf(&[Scope::EventsRead]),
        other => common(other),
    }
}

/// Who may call, and over which connections.
#[derive(Debug)]
pub struct Access {
    /// Looks at callers.
    pub auth: AuthLayer,
    /// `None`: plain text.
    pub tls: Option<ServerTls>,
}

/// Serves the feed with health and reflection until `stopping`; returns when all streams have ended.
pub async fn serve(
    listener: TcpListener,
    access: Access,
    led: watch::Receiver<Option<Arc<Feed>>>,
    store: Store,
    followers: Gauge,
    stopping: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<ChangeFeedServer<Service>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (v1, v1alpha) = (reflection().build_v1(), reflection().build_v1alpha());
    let invariant = "the descriptors were compiled by this build";
    let service = Service {
        led,
        store,
        followers,
        stopping: stopping.clone(),
    };
    let Access { auth, tls } = access;
    let connections = TcpListenerStream::new(listener).map(move |stream| {
        let stream = stream?;
        // Only a socket that is closed already refuses, and reading finds that out.
        let _ = stream.set_nodelay(true);
        Ok::<_, std::io::Error>(Accepted::by(tls.as_ref(), stream))
    });
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(FOLLOWERS_MAX)
        .layer(auth)
        .add_service(health)
        .add_service(v1.expect(invariant))
        .add_service(v1alpha.expect(invariant))
        .add_service(ChangeFeedServer::new(service).max_decoding_message_size(64 << 10))
        .serve_with_incoming_shutdown(connections, async move {
            stopping.cancelled().await;
            reporter
                .set_not_serving::<ChangeFeedServer<Service>>()
                .await;
        })
        .await
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
