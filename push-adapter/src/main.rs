//! The process `touchline-push`: flags, log, signals. Everything else is in the library.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use touchline_push::{GatewayArgs, PushArgs, start, start_gateway};
use touchline_runtime::{log::LogArgs, signals};
use touchline_store::{
    Error,
    tables::{Store, StoreArgs},
};

/// Turns changes of the live-event table into personalised WebSocket messages.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    push: PushArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    log: LogArgs,
    #[cfg(feature = "ssm")]
    #[command(flatten)]
    parameters: touchline_store::parameters::ParameterArgs,
}

/// Without one of these: the push adapter, which reads the table's stream and posts to every front.
#[derive(Debug, Subcommand)]
enum Role {
    Gateway(Box<Gateway>),
}

/// A front for many fans: sessions in its memory, fed by whoever leads
///
/// It follows the push adapter that leads, which it finds by the lease's row, asks the server for
/// component sets, and writes to its own connections. Any number of them share the fans behind a load
/// balancer. It needs to read the lease table, and nothing else of DynamoDB.
#[derive(Debug, clap::Args)]
struct Gateway {
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (valid, log) = match &args.role {
        None => (args.push.validate(), args.log.clone()),
        Some(Role::Gateway(role)) => (role.gateway.validate(), role.log.clone()),
    };
    if let Err(error) = valid {
        eprintln!("touchline-push: {error}");
        return ExitCode::from(2);
    }
    log.begin();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("touchline-push: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(args: Args) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    match args.role {
        None => {
            let working = Box::pin(work(args, shutdown.clone()));
            signals::obeying(&shutdown, working).await?
        }
        Some(Role::Gateway(role)) => {
            let working = Box::pin(serve(*role, shutdown.clone()));
            signals::obeying(&shutdown, working).await?
        }
    }
}

async fn serve(role: Gateway, shutdown: CancellationToken) -> anyhow::Result<()> {
    let store = Store::connect(&role.store).await;
    let running = start_gateway(role.gateway, store, shutdown).await?;
    tracing::info!(
        fans = %running.fans_address,
        grpc = %running.grpc_address,
        metrics = %running.metrics_address,
        "started"
    );
    running.stopped().await;
    Ok(())
}

async fn work(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let store = Store::connect(&args.store).await;
    #[cfg(feature = "ssm")]
    let (region, is_flagged) = (
        args.store.aws.region.clone(),
        args.push.api_gateway_endpoint.is_some(),
    );
    let running = start(args.push, store.clone(), shutdown.clone()).await?;
    #[cfg(feature = "ssm")]
    let following = parameters::follow(
        running.api_gateway().clone(),
        args.parameters,
        region,
        is_flagged,
        shutdown.clone(),
    )
    .await;
    tracing::info!(
        grpc = %running.grpc_address,
        fans = ?running.fans_address,
        management = ?running.management_address,
        metrics = %running.metrics_address,
        "started"
    );
    let prepared = prepare(&store, &shutdown).await;
    if prepared.is_err() {
        shutdown.cancel();
    }
    running.stopped().await?;
    #[cfg(feature = "ssm")]
    following.wait().await;
    prepared
}

/// The prototype's parameters, read at start and again in the background.
#[cfg(feature = "ssm")]
mod parameters {
    use std::sync::Arc;

    use tokio_util::{sync::CancellationToken, task::TaskTracker};
    use touchline_push::connections::api_gateway::ApiGateway;
    use touchline_store::parameters::{ParameterArgs, ParameterStore, Parameters};

    /// Follows them until shutdown. A flag that is given wins, and nothing is read then.
    pub(super) async fn follow(
        api_gateway: Arc<ApiGateway>,
        args: ParameterArgs,
        region: Option<String>,
        is_flagged: bool,
        shutdown: CancellationToken,
    ) -> TaskTracker {
        let tasks = TaskTracker::new();
        let parameters = ParameterStore::connect(&args, region.as_deref()).await;
        if let Some(parameters) = parameters.filter(|_| !is_flagged) {
            let following = async move {
                let mut following = parameters.follow(args.ssm_refresh, Parameters::default());
                let mut known = None;
                loop {
                    let endpoint = following.changed().await.api_gateway_endpoint();
                    if endpoint != known {
                        tracing::info!(?endpoint, "API Gateway's endpoint, by its parameters");
                        api_gateway.move_default(endpoint.as_deref());
                        known = endpoint;
                    }
                }
            };
            tasks.spawn(shutdown.run_until_cancelled_owned(following));
        }
        tasks.close();
        tasks
    }
}

/// Makes or verifies the tables. A store that is not there yet is waited for: the parts of Touchline
/// start in any order.
async fn prepare(store: &Store, shutdown: &CancellationToken) -> anyhow::Result<()> {
    loop {
        let prepared = tokio::select! {
            prepared = store.prepare() => prepared,
            () = shutdown.cancelled() => return Ok(()),
        };
        match prepared {
            Ok(report) => {
                for table in report.created {
                    tracing::info!(table, "created a table");
                }
                for advice in report.advice {
                    tracing::warn!("{advice}");
                }
                return Ok(());
            }
            Err(error @ (Error::Unavailable(_) | Error::Throttled(_) | Error::Conflict(_))) => {
                tracing::warn!(%error, "the tables cannot be looked at yet");
            }
            Err(error) => return Err(error).context("the tables cannot be used"),
        }
        tokio::select! {
            () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}
