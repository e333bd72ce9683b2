//! Touchline's benchmarks. Each runs the system as processes of their own, as a user starts them,
//! and judges nothing: what is fast enough is said by who reads the figures.

mod change;
mod figures;
mod load;
mod prototype;
mod system;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// No benchmark runs longer.
const RUN_MAX: Duration = Duration::from_secs(240);

/// Measures Touchline on this machine.
///
/// Each benchmark prints its figures: value, spread, number of samples and, where there is one, the
/// baseline that was measured in the same run, with the ratio of the two (value over baseline: below
/// 1 is less than the baseline). The binary `touchline` is taken from beside this one; build both
/// with the same profile first:
///
///     cargo build --release
#[derive(Debug, Parser)]
#[command(name = "bench", verbatim_doc_comment)]
struct Args {
    #[command(subcommand)]
    name: Name,
}

#[derive(Debug, Subcommand)]
enum Name {
    /// From a change of a match to the last fan's screen, and what it costs
    Change(change::Args),
    /// The fans of a measurement, in a process of their own
    #[command(hide = true)]
    Load(load::Args),
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let run = async {
        match args.name {
            Name::Change(args) => change::run(args).await,
            Name::Load(args) => load::run(args).await,
        }
    };
    tokio::time::timeout(RUN_MAX, run)
        .await
        .with_context(|| format!("not done after {RUN_MAX:?}"))?
}
