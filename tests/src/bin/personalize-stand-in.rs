//! The stand-in for Amazon Personalize's runtime as a process of its own, for scripts and for
//! trying `touchline-server --recommender personalize` without an AWS account.
//!
//! It checks no signatures, so it listens on loopback only.

use std::net::SocketAddr;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use touchline_tests::personalize::{Behaviour, Budget, CAMPAIGN_ARN, Fault, Latency, StandIn};

/// Speaks Amazon Personalize's GetRecommendations, slowly and unreliably where told.
///
/// While it runs: `GET` and `PATCH /stand-in/behaviour` (JSON; the members given are replaced),
/// `GET` and `DELETE /stand-in/calls`.
#[derive(Debug, Parser)]
struct Args {
    /// Address to listen on, loopback only. Port 0: a free one.
    #[arg(long, default_value = "127.0.0.1:8083")]
    listen: SocketAddr,
    /// The one campaign that exists.
    #[arg(long, default_value = CAMPAIGN_ARN)]
    campaign_arn: String,
    /// Size of the catalog ITEM_ID_1 … ITEM_ID_N.
    #[arg(long, default_value_t = 40)]
    items: u32,
    /// Median of the delay of an answer, in milliseconds.
    #[arg(long, default_value_t = 0.0)]
    latency_ms_median: f64,
    /// Spread of the delay: standard deviation of its logarithm.
    #[arg(long, default_value_t = 0.0)]
    latency_spread: f64,
    /// Seed of the delays.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Requests a second before it throttles; also the size of a burst. Default: no limit.
    #[arg(long)]
    requests_per_second: Option<f64>,
    /// What goes wrong with every request.
    #[arg(long)]
    fault: Option<Fault>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    anyhow::ensure!(
        args.listen.ip().is_loopback(),
        "--listen {} is not a loopback address",
        args.listen
    );
    let stand_in = StandIn::start(args.listen, behaviour(&args)).await?;
    println!("{}", stand_in.endpoint());
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    stand_in.stop().await
}

fn behaviour(args: &Args) -> Behaviour {
    Behaviour {
        campaign_arn: args.campaign_arn.clone(),
        items: (1..=args.items)
            .map(|number| format!("ITEM_ID_{number}"))
            .collect(),
        latency: Latency {
            median_ms: args.latency_ms_median,
            spread: args.latency_spread,
            seed: args.seed,
            ..Latency::default()
        },
        budget: args.requests_per_second.map(|per_second| Budget {
            per_second,
            burst: per_second.max(1.0),
        }),
        fault: args.fault,
        ..Behaviour::default()
    }
}
