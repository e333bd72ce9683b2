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
    #[cfg(feature = "ssm")]
    #[command(flatten)]
    parameters: touchline_store::parameters::ParameterArgs,
}

fn main() -> ExitCode {
    #[cfg(not(feature = "ssm"))]
    let command = Command::parse();
    #[cfg(feature = "ssm")]
    let (command, reread) = match parameters::parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("error: --ssm-prefix: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let Command {
        server, store, log, ..
    } = command;
    if let Err(error) = server.validate() {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    log.begin();
    #[cfg(not(feature = "ssm"))]
    let reread = std::future::pending::<()>();
    match serve(server, &store, reread) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(
    server: ServerArgs,
    store: &StoreArgs,
    reread: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let serving = async {
        let store = Store::connect(store).await;
        let running = start(server, store, shutdown.clone()).await?;
        let stopped = std::pin::pin!(running.stopped());
        tokio::select! {
            stopped = stopped => stopped,
            // It never ends before.
            () = reread => Ok(()),
        }
    };
    signals::obeying(&shutdown, Box::pin(serving)).await?
}

/// The prototype's parameters: read before anything else, since a campaign may be needed to start. They
/// are read again in the background; what a running server was started with stays, and it says so.
#[cfg(feature = "ssm")]
mod parameters {
    use anyhow::Context as _;
    use clap::{CommandFactory, FromArgMatches, parser::ValueSource};
    use touchline_server::config::RecommenderKind;
    use touchline_store::parameters::{ParameterStore, Parameters};

    use super::Command;

    /// The flags, with what the parameters say where a flag is not given; and the reading that goes on.
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn parse() -> anyhow::Result<(Command, impl Future<Output = ()>)> {
        let matches = Command::command().get_matches();
        let mut command = Command::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        let region = command.store.aws.region.as_deref();
        let store = ParameterStore::connect(&command.parameters, region).await;
        let store = store.filter(|_| command.server.recommender == RecommenderKind::Personalize);
        let mut known = Parameters::default();
        if let Some(store) = &store {
            known = store
                .read()
                .await
                .context("the parameters cannot be read")?;
            let server = &mut command.server;
            let is_default = |id| matches.value_source(id) == Some(ValueSource::DefaultValue);
            if let Some(num_results) = known
                .num_results
                .as_ref()
                .filter(|_| is_default("num_results"))
            {
                let parsed = num_results.parse();
                server.num_results = parsed
                    .map_err(|error| anyhow::anyhow!("num_results {num_results}: {error}"))?;
            }
            // Without its own region a campaign's ARN names it.
            if server.campaign_arn.is_none() {
                server.campaign_arn.clone_from(&known.campaign_arn);
                let region = known.region.clone();
                server.personalize_region = server.personalize_region.take().or(region);
            }
        }
        let pause = command.parameters.ssm_refresh;
        let reread = async move {
            let Some(store) = store else {
                return std::future::pending().await;
            };
            loop {
                tokio::time::sleep(pause).await;
                match store.read().await {
                    Ok(read) if read != known => {
                        tracing::warn!(
                            "the parameters have changed: they take effect at the next start"
                        );
                        known = read;
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "the parameters cannot be read"),
                }
            }
        };
        Ok((command, reread))
    }
}
