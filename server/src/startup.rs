//! A server's life: check, bind, load, serve, drain. Parses nothing and handles no signals; that is
//! for whoever starts it, a `main` or a stack of several parts in one process.

use std::{
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
use tonic_health::{ServingStatus, server::HealthReporter};
use touchline_admin::Admin;
use touchline_auth::{Verifier, caller::Caller, grpc::AuthLayer};
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
    metrics::Metrics,
    moderation::Moderation,
    policies::PolicyFile,
    recommend::personalize::{PersonalizeConfig, PersonalizeRecommender},
    service::{Api, guard},
    sets::Sets,
    users::Users,
    watch::{Change, Events},
};

mod serving;
mod sources;

use serving::Serving;
use sources::Sources;

/// Pause before tables and catalog are tried again.
const LOAD_PAUSE: Duration = Duration::from_millis(500);
/// One look at the tables takes at most this long.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);

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

/// Binds and serves until `shutdown` is cancelled, or a task that has to be there ends. Returns as soon
/// as it listens; while the store cannot be reached, health says NOT_SERVING and it is tried again.
pub async fn start(
    args: ServerArgs,
    store: Store,
    shutdown: CancellationToken,
) -> anyhow::Result<Running> {
    args.validate()?;
    let verifier = Verifier::open(&args.auth)?.map(Arc::new);
    let auth = AuthLayer::new(&args.auth, verifier, guard::needs);
    let (tls, caller) = (args.auth.server_tls()?, Caller::open(&args.caller)?);
    let (metrics, registry) = Metrics::new();
    let traces = Traces::open(&args.traces, "touchline-server", metrics.spans);
    let traces = traces.map_err(anyhow::Error::msg)?;
    let (asked, shutdown) = (shutdown.clone(), shutdown.child_token());
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
    serving::set_health(&health, ServingStatus::NotServing).await;
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
    let routes = serving::routes(api, administered, health.clone())?;
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
    serving::set_health(health, ServingStatus::Serving).await;
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
