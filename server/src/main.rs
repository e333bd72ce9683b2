//! The process `touchline-server`: flags, log, signals. Everything else is the library's.

use std::process::ExitCode;

use clap::Parser;
use tokio_util::sync::CancellationToken;
use touchline_runtime::{log::LogArgs, signals};
use touchline_server::{ServerArgs, start};
use touchline_store::tables::{Store, StoreArgs};

/// The gRPC recommendation service of Touchline
#[derive(Debug, Parser)]
#[command(name = "touchline-server", version)]
struct Command {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    let Command { server, store, log } = Command::parse();
    if let Err(error) = server.validate() {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    log.begin();
    match serve(server, &store) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(server: ServerArgs, store: &StoreArgs) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let serving = async {
        let store = Store::connect(store).await;
        let running = start(server, store, shutdown.clone()).await?;
        running.stopped().await
    };
    signals::obeying(&shutdown, Box::pin(serving)).await?
}
