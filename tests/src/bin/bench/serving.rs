//! What serving costs beside the bare thing: cached GetComponents and WatchEvent against a tonic
//! server that does nothing but send equal bytes, and the prototype's loop against a push.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{ValueEnum, builder::RangedU64ValueParser};

use self::{
    bare::Bare,
    script::Script,
    tally::Tally,
    touchline::{MATCH_EVENTS, Touchline},
};
use crate::{
    change,
    figures::{self, Figure},
    system::DEADLINE,
};

pub(crate) mod bare;
mod calls;
mod raw;
mod script;
mod tally;
mod touchline;
mod watch;

/// What a run may take beside its slices: starts, and filling the cache.
const SET_UP_MAX: Duration = Duration::from_secs(120);

/// touchline-server beside a bare tonic server: one that has no layer around its calls, decodes the
/// same request message and sends, from memory and already encoded, the bytes that touchline-server
/// answered. Both are processes of their own, on loopback; slices of equal length alternate between
/// them, after an A/A pair that shows how far apart two figures stand of which neither is better.
///
/// get_components_cached: callers who each have one call under way, spread over a few connections, ask
/// for consumers whose ranking is in the cache; states come over the change feed of a real
/// touchline-push. The figure is calls for each second of processor time that the server process used,
/// so its ratio is the bare server's time of a call over touchline-server's.
///
/// watch_event: as many WatchEvent streams, a consumer each, on either server. The match changes at a
/// fixed pace (a row of the table for touchline-server, a line on standard input for the bare one), and
/// a change is over when every stream has its message. The figure is messages for each second of the
/// server's processor time.
///
/// last_push_N: from a change to the last of N fans, beside the prototype's loop over as many sessions,
/// as `bench change` measures both. With more than 1,000 fans the loop is left out: it would take
/// minutes, and grows with the number of sessions.
///
/// Every answer is decoded and compared with the one that this consumer had in this state, whoever
/// sent it; a difference in anything but age and position fails the run.
///
/// With the defaults it takes about three minutes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON, one object a figure, and the table to standard error
    #[arg(long)]
    json: bool,
    /// Which of them, separated by commas
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_values_t = [Part::GetComponentsCached, Part::WatchEvent, Part::LastPush]
    )]
    only: Vec<Part>,
    /// Slices of each server; the A/A pair takes half as many of each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=100))]
    slices: u32,
    /// Length of a slice of calls, in milliseconds
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=10_000))]
    slice_ms: u64,
    /// Connections of callers and of streams
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
    /// WatchEvent streams on each server
    #[arg(
        long,
        default_value_t = 500,
        value_name = "COUNT",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=4_000)
    )]
    streams: usize,
    /// Changes of a slice of streams
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=400))]
    changes: u32,
    /// From one change to the next at least, in milliseconds
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    interval_ms: u64,
    /// How many fans last_push is measured with, separated by commas
    #[arg(
        long,
        value_name = "COUNT",
        value_delimiter = ',',
        default_values_t = [10, 100, 1_000, 10_000],
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000)
    )]
    fans: Vec<usize>,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Part {
    /// Cached GetComponents.
    GetComponentsCached,
    /// Streams of changes.
    WatchEvent,
    /// From a change to the last fan.
    LastPush,
}

impl std::fmt::Display for Part {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value();
        formatter.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

impl Args {
    /// A run that takes longer is stuck.
    pub(crate) fn run_max(&self) -> Duration {
        let slices = 3 * self.slices;
        let calls = Duration::from_millis(self.slice_ms) * slices;
        let changes = (Duration::from_millis(self.interval_ms) * self.changes * slices) * 4;
        let pushes = change::last_push_max(&self.fans);
        SET_UP_MAX + calls + changes + pushes + DEADLINE
    }

    fn has(&self, part: Part) -> bool {
        self.only.contains(&part)
    }
}

/// Runs the benchmark and prints its figures.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut figures = Vec::new();
    if args.has(Part::GetComponentsCached) || args.has(Part::WatchEvent) {
        let touchline = Touchline::start().await?;
        let measured = Box::pin(serve(&args, &touchline)).await;
        if measured.is_err() {
            eprint!("{}", touchline.logs());
        }
        figures = measured?;
    }
    if args.has(Part::LastPush) {
        for &fans in &args.fans {
            figures.extend(change::last_push(fans).await?);
        }
    }
    if args.json {
        figures::print_json(&figures)?;
        eprint!("{}", figures::table(&figures));
    } else {
        print!("{}", figures::table(&figures));
    }
    Ok(())
}

async fn serve(args: &Args, touchline: &Touchline) -> Result<Vec<Figure>> {
    let consumers = match args.has(Part::WatchEvent) {
        true => args.streams.max(calls::CONSUMERS),
        false => calls::CONSUMERS,
    };
    let consumers: Vec<_> = (1..=consumers)
        .map(|number| format!("fan-{number:04}"))
        .collect();
    eprintln!("{} consumers in the cache", consumers.len());
    touchline.warm(&consumers).await?;
    let mut script = Script::new(&consumers);
    let mut figures = Vec::new();
    if args.has(Part::GetComponentsCached) {
        calls::record(touchline, &mut script).await?;
        let bare = Bare::start(&script).await?;
        let load = calls::Load::new(args.connections, args.callers, &script)?;
        let slice = Duration::from_millis(args.slice_ms);
        let (ours, bares) = (load.on(touchline.url())?, load.on(bare.url())?);
        eprintln!("get_components_cached");
        // What is warm after a slice was not before the first.
        ours.slice(slice, &touchline.server).await?;
        bares.slice(slice, &bare).await?;
        let [mut same, mut again, mut touchlines, mut baseline] = [const { Tally::new() }; 4];
        for _ in 0..args.slices.div_ceil(2) {
            same.add(ours.slice(slice, &touchline.server).await?);
            again.add(ours.slice(slice, &touchline.server).await?);
        }
        for _ in 0..args.slices {
            touchlines.add(ours.slice(slice, &touchline.server).await?);
            baseline.add(bares.slice(slice, &bare).await?);
        }
        let name = "get_components_cached";
        figures.push(again.a_cpu_second(format!("A/A: {name}"), "calls/CPU s", &same));
        figures.push(touchlines.a_cpu_second(name, "calls/CPU s", &baseline));
        figures.push(touchlines.a_second(format!("{name}, rate"), "calls/s", &baseline));
        figures.extend(touchlines.quantiles(name, &baseline));
    }
    if args.has(Part::WatchEvent) {
        figures.extend(watch_event(args, touchline, &mut script).await?);
    }
    Ok(figures)
}

async fn watch_event(
    args: &Args,
    touchline: &Touchline,
    script: &mut Script,
) -> Result<Vec<Figure>> {
    let name = "watch_event";
    eprintln!("{name}");
    let mut ours = watch::Streams::open(touchline.url(), args, script).await?;
    watch::record(touchline, &mut ours, script).await?;
    let mut bare = Bare::start(script).await?;
    let mut bares = watch::Streams::open(bare.url(), args, script).await?;
    let [mut same, mut again, mut touchlines, mut baseline] = [const { Tally::new() }; 4];
    let mut touchline = touchline;
    for _ in 0..args.slices.div_ceil(2) {
        same.add(ours.slice(args, script, &mut touchline).await?);
        again.add(ours.slice(args, script, &mut touchline).await?);
    }
    for _ in 0..args.slices {
        touchlines.add(ours.slice(args, script, &mut touchline).await?);
        baseline.add(bares.slice(args, script, &mut bare).await?);
    }
    let first_to_last = format!("{name}, first stream to last");
    let mut figures = vec![
        again.a_cpu_second(format!("A/A: {name}"), "messages/CPU s", &same),
        touchlines.a_cpu_second(name, "messages/CPU s", &baseline),
    ];
    figures.extend(touchlines.quantiles(&first_to_last, &baseline));
    Ok(figures)
}

/// The number of the state in which something happens in the match.
fn state_number(match_event: &str) -> Result<usize> {
    let mut events = MATCH_EVENTS.iter();
    let number = events.position(|event| *event == match_event);
    number.with_context(|| format!("nobody wrote {match_event:?}"))
}
