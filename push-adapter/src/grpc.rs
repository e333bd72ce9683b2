//! The gRPC port of this process: what is served there, to whom, over which connections. What is served
//! is in [`change_feed`](crate::change_feed) and `admin`.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::{StreamExt as _, wrappers::TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use touchline_admin::Admin;
use touchline_auth::{
    Scope,
    grpc::{AuthLayer, Need, common},
    tls::{Accepted, ServerTls},
};
use touchline_proto::v1::{FILE_DESCRIPTOR_SET, change_feed_server::ChangeFeedServer};

use crate::{admin::Push, change_feed::Service};

/// Calls of a connection at once: servers and other adapters that follow, not fans.
const STREAMS_MAX: u32 = 1_000;
/// Streams that nobody here ends, such as a watch of health, hold the end up no longer than this.
const END_MAX: Duration = Duration::from_secs(2);
/// Requests are small.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

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

/// Serves with health and reflection until `stopping`; returns when all streams have ended, or soon
/// after. `feed` is absent in a gateway, which never leads.
pub(crate) async fn serve(
    listener: TcpListener,
    access: Access,
    feed: Option<Service>,
    admin: Admin<Push>,
    stopping: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut served = vec![<touchline_admin::AdminServiceServer<Admin<Push>> as NamedService>::NAME];
    if feed.is_some() {
        served.push(<ChangeFeedServer<Service> as NamedService>::NAME);
    }
    for service in &served {
        reporter
            .set_service_status(service, ServingStatus::Serving)
            .await;
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Without it grpcurl shows the details of an error as raw bytes.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let (v1, v1alpha) = (reflection().build_v1(), reflection().build_v1alpha());
    let invariant = "the descriptors were compiled by this build";
    let Access { auth, tls } = access;
    let connections = TcpListenerStream::new(listener).map(move |stream| {
        let stream = stream?;
        // Only a socket that is closed already refuses, and reading finds that out.
        let _ = stream.set_nodelay(true);
        Ok::<_, std::io::Error>(Accepted::by(tls.as_ref(), stream))
    });
    let feed =
        feed.map(|feed| ChangeFeedServer::new(feed).max_decoding_message_size(MESSAGE_BYTES_MAX));
    let overdue = {
        let stopping = stopping.clone();
        async move {
            stopping.cancelled().await;
            tokio::time::sleep(END_MAX).await;
        }
    };
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(STREAMS_MAX)
        .layer(auth)
        .add_service(health)
        .add_service(v1.expect(invariant))
        .add_service(v1alpha.expect(invariant))
        .add_service(admin.service())
        .add_optional_service(feed)
        .serve_with_incoming_shutdown(connections, async move {
            stopping.cancelled().await;
            for service in ["", served[0]].into_iter().chain(served.get(1).copied()) {
                reporter
                    .set_service_status(service, ServingStatus::NotServing)
                    .await;
            }
        });
    tokio::select! {
        served = serving => served,
        () = overdue => Ok(()),
    }
}
