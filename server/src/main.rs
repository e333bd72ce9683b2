//! The process `touchline-server`: flags, log, signals. Everything else is the library's.

use std::process::ExitCode;

use clap::Parser;
use tokio_util::sync::CancellationToken;
use touchline_runtime::{log::LogArgs, signals};
use touchline_server::{Running, ServerArgs, start};
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
    let (command, parameters) = match parameters::parse() {
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
    let follow = async |_: &Running| std::future::pending().await;
    #[cfg(feature = "ssm")]
    let follow = async |running: &Running| parameters.follow(running).await;
    match serve(server, &store, follow) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until a signal, or until something that has to be there ends; `follow` never does before.
#[tokio::main]
async fn serve(
    server: ServerArgs,
    store: &StoreArgs,
    follow: impl AsyncFnOnce(&Running),
) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let serving = async {
        let store = Store::connect(store).await;
        let running = start(server, store, shutdown.clone()).await?;
        tokio::select! {
            () = running.ending() => {}
            () = follow(&running) => {}
        }
        running.stopped().await
    };
    signals::obeying(&shutdown, Box::pin(serving)).await?
}

/// The prototype's parameters: read before anything else, since a campaign may be needed to start, and
/// again while the server runs.
#[cfg(feature = "ssm")]
mod parameters {
    use anyhow::Context as _;
    use clap::{CommandFactory, FromArgMatches, parser::ValueSource};
    use touchline_server::{Running, ServerArgs, config::RecommenderKind};
    use touchline_store::parameters::{ParameterArgs, ParameterStore, Parameters};

    use super::Command;

    /// Where they are read, and what they change.
    pub(super) struct Following {
        args: ParameterArgs,
        region: Option<String>,
        /// What the flags say.
        flags: ServerArgs,
        /// Whether a flag says how many results there are; a default does not.
        has_num_results: bool,
        /// What a server was started with.
        known: Parameters,
    }

    /// The flags, with what the parameters say where a flag is not given; and the reading that goes on.
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn parse() -> anyhow::Result<(Command, Following)> {
        let matches = Command::command().get_matches();
        let mut command = Command::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        let source = matches.value_source("num_results");
        let mut following = Following {
            args: command.parameters.clone(),
            region: command.store.aws.region.clone(),
            flags: command.server.clone(),
            has_num_results: source != Some(ValueSource::DefaultValue),
            known: Parameters::default(),
        };
        if let Some(store) = following.store().await {
            match store.read().await {
                Ok(read) => following.known = read,
                // They may come later; whoever needs one now can do nothing without it.
                Err(_) if command.server.validate().is_ok() => {}
                Err(error) => return Err(error).context("the parameters cannot be read"),
            }
        }
        command.server = following.server_args(&following.known)?;
        Ok((command, following))
    }

    impl Following {
        /// Reads them again and again; what they say takes effect at once.
        pub(super) async fn follow(&self, running: &Running) {
            let Some(store) = self.store().await else {
                return std::future::pending().await;
            };
            let mut following = store.follow(self.args.ssm_refresh, self.known.clone());
            loop {
                let changed = match self.server_args(following.changed().await) {
                    Ok(args) => running.ask_as(&args).await.map_err(anyhow::Error::from),
                    Err(error) => Err(error),
                };
                if let Err(error) = changed {
                    tracing::warn!(%error, "the parameters cannot be used; nothing changes");
                }
            }
        }

        /// A client of this runtime; `None` where they change nothing.
        async fn store(&self) -> Option<ParameterStore> {
            if self.flags.recommender != RecommenderKind::Personalize {
                return None;
            }
            ParameterStore::connect(&self.args, self.region.as_deref()).await
        }

        /// The flags, and what the parameters say where there is none.
        fn server_args(&self, parameters: &Parameters) -> anyhow::Result<ServerArgs> {
            let mut args = self.flags.clone();
            if let Some(num_results) = &parameters.num_results
                && !self.has_num_results
            {
                let parsed = num_results.parse();
                args.num_results = parsed
                    .map_err(|error| anyhow::anyhow!("num_results {num_results}: {error}"))?;
            }
            let serving = &args.serving;
            let is_named = args.campaign_arn.is_some()
                || serving.recommender_arn.is_some()
                || serving.campaign_file.is_some();
            // The region is its campaign's: that of a flag is in its ARN.
            if !is_named {
                args.campaign_arn.clone_from(&parameters.campaign_arn);
                args.personalize_region = args
                    .personalize_region
                    .or_else(|| parameters.region.clone());
            }
            Ok(args)
        }
    }
}
