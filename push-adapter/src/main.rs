//! The process around the push adapter: flags, logs, signals. Everything else is in the library.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use touchline_push::{PushArgs, start};
use touchline_store::{
    Error,
    tables::{Store, StoreArgs},
};
use tracing_subscriber::EnvFilter;

/// Turns changes of the live-event table into personalised WebSocket messages.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    push: PushArgs,
    #[command(flatten)]
    store: StoreArgs,
    /// What is logged, such as info or touchline_push=debug
    #[arg(
        long,
        env = "TOUCHLINE_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    log: String,
    /// How it is logged
    #[arg(
        long,
        env = "TOUCHLINE_LOG_FORMAT",
        value_enum,
        default_value = "text",
        value_name = "FORMAT"
    )]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    /// Lines for people
    Text,
    /// A JSON object a line
    Json,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("touchline-push: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    args.push.validate()?;
    log(&args)?;
    let shutdown = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be handled")?;
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be handled")?;
    let working = work(args, shutdown.clone());
    tokio::pin!(working);
    let mut signals = 0;
    loop {
        tokio::select! {
            result = &mut working => return result,
            _ = interrupt.recv() => signals += 1,
            _ = terminate.recv() => signals += 1,
        }
        if signals > 1 {
            tracing::warn!("a second signal: exiting at once");
            std::process::exit(130);
        }
        tracing::info!("shutting down");
        shutdown.cancel();
    }
}

async fn work(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let store = Store::connect(&args.store).await;
    let running = start(args.push, store.clone(), shutdown.clone()).await?;
    tracing::info!(
        grpc = %running.grpc_address,
        fans = ?running.fans_address,
        management = ?running.management_address,
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

fn log(args: &Args) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log)
        .with_context(|| format!("--log {}: a filter such as info is accepted", args.log))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}
