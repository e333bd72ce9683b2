//! Two gateways that are restarted and killed, one after the other, while fans watch: what fans notice of
//! it, counted by the fans, who are well-behaved clients. All are processes of their own; nothing here
//! looks inside one.

use std::time::Duration;

use anyhow::Result;
use clap::builder::RangedU64ValueParser;

use self::{
    conduct::{Measured, Noticed, conduct},
    crowd::Crowd,
    fronts::{Fronts, How},
};
use super::{
    balance::{self, Counted},
    site::{Front, Site},
};
use crate::{
    figures::{self, Figure, Latencies},
    system::DEADLINE,
};

mod conduct;
pub(super) mod crowd;
mod fronts;

/// One fan in so many speaks protocol 1.
const FIRST_EVERY: usize = 10;

/// Gateways that are restarted and killed, and what fans notice of it
///
/// Two gateways behind a load balancer hold the fans' connections while the match changes. In each round
/// the fans are spread evenly, and first one gateway and then the other gets SIGTERM, is waited for and
/// started again at the same port; in as many more rounds they are killed with -9. One of two therefore
/// holds half of the crowd, the other all of it. The load balancer sends fans to the gateways in turn,
/// and looks at their readiness four times a second.
///
/// Fans do what docs/websocket.md says of coming back, one in ten with protocol 1. After each restart all
/// of them have to show the newest state, and then a change has to reach all of them, once. A message
/// that is another consumer's, comes twice or is older than one before it on its connection fails the
/// run, and so does a connection that is lost at the gateway that nobody stopped, a fan who was not told
/// when to come back by one that drains, a drain in which nobody is served, and counters of a gateway
/// that do not add up with what its fans have received.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON, one object a figure, and the table to standard error
    #[arg(long)]
    json: bool,
    /// How many fans, at both gateways
    #[arg(
        long,
        default_value_t = 5_000,
        value_name = "COUNT",
        value_parser = RangedU64ValueParser::<usize>::new().range(20..=15_000)
    )]
    fans: usize,
    /// How often both gateways are restarted, and how often they are killed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// From one change to the next at least, in milliseconds; it waits until somebody has the one before
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(50..=10_000))]
    interval_ms: u64,
    /// The gateways' --drain-timeout, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=300))]
    drain_seconds: u64,
}

impl Args {
    /// A run that takes longer is stuck.
    pub(crate) fn run_max(&self) -> Duration {
        4 * DEADLINE + 2 * self.rounds * (3 * self.drain() + 4 * DEADLINE)
    }

    fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }
}

/// Runs the benchmark and prints its figures.
pub(crate) async fn run(args: Args) -> Result<()> {
    let site = Site::start(Front::Gateway).await?;
    let consumers: Vec<String> = (0..args.fans).map(|fan| format!("fan-{fan:05}")).collect();
    let book = site.book(&consumers).await?;
    let mut fronts = Fronts::start(&site, args.drain()).await?;
    let (crowd, mut voice) = Crowd::start(fronts.addresses, book.path(), FIRST_EVERY)?;
    let conducting = conduct(&args, &site, &mut fronts, &crowd);
    let measured = tokio::select! {
        biased;
        heard = crowd.hear(&mut voice) => match heard {
            Ok(never) => match never {},
            Err(error) => Err(error),
        },
        measured = conducting => measured,
    };
    if measured.is_err() {
        eprint!("{}{}", site.logs(), fronts.logs());
    }
    let figures = figures(&measured?);
    if args.json {
        figures::print_json(&figures)?;
        eprint!("{}", figures::table(&figures));
    } else {
        print!("{}", figures::table(&figures));
    }
    Ok(())
}

fn figures(measured: &Measured) -> Vec<Figure> {
    let mut figures = Vec::new();
    for how in [How::Restart, How::Kill] {
        let noticed = measured.noticed.iter();
        let noticed: Vec<&Noticed> = noticed.filter(|noticed| noticed.how == how).collect();
        figures.extend(of(how, &noticed));
    }
    let sum = |of: fn(&Counted) -> u64| {
        measured
            .counted
            .iter()
            .map(|(counted, _)| of(counted))
            .sum()
    };
    let counted = Counted {
        offered: sum(|counted| counted.offered),
        delivered: sum(|counted| counted.delivered),
        conflated: sum(|counted| counted.conflated),
        stale: sum(|counted| counted.stale),
        closed: sum(|counted| counted.closed),
    };
    let received = measured.counted.iter().map(|(_, received)| received).sum();
    figures.extend(balance::figures("at rest", counted, received));
    figures.push(count("changes", measured.changes.into(), 1));
    figures
}

/// What fans noticed of one way to stop gateways.
fn of(how: How, noticed: &[&Noticed]) -> Vec<Figure> {
    let name = how.name();
    let reports = || noticed.iter().map(|noticed| &noticed.report);
    let sum = |what: &str, of: fn(&crowd::Report) -> u64| {
        count(
            &format!("{name}: {what}"),
            reports().map(of).sum(),
            noticed.len(),
        )
    };
    let times = |what: &str, of: fn(&crowd::Report) -> &[u64]| {
        let mut latencies = Latencies::new();
        for &each in reports().flat_map(of) {
            latencies.record(Duration::from_micros(each));
        }
        [0.5, 0.99].map(|part| Figure::quantile(&format!("{name}: {what}"), &latencies, part))
    };
    let ended: Vec<f64> = noticed
        .iter()
        .map(|noticed| noticed.ended.as_secs_f64() * 1e3)
        .collect();
    let mean = ended.iter().sum::<f64>() / ended.len() as f64;
    let mut figures = vec![sum("connections that are lost", |report| report.lost)];
    figures.extend(times("without a connection", |report| &report.away_us));
    figures.extend(times("until the newest is shown", |report| {
        &report.behind_us
    }));
    figures.extend(times("of that connected", |report| &report.welcome_us));
    figures.push(sum("attempts that fail", |report| report.failed));
    figures.push(sum("messages of what is shown", |report| report.repeats));
    figures.push(sum("messages of what is older", |report| report.older));
    if how == How::Restart {
        let drain = format!("{name}: drain of a gateway");
        figures.push(Figure::one(drain, mean, "ms", noticed.len() as u64).within(&ended));
        figures.push(sum("messages during a drain", |report| report.served));
    }
    figures
}

fn count(name: &str, count: u64, of: usize) -> Figure {
    Figure::one(name, count as f64, "", of as u64)
}
