//! What a server offers on its gRPC port, until shutdown and then until it is drained.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{codec::CompressionEncoding, server::NamedService, service::Routes, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};
use touchline_admin::{Admin, AdminServiceServer};
use touchline_auth::{grpc::AuthLayer, tls::ServerTls};
use touchline_proto::serving::component_service_server::ComponentServiceServer;
use touchline_proto::v1::{
    FILE_DESCRIPTOR_SET, event_service_server::EventServiceServer,
    feedback_service_server::FeedbackServiceServer,
};

use crate::{
    admin,
    config::ServerArgs,
    counters::Counters,
    layers::{
        AdmitLayer,
        calls::{Calls, CallsLayer},
    },
    listener,
    service::{Api, guard::Guarded},
};

/// Largest message that is accepted.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The same for ComponentService: a batch of 1,000 consumers of 256 characters each beside an event
/// row of 400 kB, DynamoDB's limit.
const BATCH_BYTES_MAX: usize = 2 << 20;
/// How often a silent connection is asked whether it is there, and how long the answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What ends when the time to drain is over has this long to do so.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The services that have a health of their own; the empty name stands for the server as a whole.
const HEALTHY: [&str; 5] = [
    "",
    <AdminServiceServer<Admin<admin::Server>> as NamedService>::NAME,
    <ComponentServiceServer<Api> as NamedService>::NAME,
    <EventServiceServer<Api> as NamedService>::NAME,
    <FeedbackServiceServer<Api> as NamedService>::NAME,
];

pub(super) async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for service in HEALTHY {
        health.set_service_status(service, status).await;
    }
}

/// The services, behind what guards them.
pub(super) fn routes(
    api: Api,
    administered: Admin<admin::Server>,
    health: HealthReporter,
) -> anyhow::Result<Routes> {
    let health = tonic_health::server::HealthService::from_health_reporter(health);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Without it grpcurl shows the details of an error as raw bytes.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let gzip = CompressionEncoding::Gzip;
    let api = Guarded(api);
    let components = ComponentServiceServer::new(api.clone())
        .accept_compressed(gzip)
        .send_compressed(gzip)
        .max_decoding_message_size(BATCH_BYTES_MAX);
    let events = EventServiceServer::new(api.0.clone())
        .accept_compressed(gzip)
        .send_compressed(gzip)
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let feedback = FeedbackServiceServer::new(api)
        .accept_compressed(gzip)
        .send_compressed(gzip)
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    Ok(Routes::new(components)
        .add_service(events)
        .add_service(feedback)
        .add_service(administered.service())
        .add_service(tonic_health::pb::health_server::HealthServer::new(health))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?))
}

/// Everything that serving takes.
pub(super) struct Serving {
    pub(super) listener: TcpListener,
    pub(super) routes: Routes,
    pub(super) health: HealthReporter,
    pub(super) counters: Arc<Counters>,
    pub(super) calls: Arc<Calls>,
    pub(super) auth: AuthLayer,
    pub(super) tls: Option<ServerTls>,
    pub(super) shutdown: CancellationToken,
}

impl Serving {
    /// Serves until shutdown, then drains: not serving, no new connections, streams end, calls have
    /// until the time to drain is over.
    pub(super) async fn run(self, args: &ServerArgs) -> anyhow::Result<()> {
        let close = CancellationToken::new();
        let connections = listener::accept(
            self.listener,
            self.tls,
            args.max_connections,
            close.clone(),
            self.counters.clone(),
        );
        let admit = AdmitLayer {
            in_flight: Arc::new(Semaphore::new(args.max_calls)),
            default_deadline: args.default_deadline,
            counters: self.counters,
        };
        let streams_max = u32::try_from(args.max_calls + args.max_watches).unwrap_or(u32::MAX);
        let health = self.health;
        let stopping = self.shutdown.clone();
        let draining = async move {
            stopping.cancelled().await;
            set_health(&health, ServingStatus::NotServing).await;
            health
        };
        let (drained, drain) = oneshot::channel();
        let server = match args.max_connection_age {
            Duration::ZERO => Server::builder(),
            age => Server::builder().max_connection_age(age),
        };
        let serving = server
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .max_concurrent_streams(streams_max)
            // Around what is turned away too.
            .layer(CallsLayer(self.calls))
            .layer(admit)
            // Within the limits, since looking at a token costs something too.
            .layer(self.auth)
            .add_routes(self.routes)
            .serve_with_incoming_shutdown(connections, async move {
                // The other half waits below for as long as this server serves.
                let _ = drained.send(draining.await);
            });
        let overdue = async move {
            let Ok(mut health) = drain.await else {
                return pending().await;
            };
            // Who watches health has been told; his stream would keep its connection open.
            for service in HEALTHY {
                health.clear_service_status(service).await;
            }
            sleep(args.drain).await;
        };
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            served = &mut serving => return Ok(served?),
            () = overdue => {}
        }
        tracing::warn!("closing connections that did not end in time");
        close.cancel();
        // Closing is reading an error: there is nothing to wait for but the scheduler.
        let _ = timeout(CLOSE_TIMEOUT, serving).await;
        Ok(())
    }
}
