//! A gateway's life: check the flags, bind, follow whoever leads, serve fans, send them away, end.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use touchline_auth::{Verifier, caller::Caller, grpc::AuthLayer};
use touchline_runtime::{
    observe::{self, Shown},
    traces::Traces,
};
use touchline_store::tables::Store;

use super::{administered, bind, bind_fans, ready, serve_grpc};
use crate::{
    admin::Push,
    config::GatewayArgs,
    connections::{local::Local, writers::Writers},
    fanout::{
        components::Components,
        own::{self, OwnFanOut},
    },
    gateway::{self, Gateway, Places, Rates, welcome},
    grpc::{self, Access},
    leader::{
        Feeds,
        follow::{Following, follow},
    },
    metrics::Metrics,
    sessions::memory::Memory,
};

/// A running gateway.
#[derive(Debug)]
pub struct RunningGateway {
    /// Where fans connect.
    pub fans_address: SocketAddr,
    /// Where it is administered, over gRPC.
    pub grpc_address: SocketAddr,
    /// Where metrics and health are.
    pub metrics_address: SocketAddr,
    local: Arc<Local>,
    feeds: Feeds,
    metrics: Arc<Metrics>,
    tracker: TaskTracker,
    traces: Traces,
}

impl RunningGateway {
    /// What it counts and measures.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How many fans are connected.
    pub fn fans(&self) -> usize {
        self.local.count()
    }

    /// The newest states, as far as a leader was heard of.
    pub fn feeds(&self) -> &Feeds {
        &self.feeds
    }

    /// Waits until all has ended after shutdown began.
    pub async fn stopped(self) {
        self.tracker.wait().await;
        self.traces.end().await;
    }
}

/// Checks the flags, binds every socket, and runs until `shutdown`.
///
/// # Errors
/// A flag that cannot be used or an address that cannot be had, named with its flag.
pub async fn start_gateway(
    args: GatewayArgs,
    store: Store,
    shutdown: CancellationToken,
) -> anyhow::Result<RunningGateway> {
    args.validate()?;
    let caller = Caller::open(&args.caller)?;
    let verifier = Verifier::open(&args.auth)?.map(Arc::new);
    let components = Components::new(&args.lookup, caller.clone())?;
    let tls = args.fan_access.tls()?;
    let access = Access {
        auth: AuthLayer::new(&args.auth, verifier.clone(), grpc::needs),
        tls: args.auth.server_tls()?,
    };
    let (metrics, registry) = Metrics::new();
    let traces = Traces::open(&args.traces, "touchline-gateway", metrics.spans.clone());
    let traces = traces.map_err(anyhow::Error::msg)?;
    let fans = bind_fans(args.fans_listen)?;
    let grpc = bind("--listen", args.listen).await?;
    let observed = bind("--metrics-listen", args.metrics_listen).await?;

    let metrics = Arc::new(metrics);
    let local = Arc::new(Local::default());
    let sessions = Arc::new(Memory::new(local.clone()));
    let following = Following {
        store: store.clone(),
        caller,
        followed: watch::Sender::new(None),
    };
    let feeds = Feeds {
        led: watch::Sender::new(None).subscribe(),
        followed: following.followed.subscribe(),
    };
    let running = RunningGateway {
        fans_address: fans.local_addr()?,
        grpc_address: grpc.local_addr()?,
        metrics_address: observed.local_addr()?,
        local: local.clone(),
        feeds: feeds.clone(),
        metrics: metrics.clone(),
        tracker: TaskTracker::new(),
        traces: traces.clone(),
    };
    let fan_out = OwnFanOut {
        sessions: sessions.clone(),
        components: components.clone(),
        options: args.lookup,
        metrics: metrics.clone(),
        traces,
    };
    // Fans who are still here are served until the last of them was sent away.
    let drained = CancellationToken::new();
    let shown = Shown {
        registry,
        ready: ready(feeds.clone(), shutdown.clone()),
    };
    let push = Push {
        store,
        feeds: feeds.clone(),
        metrics: metrics.clone(),
    };
    let tracker = running.tracker.clone();
    let served = (access, None, administered(push, &shutdown));
    tracker.spawn(serve_grpc(grpc, served, shutdown.clone()));
    tracker.spawn(observe::serve(observed, shown, drained.clone()));
    let pushing = {
        let fan_out = Arc::new(fan_out);
        async move {
            // Nobody here waits to lead.
            let vacant = Notify::new();
            tokio::join!(
                follow(&following, &vacant),
                own::follow(fan_out, &following.followed)
            );
        }
    };
    tracker.spawn(drained.clone().run_until_cancelled_owned(pushing));
    let (welcome, arrivals) = welcome();
    let gateway = Gateway {
        sessions,
        local,
        writers: Writers::new(),
        feeds,
        components,
        welcome,
        stage: args.stage,
        endpoint: String::new(),
        places: Places::new(&args.fans),
        rates: Rates::new(&args.fans),
        tls,
        access: args.fan_access,
        limits: args.fans,
        // They cost nothing here.
        session_calls: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        metrics,
        verifier,
    };
    // A fan who does not listen when told goodbye holds the others up no longer than this.
    let drain = args.drain_timeout.max(Duration::from_secs(2));
    tracker.spawn(async move {
        gateway::serve(Arc::new(gateway), arrivals, fans, shutdown, drain).await;
        drained.cancel();
    });
    tracker.close();
    Ok(running)
}
