//! What serving costs beside the bare thing: cached GetComponents and WatchEvent against a tonic
//! server that does nothing but send equal bytes, and the prototype's loop against a push.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{ValueEnum, builder::RangedU64ValueParser};

use self::{
    bare::{Bare, Holds},
    script::Script,
    touchline::{MATCH_EVENTS, Touchline},
};
use crate::{
    change,
    figures::{self, Figure},
    system::DEADLINE,
    tally::Tally,
};

pub(crate) mod bare;
mod calls;
mod raw;
mod script;
pub(crate) mod telemetry;
mod touchline;
mod watch;

/// What a run may take beside its slices: starts, and filling the cache.
const SET_UP_MAX: Duration = Duration::from_secs(120);

/// What serving costs beside a bare server, and a push beside the prototype's loop
///
/// touchline-server beside a bare tonic server: one that has no layer around its calls, decides nothing
/// and sends from memory, for the same request message, the bytes that touchline-server answered. There
/// are two of it: one implements the service that tonic generates and holds its answers as messages,
/// which are copied and encoded each time; the other ("encoded bytes") holds them encoded and copies
/// bytes, which is the least that tonic takes. All are processes of their own, on loopback; slices of
/// equal length alternate between them, after an A/A pair that shows how far apart two figures stand of
/// which neither is better.
///
/// get_components_cached: callers who each have one call under way, spread over a few connections, ask
/// for consumers whose ranking is in the cache; states come over the change feed of a real
/// touchline-push. The figure is calls for each second of processor time that the server process used,
/// so its ratio is the bare server's time of a call over touchline-server's.
///
/// watch_event: as many WatchEvent streams, a consumer each, on either server. The match changes at a
/// fixed pace (a row of the table for touchline-server, a line on standard input for a bare one), and
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
        default_values = ["get_components_cached", "watch_event", "last_push"]
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

impl Args {
    /// A run that takes longer is stuck.
    pub(crate) fn run_max(&self) -> Duration {
        let slices = 4 * self.slices + 4;
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
        figures.extend(get_components(args, touchline, &script).await?);
    }
    if args.has(Part::WatchEvent) {
        figures.extend(watch_event(args, touchline, &mut script).await?);
    }
    Ok(figures)
}

async fn get_components(
    args: &Args,
    touchline: &Touchline,
    script: &Script,
) -> Result<Vec<Figure>> {
    let name = "get_components_cached";
    eprintln!("{name}");
    let messages = Bare::start(script, Holds::Messages).await?;
    let bytes = Bare::start(script, Holds::Bytes).await?;
    let load = calls::Load::new(args.connections, args.callers, script)?;
    let slice = Duration::from_millis(args.slice_ms);
    let callers = load.on(touchline.url())?;
    let (of_messages, of_bytes) = (load.on(messages.url())?, load.on(bytes.url())?);
    // What is warm after a slice was not before the first.
    callers.slice(slice, &touchline.server).await?;
    of_messages.slice(slice, &messages).await?;
    of_bytes.slice(slice, &bytes).await?;
    let mut tallies = Tallies::new();
    for _ in 0..args.slices.div_ceil(2) {
        let (same, again) = &mut tallies.same;
        same.add(callers.slice(slice, &touchline.server).await?);
        again.add(callers.slice(slice, &touchline.server).await?);
    }
    for _ in 0..args.slices {
        let touchline = callers.slice(slice, &touchline.server).await?;
        tallies.touchline.add(touchline);
        tallies
            .messages
            .add(of_messages.slice(slice, &messages).await?);
        tallies.bytes.add(of_bytes.slice(slice, &bytes).await?);
    }
    let mut figures = tallies.a_cpu_second(name, "calls/CPU s");
    let rate = format!("{name}, rate");
    let Tallies {
        touchline,
        messages,
        ..
    } = tallies;
    figures.push(touchline.a_second(rate, "calls/s", &messages));
    figures.extend(touchline.quantiles(name, &messages));
    Ok(figures)
}

async fn watch_event(
    args: &Args,
    touchline: &Touchline,
    script: &mut Script,
) -> Result<Vec<Figure>> {
    let name = "watch_event";
    eprintln!("{name}");
    let mut streams = watch::Streams::open(touchline.url(), args, script).await?;
    watch::record(touchline, &mut streams, script).await?;
    let mut messages = Bare::start(script, Holds::Messages).await?;
    let mut bytes = Bare::start(script, Holds::Bytes).await?;
    let mut of_messages = watch::Streams::open(messages.url(), args, script).await?;
    let mut of_bytes = watch::Streams::open(bytes.url(), args, script).await?;
    let mut touchline = touchline;
    let mut tallies = Tallies::new();
    for _ in 0..args.slices.div_ceil(2) {
        let (same, again) = &mut tallies.same;
        same.add(streams.slice(args, script, &mut touchline).await?);
        again.add(streams.slice(args, script, &mut touchline).await?);
    }
    for _ in 0..args.slices {
        let slice = streams.slice(args, script, &mut touchline).await?;
        tallies.touchline.add(slice);
        let slice = of_messages.slice(args, script, &mut messages).await?;
        tallies.messages.add(slice);
        let slice = of_bytes.slice(args, script, &mut bytes).await?;
        tallies.bytes.add(slice);
    }
    let mut figures = tallies.a_cpu_second(name, "messages/CPU s");
    let first_to_last = format!("{name}, first stream to last");
    let Tallies {
        touchline,
        messages,
        ..
    } = tallies;
    figures.extend(touchline.quantiles(&first_to_last, &messages));
    Ok(figures)
}

/// The slices of each server.
struct Tallies {
    /// The A/A pair.
    same: (Tally, Tally),
    touchline: Tally,
    messages: Tally,
    bytes: Tally,
}

impl Tallies {
    fn new() -> Self {
        Self {
            same: (Tally::new(), Tally::new()),
            touchline: Tally::new(),
            messages: Tally::new(),
            bytes: Tally::new(),
        }
    }

    fn a_cpu_second(&self, name: &str, unit: &'static str) -> Vec<Figure> {
        let ((same, again), touchline) = (&self.same, &self.touchline);
        vec![
            again.a_cpu_second(format!("A/A: {name}"), unit, same),
            touchline.a_cpu_second(name, unit, &self.messages),
            touchline.a_cpu_second(format!("{name}, beside encoded bytes"), unit, &self.bytes),
        ]
    }
}

/// The number of the state in which something happens in the match.
fn state_number(match_event: &str) -> Result<usize> {
    let mut events = MATCH_EVENTS.iter();
    let number = events.position(|event| *event == match_event);
    number.with_context(|| format!("nobody wrote {match_event:?}"))
}
