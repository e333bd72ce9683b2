//! Touchline's benchmarks. Each runs the system as processes of their own, as a user starts them,
//! and judges nothing: what is fast enough is said by who reads the figures.

mod change;
mod dynamodb;
mod figures;
mod gateway;
mod load;
mod personalize;
mod prototype;
mod service;
mod serving;
mod system;
mod takeover;
mod tally;
mod telemetry;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Measures Touchline on this machine.
///
/// Each benchmark prints its figures: value, spread, number of samples and, where there is one, the
/// baseline that was measured in the same run, with the ratio of the two (value over baseline: below
/// 1 is less than the baseline). Touchline's binaries are taken from beside this one; build all of
/// them with the same profile first:
///
///     cargo build --release
#[derive(Debug, Parser)]
#[command(name = "bench", verbatim_doc_comment)]
struct Args {
    #[command(subcommand)]
    name: Name,
}

#[derive(Debug, Subcommand)]
// What a benchmark's own arguments say of it is its help, here and at `--help`.
enum Name {
    Change(change::Args),
    Serving(serving::Args),
    Personalize(personalize::Args),
    Takeover(takeover::Args),
    Gateway(gateway::Args),
    Restart(gateway::restart::Args),
    Telemetry(telemetry::Args),
    /// The fans of a measurement, in a process of their own
    #[command(hide = true)]
    Load(load::Args),
    /// Fans who keep account of what they are shown, in a process of their own
    #[command(hide = true)]
    Fans(takeover::fans::Args),
    /// A server that does nothing but send what it is given, in a process of its own
    #[command(hide = true)]
    Bare(serving::bare::Args),
    /// Fans who hold each message against what they have to be shown, in a process of their own
    #[command(hide = true)]
    Crowd(gateway::fans::Args),
    /// Fans who come back when their connection is lost, in a process of their own
    #[command(hide = true)]
    Rovers(gateway::fans::roving::Args),
    /// A WebSocket server that does nothing but send what it is given, in a process of its own
    #[command(hide = true)]
    BareFront,
    /// A DynamoDB, in a process of its own
    #[command(hide = true)]
    DynamoDb,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Args::parse().name {
        Name::Change(args) => Box::pin(within(args.run_max(), change::run(args))).await,
        Name::Serving(args) => Box::pin(within(args.run_max(), serving::run(args))).await,
        Name::Personalize(args) => Box::pin(within(args.run_max(), personalize::run(args))).await,
        Name::Takeover(args) => Box::pin(within(args.run_max(), takeover::run(args))).await,
        Name::Gateway(args) => Box::pin(within(args.run_max(), gateway::run(args))).await,
        Name::Restart(args) => Box::pin(within(args.run_max(), gateway::restart::run(args))).await,
        Name::Telemetry(args) => Box::pin(within(args.run_max(), telemetry::run(args))).await,
        Name::Load(args) => load::run(args).await,
        Name::Fans(args) => takeover::fans::run(args).await,
        Name::Bare(args) => serving::bare::run(args).await,
        Name::Crowd(args) => gateway::fans::run(args),
        Name::Rovers(args) => gateway::fans::roving::run(args),
        Name::BareFront => gateway::bare::run().await,
        Name::DynamoDb => dynamodb::run().await,
    }
}

/// Runs a benchmark, which is left by dropping it, so that no process stays behind.
async fn within(run_max: Duration, run: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        done = tokio::time::timeout(run_max, run) => {
            done.with_context(|| format!("not done after {run_max:?}"))?
        }
        () = told_to_end() => bail!("told to end"),
    }
}

/// Waits for Ctrl-C or a request to terminate.
async fn told_to_end() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
