//! The process `touchline-push`: flags, log, signals. Everything else is in the library.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use tokio_util::sync::CancellationToken;
use touchline_push::{PushArgs, start};
use touchline_runtime::{log::LogArgs, signals};
use touchline_store::{
    Error,
    tables::{Store, StoreArgs},
};

/// Turns changes of the live-event table into personalised WebSocket messages.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    push: PushArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    let Args { push, store, log } = Args::parse();
    if let Err(error) = push.validate() {
        eprintln!("touchline-push: {error}");
        return ExitCode::from(2);
    }
    log.begin();
    match run(push, store) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("touchline-push: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(push: PushArgs, store: StoreArgs) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let working = Box::pin(work(push, store, shutdown.clone()));
    signals::obeying(&shutdown, working).await?
}

async fn work(push: PushArgs, store: StoreArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let store = Store::connect(&store).await;
    let running = start(push, store.clone(), shutdown.clone()).await?;
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
    prepared
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
