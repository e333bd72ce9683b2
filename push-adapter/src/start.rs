//! A push adapter's life: check the flags, bind, lead or stand by, drain, end. Knows how the parts
//! are put together and nothing of what they do.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{Semaphore, broadcast, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use touchline_admin::Admin;
use touchline_auth::{Verifier, caller::Caller, grpc::AuthLayer};
use touchline_runtime::{
    observe::{self, Shown},
    traces::Traces,
};
use touchline_store::{feed::Feed, stream::Quota, tables::Store};

use crate::{
    admin::Push,
    change_feed,
    config::{ConfigError, Front, PushArgs},
    connections::{
        Connections, Fronts,
        api_gateway::{ApiGateway, ApiGatewayOptions},
        local::Local,
        writers::Writers,
    },
    expiry,
    fanout::{FanOut, FanOutOptions, Life, Round, components::Components},
    gateway::{self, Arrivals, Gateway, Places, Rates, welcome},
    grpc::{self, Access},
    leader::{self, Feeds, Leader, LeaderOptions, ReaderOptions, follow::Following, lease::Tenure},
    management,
    metrics::Metrics,
};

mod gateway_role;

pub use gateway_role::{RunningGateway, start_gateway};

/// Fans that wait to be accepted: a crowd that comes back at once must not be told by the kernel to try
/// again in a second. The kernel takes its own limit where that is lower (net.core.somaxconn).
const BACKLOG: u32 = 16_384;

/// What the kernel keeps for one fan, each way; it doubles this for its own use (socket(7)). Left alone
/// it would keep megabytes for who does not read.
const SOCKET_BUFFER_BYTES: u32 = 64 << 10;

/// Rounds that a slow listener can be behind.
const ROUNDS: usize = 1_024;

/// A running push adapter.
#[derive(Debug)]
pub struct Running {
    /// Where the change feed is served.
    pub grpc_address: SocketAddr,
    /// Where fans connect, if this process is a front.
    pub fans_address: Option<SocketAddr>,
    /// Where `/@connections` is served, if this process is a front.
    pub management_address: Option<SocketAddr>,
    /// Where metrics and health are.
    pub metrics_address: SocketAddr,
    rounds: broadcast::Sender<Round>,
    feeds: Feeds,
    metrics: Arc<Metrics>,
    local: Option<Arc<Local>>,
    api_gateway: Arc<ApiGateway>,
    tracker: TaskTracker,
    traces: Traces,
}

impl Running {
    /// Each finished fan-out from now on. Whoever listens too slowly misses the oldest.
    pub fn rounds(&self) -> broadcast::Receiver<Round> {
        self.rounds.subscribe()
    }

    /// What it counts and measures.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How many fans are connected to this process.
    pub fn fans(&self) -> usize {
        self.local.as_ref().map_or(0, |local| local.count())
    }

    /// The feed while this process leads; `None` while it does not.
    pub fn led(&self) -> watch::Receiver<Option<Arc<Feed>>> {
        self.feeds.led.clone()
    }

    /// The posts to API Gateway, so that its default endpoint can be moved.
    pub fn api_gateway(&self) -> &Arc<ApiGateway> {
        &self.api_gateway
    }

    /// Waits until all has ended after shutdown began.
    pub async fn stopped(self) -> anyhow::Result<()> {
        self.tracker.wait().await;
        self.traces.end().await;
        Ok(())
    }
}

struct FrontListeners {
    fans: TcpListener,
    management: TcpListener,
}

/// Checks the flags, binds every socket, and runs until `shutdown`.
///
/// # Errors
/// A flag that cannot be used or an address that cannot be had, named with its flag.
pub async fn start(
    args: PushArgs,
    store: Store,
    shutdown: CancellationToken,
) -> anyhow::Result<Running> {
    args.validate()?;
    let caller = Caller::open(&args.caller)?;
    let verifier = Verifier::open(&args.auth)?.map(Arc::new);
    let access = Access {
        auth: AuthLayer::new(&args.auth, verifier.clone(), grpc::needs),
        tls: args.auth.server_tls()?,
    };
    let components = Components::new(&args.lookup, caller.clone())?;
    let (metrics, registry) = Metrics::new();
    let traces = Traces::open(&args.traces, "touchline-push", metrics.spans.clone());
    let traces = traces.map_err(anyhow::Error::msg)?;
    let grpc = bind("--listen", args.listen).await?;
    let grpc_address = grpc.local_addr().context("the listener has no address")?;
    let observed = bind("--metrics-listen", args.metrics_listen).await?;
    let metrics_address = observed
        .local_addr()
        .context("the listener has no address")?;
    let front = match args.connections {
        Front::Local => Some(FrontListeners {
            fans: bind_fans(args.fans_listen)?,
            management: bind("--management-listen", args.management_listen).await?,
        }),
        Front::ApiGateway => None,
    };
    let address = |listener: &TcpListener| listener.local_addr();
    let fans_address = front
        .as_ref()
        .map(|front| address(&front.fans))
        .transpose()?;
    let management_address = front
        .as_ref()
        .map(|front| address(&front.management))
        .transpose()?;
    let own = management_address.map(|address| {
        let endpoint = args
            .management_advertise
            .clone()
            .unwrap_or_else(|| format!("http://{address}/{}", args.stage));
        (endpoint, Arc::new(Local::default()))
    });

    let metrics = Arc::new(metrics);
    let tracker = TaskTracker::new();
    let (rounds, _) = broadcast::channel(ROUNDS);
    let led = watch::Sender::new(None);
    let session_calls = Arc::new(Semaphore::new(args.session_calls_at_once));
    let tenure = Tenure::ended();
    let life = Life {
        tenure: tenure.clone(),
        rounds: rounds.clone(),
        tracker: tracker.clone(),
        draining: shutdown.clone(),
        metrics: metrics.clone(),
    };
    let api_gateway = Arc::new(api_gateway(&args));
    let connections: Arc<dyn Connections> = Arc::new(Fronts::new(own.clone(), api_gateway.clone()));
    if args.connections == Front::ApiGateway && !args.expiry_sweep.is_zero() {
        let (store, connections) = (store.clone(), connections.clone());
        let sweeping = expiry::sweep(store, connections, tenure.clone(), args.expiry_sweep);
        tracker.spawn(shutdown.clone().run_until_cancelled_owned(sweeping));
    }
    let fan_out = FanOut::new(
        store.clone(),
        components.clone(),
        connections,
        fan_out_options(&args),
        session_calls.clone(),
        life,
    );
    let leader = Arc::new(Leader {
        store: store.clone(),
        fan_out: Arc::new(fan_out),
        led,
        following: Following {
            store: store.clone(),
            caller,
            followed: watch::Sender::new(None),
        },
        tenure,
        options: leader_options(&args, grpc_address),
        metrics: metrics.clone(),
        traces: traces.clone(),
    });
    let running = Running {
        grpc_address,
        fans_address,
        management_address,
        metrics_address,
        rounds,
        feeds: leader.feeds(),
        metrics: metrics.clone(),
        local: own.as_ref().map(|(_, local)| local.clone()),
        api_gateway,
        tracker: tracker.clone(),
        traces,
    };

    let push = Push {
        store: store.clone(),
        feeds: running.feeds.clone(),
        metrics: metrics.clone(),
    };
    let feed = change_feed::Service {
        led: running.led(),
        store: store.clone(),
        followers: metrics.feed_followers.clone(),
        stopping: shutdown.clone(),
    };
    let served = (access, Some(feed), administered(push, &shutdown));
    tracker.spawn(serve_grpc(grpc, served, shutdown.clone()));
    // Fans are told goodbye when the leader has finished what it had begun.
    let drained = CancellationToken::new();
    let shown = Shown {
        registry,
        ready: ready(running.feeds.clone(), shutdown.clone()),
    };
    tracker.spawn(observe::serve(observed, shown, drained.clone()));
    tracker.spawn({
        let drained = drained.clone().drop_guard();
        async move {
            if args.never_lead {
                leader::stand_by(leader, shutdown).await;
            } else {
                Box::pin(leader::lead(leader, shutdown)).await;
            }
            drop(drained);
        }
    });
    if let (Some(front), Some(own)) = (front, own) {
        let (welcome, arrivals) = welcome();
        let gateway = Gateway {
            sessions: Arc::new(store),
            local: own.1,
            writers: Writers::new(),
            feeds: running.feeds.clone(),
            components,
            welcome,
            stage: args.stage,
            endpoint: own.0,
            places: Places::new(&args.fans),
            rates: Rates::new(&args.fans),
            tls: args.fan_access.tls()?,
            access: args.fan_access,
            limits: args.fans,
            session_calls,
            metrics,
            verifier,
        };
        serve_front(
            front,
            (gateway, arrivals),
            &running,
            &drained,
            args.drain_timeout,
        );
    }
    tracker.close();
    Ok(running)
}

/// This process, as its operators reach it.
fn administered(push: Push, shutdown: &CancellationToken) -> Admin<Push> {
    Admin {
        version: env!("CARGO_PKG_VERSION"),
        started_at: SystemTime::now(),
        ready: ready(push.feeds.clone(), shutdown.clone()),
        shutdown: shutdown.clone(),
        role: push,
    }
}

async fn serve_grpc(
    listener: TcpListener,
    (access, feed, admin): (Access, Option<change_feed::Service>, Admin<Push>),
    stopping: CancellationToken,
) {
    if let Err(error) = grpc::serve(listener, access, feed, admin, stopping).await {
        tracing::error!(%error, "the gRPC port ended");
    }
}

/// Ready is who knows the newest states: only such a front can answer a fan.
fn ready(feeds: Feeds, shutdown: CancellationToken) -> observe::Ready {
    Arc::new(move || {
        if shutdown.is_cancelled() {
            return Err("shutting down");
        }
        match feeds.newest() {
            Some(_) => Ok(()),
            None => Err("no leader was reached yet, so that the newest states are not known"),
        }
    })
}

fn serve_front(
    front: FrontListeners,
    (gateway, arrivals): (Gateway, Arrivals),
    running: &Running,
    stopping: &CancellationToken,
    drain: Duration,
) {
    let local = gateway.local.clone();
    let gateway = Arc::new(gateway);
    // A fan who does not listen when told goodbye holds the others up no longer than this.
    let drain = drain.max(Duration::from_secs(2));
    running.tracker.spawn(gateway::serve(
        gateway,
        arrivals,
        front.fans,
        stopping.clone(),
        drain,
    ));
    let management = management::serve(front.management, local, stopping.clone());
    running.tracker.spawn(async move {
        if let Err(error) = management.await {
            tracing::error!(%error, "the management API ended");
        }
    });
}

fn api_gateway(args: &PushArgs) -> ApiGateway {
    ApiGateway::new(ApiGatewayOptions {
        endpoint: args.api_gateway_endpoint.clone(),
        timeout: args.post_timeout,
        posts_at_once: args.posts_at_once,
        posts_per_second: f64::from(args.posts_per_second),
    })
}

fn fan_out_options(args: &PushArgs) -> FanOutOptions {
    FanOutOptions {
        events_at_once: args.events_at_once,
        batch_consumers: args.lookup.batch_consumers,
        batches_at_once: args.lookup.batches_at_once,
        posts_at_once: args.posts_at_once,
        push_deadline: args.lookup.push_deadline,
        second_look: args.second_look,
    }
}

fn leader_options(args: &PushArgs, grpc_address: SocketAddr) -> LeaderOptions {
    let scheme = match args.auth.tls_certificate {
        Some(_) => "https",
        None => "http",
    };
    let address = args
        .advertise
        .clone()
        .unwrap_or_else(|| format!("{scheme}://{grpc_address}"));
    LeaderOptions {
        owner: format!("{address}#{:016x}", rand::random::<u64>()),
        address,
        lease_duration: args.lease_duration,
        lease_margin: args.post_timeout,
        sole: args.sole_leader,
        reader: ReaderOptions {
            poll_interval: args.poll_interval,
            quota: Quota {
                pages_per_second: args.shard_reads_per_second,
            },
        },
        drain_timeout: args.drain_timeout,
    }
}

async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, ConfigError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ConfigError::Bind {
            flag,
            address,
            source,
        })
}

/// The fans' socket, which a crowd may come to at once.
fn bind_fans(address: SocketAddr) -> Result<TcpListener, ConfigError> {
    let bind = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // What a fan who does not read costs, and how soon that is noticed. Inherited by each connection.
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
        // Connections of a process that ended may still be there for a minute.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| ConfigError::Bind {
        flag: "--fans-listen",
        address,
        source,
    })
}
