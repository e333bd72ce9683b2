//! What telemetry costs: the same work with traces, scrapes and a log beside without, in one run.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{ValueEnum, builder::RangedU64ValueParser};

pub(crate) use self::observed::Observed;
use crate::{
    figures::{self, Figure},
    gateway, serving,
    system::DEADLINE,
    tally::Tally,
};

mod observed;

/// What a run may take beside its slices: starts, and filling three caches.
const SET_UP_MAX: Duration = Duration::from_secs(300);

/// What telemetry costs: the same work with it beside without
///
/// Three systems live at the same time, and slices of work alternate between them: one without telemetry;
/// one that sends traces to a collector in the measuring process at the default --trace-sample and whose
/// metrics are scraped each second; and the same with --trace-sample 1, where every change and every call
/// is traced. All of them log JSON. First comes an A/A pair of the one without, which shows how far apart
/// two figures stand of which neither is better.
///
/// pushes: changes of a match before the fans of a gateway, each a consumer of their own, as `bench
/// gateway` has them, messages compared and all. The figure is processor time of a push, of all processes
/// and of the gateway alone.
///
/// requests: cached GetComponents, as `bench serving` calls them, answers compared and all. The figure is
/// processor time of a call.
///
/// A run in which no trace came or no metrics were read fails.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON, one object a figure, and the table to standard error
    #[arg(long)]
    json: bool,
    /// Which of them, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_values = ["pushes", "requests"])]
    only: Vec<Part>,
    /// Slices of each system; the A/A pair takes half as many of each
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..=100))]
    slices: u32,
    /// How many fans, at each gateway
    #[arg(
        long,
        default_value_t = 1_000,
        value_name = "COUNT",
        value_parser = RangedU64ValueParser::<usize>::new().range(20..=10_000)
    )]
    fans: usize,
    /// Changes of a slice
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=400))]
    changes: u32,
    /// From one change to the next at least, in milliseconds; it waits until everybody has the one before
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    interval_ms: u64,
    /// Length of a slice of calls, in milliseconds
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=10_000))]
    slice_ms: u64,
    /// Connections of callers
    #[arg(
        long,
        default_value_t = 4,
        value_name = "COUNT",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=64)
    )]
    connections: usize,
    /// Callers of a connection, each with one call under way
    #[arg(
        long,
        default_value_t = 16,
        value_name = "COUNT",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=256)
    )]
    callers: usize,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Part {
    /// Messages to fans.
    Pushes,
    /// Cached GetComponents.
    Requests,
}

impl Args {
    /// A run that takes longer is stuck.
    pub(crate) fn run_max(&self) -> Duration {
        let slices = self.slices * 4 + 4;
        let change = Duration::from_millis(self.interval_ms).max(Duration::from_millis(500));
        SET_UP_MAX
            + change * self.changes * slices
            + Duration::from_millis(self.slice_ms) * slices
            + DEADLINE
    }
}

/// Whose slice it is, and where its figures are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// The first of the A/A pair.
    Same,
    /// The second.
    Again,
    /// Without telemetry.
    Off,
    /// With it, at the default ratio.
    On,
    /// With it, everything traced.
    Whole,
}

impl Place {
    /// Which of the three systems.
    pub(crate) fn of(self) -> usize {
        match self {
            Self::Same | Self::Again | Self::Off => 0,
            Self::On => 1,
            Self::Whole => 2,
        }
    }
}

/// The order of slices: the A/A pair first, then the three in turn, each as often first as the others.
pub(crate) fn duel(slices: u32) -> impl Iterator<Item = Place> {
    let same = (0..slices.div_ceil(2)).flat_map(|_| [Place::Same, Place::Again]);
    let three = (0..slices as usize).flat_map(|turn| {
        let mut order = [Place::Off, Place::On, Place::Whole];
        order.rotate_left(turn % 3);
        order
    });
    same.chain(three)
}

/// The figures of the five places.
pub(crate) struct Settings;

impl Settings {
    /// None yet, by [`Place`].
    pub(crate) fn tallies() -> [Tally; 5] {
        [const { Tally::new() }; 5]
    }

    /// A figure of each beside the one that it is compared with.
    pub(crate) fn figures(
        name: &str,
        [same, again, off, on, whole]: &[Tally; 5],
        figure: impl Fn(&Tally, String, &Tally) -> Figure,
    ) -> Vec<Figure> {
        vec![
            figure(again, format!("A/A: {name}"), same),
            figure(on, format!("{name}, telemetry on"), off),
            figure(whole, format!("{name}, everything traced"), off),
        ]
    }
}

/// Runs the benchmark and prints its figures.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut figures = Vec::new();
    if args.only.contains(&Part::Pushes) {
        eprintln!("pushes");
        let observed = observed().await?;
        let pace = (args.changes, Duration::from_millis(args.interval_ms));
        let of = observed.each_ref();
        let pushing = gateway::telemetry::pushes(args.fans, args.slices, pace, of);
        figures.extend(Box::pin(pushing).await?);
        figures.extend(seen("pushes", &observed)?);
    }
    if args.only.contains(&Part::Requests) {
        eprintln!("requests");
        let observed = observed().await?;
        let length = Duration::from_millis(args.slice_ms);
        let callers = (args.connections, args.callers);
        let of = observed.each_ref();
        let calling = serving::telemetry::requests(args.slices, length, callers, of);
        figures.extend(Box::pin(calling).await?);
        figures.extend(seen("requests", &observed)?);
    }
    if args.json {
        figures::print_json(&figures)?;
        eprint!("{}", figures::table(&figures));
    } else {
        print!("{}", figures::table(&figures));
    }
    Ok(())
}

async fn observed() -> Result<[Observed; 3]> {
    Ok([
        Observed::not(),
        Observed::start(None).await?,
        Observed::start(Some("1")).await?,
    ])
}

/// That telemetry was on, as figures.
fn seen(name: &str, [_, on, whole]: &[Observed; 3]) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (observed, which) in [(on, "telemetry on"), (whole, "everything traced")] {
        let (spans, scrapes) = (observed.spans(), observed.scrapes());
        ensure!(scrapes > 0, "{name}, {which}: no metrics were read");
        figures.push(Figure::one(
            format!("{name}, {which}: spans collected"),
            spans as f64,
            "spans",
            scrapes as u64,
        ));
    }
    ensure!(whole.spans() > 0, "{name}: no span came");
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_system_has_as_many_slices_and_is_first_as_often() {
        let order: Vec<_> = duel(6).collect();
        let count = |place: usize| order.iter().filter(|at| **at as usize == place).count();
        assert_eq!([0, 1, 2, 3, 4].map(count), [3, 3, 6, 6, 6]);
        let firsts = order[6..].chunks(3).map(|turn| turn[0].of());
        let mut firsts: Vec<_> = firsts.collect();
        firsts.sort_unstable();
        assert_eq!(firsts, [0, 0, 1, 1, 2, 2]);
    }
}
