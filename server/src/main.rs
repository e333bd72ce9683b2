//! The process `touchline-server`: flags, log, signals. Everything else is the library's.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use touchline_server::{ServerArgs, start};
use touchline_store::tables::{Store, StoreArgs};
use tracing_subscriber::EnvFilter;

/// The gRPC recommendation service of Touchline
#[derive(Debug, Parser)]
#[command(name = "touchline-server", version)]
struct Command {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    store: StoreArgs,
    /// How the log is written, to standard error
    #[arg(long, env = "TOUCHLINE_LOG_FORMAT", default_value = "text", value_enum)]
    log_format: LogFormat,
    /// What is logged, such as info or touchline_server=debug
    #[arg(
        long,
        env = "TOUCHLINE_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    log: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For a person
    Text,
    /// One object a line
    Json,
}

fn main() -> ExitCode {
    let command = Command::parse();
    let checked = command.server.validate().map_err(anyhow::Error::from);
    if let Err(error) = checked.and_then(|()| log(&command)) {
        eprintln!("error: {error:#}");
        return ExitCode::from(2);
    }
    match serve(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log(command: &Command) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&command.log).with_context(|| {
        let value = &command.log;
        format!("--log {value}: a level or a list such as info,touchline_server=debug is accepted")
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match command.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

#[tokio::main]
async fn serve(command: Command) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let mut signals = Signals::new()?;
    let store = Store::connect(&command.store).await;
    let running = start(command.server, store, shutdown.clone()).await?;
    let mut stopped = std::pin::pin!(running.stopped());
    tokio::select! {
        stopped = &mut stopped => return stopped,
        () = signals.next() => {}
    }
    tracing::info!("shutting down; a second signal exits at once");
    shutdown.cancel();
    tokio::select! {
        stopped = stopped => stopped,
        () = signals.next() => anyhow::bail!("told twice to stop"),
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
