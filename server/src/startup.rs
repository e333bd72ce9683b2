//! A server's life: check, bind, load, serve, drain. Parses nothing and handles no signals; that is
//! for whoever starts it, a `main` or a stack of several parts in one process.

use std::{
    future::pending,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use futures::{FutureExt, future::BoxFuture};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, oneshot, watch},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{codec::CompressionEncoding, server::NamedService, service::Routes, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};
use touchline_admin::{Admin, AdminServiceServer};
use touchline_auth::{Verifier, caller::Caller, grpc::AuthLayer, tls::ServerTls};
use touchline_proto::serving::component_service_server::ComponentServiceServer;
use touchline_proto::v1::{
    FILE_DESCRIPTOR_SET, event_service_server::EventServiceServer,
    feedback_service_server::FeedbackServiceServer,
};
use touchline_runtime::{
    observe::{self, Shown},
    traces::Traces,
};
use touchline_store::tables::Store;

use crate::{
    admin,
    catalog::CatalogCache,
    config::{InvalidFlag, RecommenderKind, ServerArgs},
    counters::Counters,
    impressions::Impressions,
    layers::{
        AdmitLayer,
        calls::{Calls, CallsLayer},
    },
    listener,
    metrics::Metrics,
    moderation::Moderation,
    policies::PolicyFile,
    recommend::personalize::{PersonalizeConfig, PersonalizeRecommender},
    service::{
        Api,
        guard::{self, Guarded},
    },
    sets::Sets,
    users::Users,
    watch::{Change, Events},
};

mod sources;

use sources::Sources;

/// Largest message that is accepted.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The same for ComponentService: a batch of 1,000 consumers of 256 characters each beside an event
/// row of 400 kB, DynamoDB's limit.
const BATCH_BYTES_MAX: usize = 2 << 20;
/// How often a silent connection is asked whether it is there, and how long the answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before tables and catalog are tried again.
const LOAD_PAUSE: Duration = Duration::from_millis(500);
/// One look at the tables takes at most this long.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);
/// What ends when the time to drain is over has this long to do so.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A running server.
#[derive(Debug)]
pub struct Running {
    /// Where the gRPC services are.
    pub grpc_address: SocketAddr,
    /// Where metrics and health are.
    pub metrics_address: SocketAddr,
    /// What happened that nobody was told of.
    pub counters: Arc<Counters>,
    /// The event states that this server knows of.
    pub events: Arc<Events>,
    sets: Arc<Sets>,
    personalize: Option<PersonalizeRecommender>,
    tasks: TaskTracker,
    ready: watch::Receiver<bool>,
    outcome: oneshot::Receiver<anyhow::Result<()>>,
    /// Whoever started the server wants it to end.
    asked: CancellationToken,
    /// It ends, for whatever reason.
    ending: CancellationToken,
    traces: Traces,
}

impl Running {
    /// Waits until the tables were reached and the catalog was loaded: until health says SERVING.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let mut ready = self.ready.clone();
        let waited = ready.wait_for(|ready| *ready).await;
        waited.context("the server stopped before it was ready")?;
        Ok(())
    }

    /// What is asked of Personalize from now on is as these arguments say: the campaign or recommender
    /// and its region, unless a file names it, and the number of results. Nothing else of them is
    /// looked at. Rankings given before are out of date if it is another campaign.
    pub async fn ask_as(&self, args: &ServerArgs) -> Result<(), InvalidFlag> {
        if let Some(personalize) = &self.personalize
            && args.serving.campaign_file.is_none()
        {
            let PersonalizeConfig { target, region, .. } = args.personalize()?;
            if personalize.retarget(target.clone(), Some(&region)).await {
                tracing::info!(arn = target.arn(), region, "another campaign is asked");
            }
        }
        self.sets.ask_for(args.num_results);
        Ok(())
    }

    /// Waits until the server begins to end: because it was asked to, or because one of its tasks
    /// ended by itself. [`Self::stopped`] says which.
    pub async fn ending(&self) {
        self.ending.cancelled().await;
    }

    /// Waits until everything has ended. An error says why, if nobody had asked for it.
    pub async fn stopped(self) -> anyhow::Result<()> {
        self.tasks.wait().await;
        self.traces.end().await;
        let outcome = self.outcome.await.context("serving ended in a panic");
        outcome.flatten()?;
        anyhow::ensure!(
            self.asked.is_cancelled(),
            "one of its tasks ended; the log says more"
        );
        Ok(())
    }
}

/// Binds and serves until `shutdown` is cancelled, or a task that has to be there ends. Returns as soon as it listens; while the store
/// cannot be reached, health says NOT_SERVING and it is tried again.
pub async fn start(
    args: ServerArgs,
    store: Store,
    shutdown: CancellationToken,
) -> anyhow::Result<Running> {
    args.validate()?;
    let verifier = Verifier::open(&args.auth)?.map(Arc::new);
    let auth = AuthLayer::new(&args.auth, verifier, guard::needs);
    let (tls, caller) = (args.auth.server_tls()?, Caller::open(&args.caller)?);
    let traces = Traces::open(&args.traces, "touchline-server").map_err(anyhow::Error::msg)?;
    let (asked, shutdown) = (shutdown.clone(), shutdown.child_token());
    let (metrics, registry) = Metrics::new();
    let counters = metrics.counters;
    let policies = policies(&args, &counters)?;
    let users = users(&args).await?;
    let impressions = Impressions::new(args.impressions_bytes);
    let moderation = Moderation::new(
        policies.clone(),
        users.clone(),
        impressions,
        counters.clone(),
    );
    let tasks = TaskTracker::new();
    let life = sources::Life {
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
    };
    // Boxed, since it holds whole clients of AWS.
    let opening = Box::pin(sources::open(&args, &store, &counters, users, life));
    let Sources {
        catalog,
        rankings,
        prefetcher,
        ranker,
        personalize,
    } = opening.await?;
    let listener = listen("--listen", args.listen).await?;
    let grpc_address = listener.local_addr()?;
    let observed = listen("--metrics-listen", args.metrics_listen).await?;
    let metrics_address = observed.local_addr()?;
    let sets = Sets::new(
        catalog.clone(),
        rankings,
        moderation,
        args.context_keys.clone(),
        args.num_results,
        args.serving.refinement(),
        counters.clone(),
    );
    let sets = match prefetcher {
        Some(prefetcher) => sets.ahead(prefetcher),
        None => sets,
    };
    let sets = Arc::new(sets);
    let (observer, asking) = (sets.clone(), sets.clone());
    let events = Events::new(store.clone(), counters.clone());
    let events = events.told(Box::new(move |change| match change {
        Change::State(seen) => drop(observer.situation(seen)),
        Change::Ended(event_id) => observer.ended(event_id),
    }));
    let events = Arc::new(events);
    let api = Api {
        store: store.clone(),
        events: events.clone(),
        sets,
        batches: Arc::new(Semaphore::new(args.max_batches)),
        watches: Arc::new(Semaphore::new(args.max_watches)),
        default_deadline: args.default_deadline,
        follow_up: args.serving.follow_up,
        stream_age_max: args.max_connection_age,
        shutdown: shutdown.clone(),
        traces: traces.clone(),
    };

    let (health, ready) = (HealthReporter::new(), watch::Sender::new(false));
    let receiver = ready.subscribe();
    set_health(&health, ServingStatus::NotServing).await;
    let administered = Admin {
        version: env!("CARGO_PKG_VERSION"),
        started_at: SystemTime::now(),
        ready: is_ready(receiver.clone(), shutdown.clone()),
        shutdown: asked.clone(),
        role: admin::Server {
            counters: counters.clone(),
            events: events.clone(),
            policies: policies.clone(),
            is_budgeted: args.recommender == RecommenderKind::Personalize,
        },
    };
    let routes = routes(api, administered, health.clone())?;
    let (report, outcome) = oneshot::channel();
    let serving = Serving {
        listener,
        routes,
        health: health.clone(),
        counters: counters.clone(),
        calls: metrics.calls,
        auth,
        tls,
        shutdown: shutdown.clone(),
    };
    let shown = Shown {
        registry,
        ready: is_ready(receiver.clone(), shutdown.clone()),
    };
    // Shown until the last call has ended.
    let served = CancellationToken::new();
    tasks.spawn(observe::serve(observed, shown, served.clone()));
    let ending = shutdown.clone();
    let essential = |task| spawn_essential(&tasks, &ending, task);
    essential(
        events
            .clone()
            .keep_following(caller, shutdown.clone())
            .boxed(),
    );
    essential(events.clone().keep_polling(shutdown.clone()).boxed());
    if let Some(ranker) = ranker {
        let shutdown = shutdown.clone();
        essential(async move { ranker.keep_compact(shutdown).await }.boxed());
    }
    // Without a file it has nothing to do.
    tasks.spawn(policies.keep_fresh(shutdown.clone()));
    let refresh = args.catalog_refresh;
    let loading = async move {
        let loading = load(&store, &catalog, &health, &ready);
        shutdown.run_until_cancelled(loading).await;
        catalog.keep_fresh(refresh, shutdown).await;
    };
    essential(loading.boxed());
    let serving = async move {
        let _served = served.drop_guard();
        // Whoever dropped the receiver does not want to know.
        let _ = report.send(serving.run(&args).await);
    };
    essential(serving.boxed());
    tasks.close();
    tracing::info!(address = %metrics_address, "metrics and health listen");
    tracing::info!(address = %grpc_address, "gRPC listens");
    Ok(Running {
        grpc_address,
        metrics_address,
        counters,
        events,
        sets: asking,
        personalize,
        tasks,
        ready: receiver,
        outcome,
        asked,
        ending,
        traces,
    })
}

/// The policies file, read and checked.
fn policies(args: &ServerArgs, counters: &Arc<Counters>) -> anyhow::Result<Arc<PolicyFile>> {
    let (path, keys) = (args.policies.clone(), args.context_keys.clone());
    let policies = PolicyFile::open(path, keys, counters.clone()).context("--policies")?;
    if args.users.is_none() && policies.current().ask_who() {
        tracing::warn!(
            "policies ask for ages or countries and there is no --users: nobody is shown such items"
        );
    }
    Ok(Arc::new(policies))
}

/// The users file, read; `None` where there is none.
async fn users(args: &ServerArgs) -> anyhow::Result<Option<Arc<Users>>> {
    let Some(path) = args.users.clone() else {
        return Ok(None);
    };
    // A large file takes a while, and others share the runtime.
    let opened = spawn_blocking(move || Users::open(&path)).await;
    let users = opened.context("--users")?.context("--users")?;
    tracing::info!(users = users.len(), "read the users file");
    Ok(Some(Arc::new(users)))
}

/// Spawns a task that is there until shutdown. Should it end before, in a panic too, the server ends:
/// half of one that still answers would be worse.
fn spawn_essential(tasks: &TaskTracker, ending: &CancellationToken, task: BoxFuture<'static, ()>) {
    let end = ending.clone().drop_guard();
    tasks.spawn(async move {
        task.await;
        drop(end);
    });
}

async fn listen(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listening = TcpListener::bind(address).await;
    listening.with_context(|| format!("cannot listen on {address}; {flag} chooses another address"))
}

/// As gRPC's health says it, with the reason.
fn is_ready(ready: watch::Receiver<bool>, shutdown: CancellationToken) -> observe::Ready {
    Arc::new(move || {
        if shutdown.is_cancelled() {
            return Err("shutting down");
        }
        match *ready.borrow() {
            true => Ok(()),
            false => Err("the tables or the catalog could not be read yet; the log says why"),
        }
    })
}

/// Tries until the tables are there and the catalog was read.
async fn load(
    store: &Store,
    catalog: &CatalogCache,
    health: &HealthReporter,
    ready: &watch::Sender<bool>,
) {
    let mut last = None;
    while let Err(error) = load_once(store, catalog).await {
        let text = format!("{error:#}");
        // One that lasts is worth one line.
        if last.as_ref() != Some(&text) {
            tracing::warn!(error = text, "not ready; trying again");
            last = Some(text);
        }
        sleep(LOAD_PAUSE.mul_f64(rand::random_range(0.8..=1.2))).await;
    }
    set_health(health, ServingStatus::Serving).await;
    ready.send_replace(true);
    tracing::info!("ready");
}

async fn load_once(store: &Store, catalog: &CatalogCache) -> anyhow::Result<()> {
    let report = timeout(LOAD_TIMEOUT, store.prepare())
        .await
        .context("the store does not answer")??;
    for table in &report.created {
        tracing::info!(table, "made a table that did not exist");
    }
    for advice in &report.advice {
        tracing::info!("{advice}");
    }
    catalog.refresh().await?;
    Ok(())
}

/// The services that have a health of their own; the empty name stands for the server as a whole.
const HEALTHY: [&str; 5] = [
    "",
    <AdminServiceServer<Admin<admin::Server>> as NamedService>::NAME,
    <ComponentServiceServer<Api> as NamedService>::NAME,
    <EventServiceServer<Api> as NamedService>::NAME,
    <FeedbackServiceServer<Api> as NamedService>::NAME,
];

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for service in HEALTHY {
        health.set_service_status(service, status).await;
    }
}

fn routes(
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
struct Serving {
    listener: TcpListener,
    routes: Routes,
    health: HealthReporter,
    counters: Arc<Counters>,
    calls: Arc<Calls>,
    auth: AuthLayer,
    tls: Option<ServerTls>,
    shutdown: CancellationToken,
}

impl Serving {
    /// Serves until shutdown, then drains: not serving, no new connections, streams end, calls have
    /// until the time to drain is over.
    async fn run(self, args: &ServerArgs) -> anyhow::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_ends_the_others() {
        let (tasks, ending) = (TaskTracker::new(), CancellationToken::new());
        spawn_essential(&tasks, &ending, ending.clone().cancelled_owned().boxed());
        spawn_essential(
            &tasks,
            &ending,
            async { panic!("as the test wants") }.boxed(),
        );
        tasks.close();
        let ended = timeout(Duration::from_secs(10), tasks.wait()).await;
        assert!(ended.is_ok() && ending.is_cancelled());
    }
}
