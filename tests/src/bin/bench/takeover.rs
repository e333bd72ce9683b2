//! Leaders that are killed, one after the other, while fans watch: what fans notice of it, counted by
//! the fans. Three push adapters as processes of their own; nothing here looks inside one.

use std::time::Duration;

use anyhow::Result;
use clap::builder::RangedU64ValueParser;
use tokio::sync::watch;

use self::{
    cluster::Cluster,
    conduct::{Kill, Measured, conduct},
    game::Game,
    record::{Fans, Record},
};
use crate::{
    figures::{self, Figure, Latencies},
    system::DEADLINE,
};

mod account;
mod cluster;
mod conduct;
pub(crate) mod fans;
mod game;
mod record;
mod spelling;

/// The event whose changes are pushed.
const EVENT: &str = "1";

/// How long the control takes, before the first kill.
const CONTROL: Duration = Duration::from_secs(5);

/// Leaders that are killed, and what fans notice of it
///
/// The leader of three push adapters is killed with -9, and the next one as soon as all fans and the
/// server have heard of it, two seconds after the last at the earliest; a killed one is started again
/// before the next is killed. Meanwhile the match changes, and half of the fans speak protocol 1 and
/// half protocol 2. One kill in three falls into the fan-out of a state after which the match rests.
///
/// Every state has a number, and the sets of this run's catalog spell it. A fan who is shown an older
/// state after a newer one fails the run, whatever its protocol; so does, for protocol 2, a position
/// that goes back in its epoch, or a repeat with another set; so does a fan who does not end on the
/// newest state, or is shown one twice without a kill between.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON, one object a figure, and the table to standard error
    #[arg(long)]
    json: bool,
    /// How long leaders are killed, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=300))]
    seconds: u64,
    /// How many fans watch; half of them speak protocol 2
    #[arg(
        long,
        default_value_t = 500,
        value_name = "COUNT",
        value_parser = RangedU64ValueParser::<usize>::new().range(2..=5_000)
    )]
    fans: usize,
    /// From one change to the next, in milliseconds
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(50..=1_000))]
    interval_ms: u64,
}

impl Args {
    /// A run that takes longer is stuck.
    pub(crate) fn run_max(&self) -> Duration {
        CONTROL + Duration::from_secs(self.seconds) + 4 * DEADLINE
    }
}

/// Runs the benchmark and prints its figures.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let measured = Box::pin(measure(&args, &mut cluster)).await;
    if measured.is_err() {
        eprint!("{}", cluster.logs());
    }
    let figures = measured?;
    if args.json {
        figures::print_json(&figures)?;
        eprint!("{}", figures::table(&figures));
    } else {
        print!("{}", figures::table(&figures));
    }
    Ok(())
}

async fn measure(args: &Args, cluster: &mut Cluster) -> Result<Vec<Figure>> {
    let game = Game::begin(cluster.store()).await?;
    let client = cluster.client()?;
    let record = watch::Sender::new(Record::default());
    let mut fans = Fans::start(cluster.gateway(), args.fans)?;
    let conducting = conduct(args, cluster, &game, &record);
    let measured = tokio::select! {
        biased;
        measured = conducting => measured?,
        heard = fans.hear(&record) => match heard? {},
        seen = record::watch(&client, EVENT, &record) => match seen? {},
    };
    let record = record.borrow();
    record.check_repeats(&measured.killed_unix_ns())?;
    Ok(figures(&measured, &record))
}

fn figures(measured: &Measured, record: &Record) -> Vec<Figure> {
    let since_kill = |name, moment: fn(&Kill) -> u64| {
        let kills = measured.kills.iter();
        let latencies = latencies(kills.map(|kill| (kill.unix_ns, moment(kill))));
        Figure::quantile(name, &latencies, 0.5)
    };
    let cuts = measured.cuts.iter();
    let cuts = latencies(cuts.map(|cut| (cut.unix_ns, cut.all_unix_ns)));
    let control = measured.control.windows(2);
    let control = latencies(control.map(|two| (two[0].unix_ns, two[1].unix_ns)));
    let pushes = measured.pushes;
    let cpu = |name, cpu: Duration| {
        let cpu_us = cpu.as_micros() as f64 / pushes.max(1) as f64;
        Figure::one(name, cpu_us, "µs", pushes)
    };
    let count = |name, count: usize| Figure::one(name, count as f64, "", count as u64);
    vec![
        Figure::quantile("control, no kill: push to next push", &control, 0.5),
        since_kill("kill to next push", |kill| kill.first_unix_ns),
        since_kill("kill to last fan's next push", |kill| kill.all_unix_ns),
        Figure::quantile("kill in a fan-out to its last fan", &cuts, 0.5),
        since_kill("kill to a watcher's next state", |kill| kill.seen_unix_ns),
        since_kill("kill to its next from the feed", |kill| kill.fed_unix_ns),
        count("kills", measured.killed_unix_ns().len()),
        count("duplicates", record.repeats().count()),
        Figure::one("pushes", pushes as f64, "", pushes),
        cpu("CPU of the adapters a push", measured.cpu_of_adapters),
        cpu("CPU of the front a push", measured.cpu_of_front),
    ]
}

/// From one moment to a later one, in nanoseconds since 1970, each.
fn latencies(each: impl Iterator<Item = (u64, u64)>) -> Latencies {
    let mut latencies = Latencies::new();
    for (from, to) in each {
        latencies.record(Duration::from_nanos(to.saturating_sub(from)));
    }
    latencies
}
