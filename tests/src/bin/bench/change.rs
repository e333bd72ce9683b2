//! From a change of a match to the last fan's screen, and what that costs. The system, the fans and
//! this measurement are three processes; nothing here looks inside the first.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use clap::builder::RangedU64ValueParser;
use tokio::time::Instant;
use touchline_client::Client;
use touchline_tests::calls;

use crate::{
    figures::{self, Figure, Latencies},
    load::{Complete, unix_ns},
    prototype::Prototype,
    system::{self, Load, System},
};

/// What happens in the match, in turn.
const MATCH_EVENTS: [&str; 4] = ["GOAL", "PENALTY", "CORNER", "FOUL"];

/// How often the start is measured.
const STARTS: usize = 10;

/// From a change of a match to the last fan's screen, and what it costs
///
/// Changes are sent at a fixed pace, and each is timed from the moment at which it was due, also
/// when the one before it held it up. A change that some fan never saw because a newer one took its
/// place counts as conflated and is timed until every fan had the newer one; the last change must
/// reach all, or the run fails.
///
/// Beside it the prototype's way: one session after another, a new connection for each call, 20 ms
/// a recommendation and 5 ms a post.
///
/// With the defaults it takes about three and a half minutes, 75 seconds of them for the prototype's
/// way with 1,000 sessions.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON, one object a figure, and the table to standard error
    #[arg(long)]
    json: bool,
    /// How many fans watch, one measurement for each, separated by commas; at most 10,000
    #[arg(
        long,
        value_name = "COUNT",
        value_delimiter = ',',
        default_values_t = [6, 100, 1_000],
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000)
    )]
    fans: Vec<usize>,
    /// Changes of a measurement
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=400))]
    changes: u32,
    /// From one change to the next, in milliseconds
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    interval_ms: u64,
    /// Changes in the prototype's way
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// What a measurement may take beside its changes, for the start, the fans and the last change.
const MEASUREMENT_MAX: Duration = Duration::from_secs(90);

/// What a session in the prototype's way may take: four times its two calls.
const SESSION_MAX: Duration = Duration::from_millis(100);

impl Args {
    /// A run that takes longer is stuck.
    pub(crate) fn run_max(&self) -> Duration {
        let changes = Duration::from_millis(self.interval_ms) * self.changes;
        let measurements = self.fans.len() + 2;
        let sessions: usize = self.fans.iter().sum();
        let times = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        system::DEADLINE
            .saturating_add((MEASUREMENT_MAX + changes).saturating_mul(times(measurements)))
            .saturating_add((SESSION_MAX * self.rounds).saturating_mul(times(sessions)))
    }
}

/// From a change to the last of so many fans: pace and number of changes, for a measurement that
/// stands beside others.
fn last_push_args(fans: usize) -> Args {
    // A change waits for no other one's fans.
    let (changes, interval_ms) = match fans {
        0..=1_000 => (50, 100),
        _ => (15, 1_000),
    };
    Args {
        json: false,
        fans: vec![fans],
        changes,
        interval_ms,
        rounds: 1,
    }
}

/// Sessions beyond which the prototype's way is not measured beside a last push.
const LAST_PUSH_SESSIONS_MAX: usize = 1_000;

/// A measurement of last pushes that takes longer is stuck.
pub(crate) fn last_push_max(fans: &[usize]) -> Duration {
    fans.iter()
        .map(|&fans| last_push_args(fans).run_max())
        .sum()
}

/// From a change to the last of so many fans, beside the prototype's way where that does not take
/// minutes.
pub(crate) async fn last_push(fans: usize) -> Result<Vec<Figure>> {
    let args = last_push_args(fans);
    eprintln!("{fans} fans");
    let measured = measure(&args, fans).await?;
    let name = format!("last_push_{fans}");
    let mut median = Figure::quantile(&name, &measured.latencies, 0.5).called(&name);
    let mut p99 = Figure::quantile(&name, &measured.latencies, 0.99);
    if fans <= LAST_PUSH_SESSIONS_MAX {
        let before = prototype(&args, fans).await?;
        median = median.against(before.quantile_ms(0.5));
        p99 = p99.against(before.quantile_ms(0.99));
    }
    let conflated = Figure::one(
        format!("{name}, conflated changes"),
        measured.conflated as f64,
        "changes",
        measured.latencies.count(),
    );
    Ok(vec![median, p99, conflated])
}

/// How long fans may take to connect and have the event's set.
const FIRST_SET: Duration = Duration::from_secs(8);

/// How many changes are tried until they have.
const FIRST_SETS_MAX: u32 = 3;

/// Numbers of these changes: none that the measurement uses.
const FIRST_NUMBER: u32 = 1_000_000;

/// What a measurement with some number of fans found.
struct Measured {
    latencies: Latencies,
    conflated: u64,
    pushes: u64,
    cpu: Duration,
    connected_bytes: u64,
}

/// Runs the benchmark and prints its figures.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut figures = Vec::new();
    if let Some(&fans) = args.fans.first() {
        figures.extend(twice_the_same(&args, fans).await?);
    }
    figures.push(starts().await?);
    for &fans in &args.fans {
        eprintln!("{fans} fans");
        let measured = measure(&args, fans).await?;
        let before = prototype(&args, fans).await?;
        figures.extend(beside(fans, &measured, &before));
    }
    if args.json {
        figures::print_json(&figures)?;
        eprint!("{}", figures::table(&figures));
    } else {
        print!("{}", figures::table(&figures));
    }
    Ok(())
}

async fn starts() -> Result<Figure> {
    eprintln!("{STARTS} starts");
    let mut latencies = Latencies::new();
    for _ in 0..STARTS {
        let system = System::start().await?;
        latencies.record(system.start_to_ready);
        system.stop().await?;
    }
    Ok(Figure::quantile("start to ready", &latencies, 0.5))
}

/// The same measurement twice: how far apart two figures stand of which neither is better.
async fn twice_the_same(args: &Args, fans: usize) -> Result<Vec<Figure>> {
    eprintln!("{fans} fans, twice the same");
    let first = measure(args, fans).await?.latencies;
    let second = measure(args, fans).await?.latencies;
    let name = format!("A/A: change to last of {fans} fans");
    let quantiles = [0.5, 0.99].map(|quantile| {
        Figure::quantile(&name, &second, quantile).against(first.quantile_ms(quantile))
    });
    Ok(quantiles.into())
}

/// The figures of a measurement, with the prototype's way as baseline.
fn beside(fans: usize, measured: &Measured, before: &Latencies) -> Vec<Figure> {
    let change = format!("change to last of {fans} fans");
    let prototype = format!("prototype's way, {fans} sessions");
    let pushes = measured.pushes.max(1);
    let cpu_us = measured.cpu.as_micros() as f64 / pushes as f64;
    let memory_kib = measured.connected_bytes as f64 / 1_024.0 / fans.max(1) as f64;
    vec![
        Figure::quantile(&change, &measured.latencies, 0.5).against(before.quantile_ms(0.5)),
        Figure::quantile(&change, &measured.latencies, 0.99).against(before.quantile_ms(0.99)),
        Figure::quantile(&prototype, before, 0.5),
        Figure::one(
            format!("conflated changes, {fans} fans"),
            measured.conflated as f64,
            "changes",
            measured.latencies.count(),
        ),
        Figure::one(
            format!("CPU a push, {fans} fans"),
            cpu_us,
            "µs",
            measured.pushes,
        ),
        Figure::one(
            format!("memory an idle connection, {fans} fans"),
            memory_kib,
            "KiB",
            fans as u64,
        ),
    ]
}

async fn measure(args: &Args, fans: usize) -> Result<Measured> {
    let system = System::start().await?;
    let client = system.client()?;
    let first = change(&client, 0).await?;
    // One fan comes and goes, so that the memory of the first ranking is not taken for a fan's.
    let mut one = Load::start(system.gateway(), 1)?;
    let (first, _) = all_have(&client, &mut one, first).await?;
    drop(one);

    let resident_before = system.resident_bytes()?;
    let mut load = Load::start(system.gateway(), fans)?;
    let (_, ready) = all_have(&client, &mut load, first).await?;
    let connected_bytes = system.resident_bytes()?.saturating_sub(resident_before);

    let cpu_before = system.cpu()?;
    let (due, complete) = send(args, &client, &mut load).await?;
    let cpu = system.cpu()?.saturating_sub(cpu_before);
    system.stop().await?;

    let pushes = complete.last().map_or(0, |last| last.pushes) - ready.pushes;
    let (latencies, conflated) = settle(&due, &complete)?;
    Ok(Measured {
        latencies,
        conflated,
        pushes,
        cpu,
        connected_bytes,
    })
}

/// A change and when it was to be sent, in nanoseconds since 1970.
struct Due {
    version: String,
    unix_ns: u64,
}

/// Sends the changes at their pace, and reads until the last has reached all fans.
async fn send(args: &Args, client: &Client, load: &mut Load) -> Result<(Vec<Due>, Vec<Complete>)> {
    let interval = Duration::from_millis(args.interval_ms);
    let (start, start_wall) = (Instant::now() + interval, SystemTime::now() + interval);
    let sending = async {
        let mut due = Vec::new();
        for number in 0..args.changes {
            tokio::time::sleep_until(start + interval * number).await;
            due.push(Due {
                version: change(client, number + 1).await?,
                unix_ns: unix_ns(start_wall + interval * number),
            });
        }
        anyhow::Ok(due)
    };
    tokio::pin!(sending);
    let mut complete: Vec<Complete> = Vec::new();
    let due = loop {
        tokio::select! {
            due = &mut sending => break due?,
            next = load.next() => complete.push(next?),
        }
    };
    let last = &due.last().context("at least one change is sent")?.version;
    if complete.iter().all(|complete| complete.version != *last) {
        loop {
            let next = load.next().await?;
            let is_last = next.version == *last;
            complete.push(next);
            if is_last {
                break;
            }
        }
    }
    Ok((due, complete))
}

/// How long each change took until every fan had it or a newer one, and how many were overtaken by a
/// newer one before every fan had them.
fn settle(due: &[Due], complete: &[Complete]) -> Result<(Latencies, u64)> {
    let at: HashMap<&str, u64> = complete
        .iter()
        .map(|complete| (complete.version.as_str(), complete.last_unix_ns))
        .collect();
    let (mut latencies, mut conflated) = (Latencies::new(), 0);
    let mut earliest = None;
    for due in due.iter().rev() {
        let own = at.get(due.version.as_str()).copied();
        conflated += u64::from(own.is_none());
        earliest = own.into_iter().chain(earliest).min();
        let reached = earliest.context("the last change did not reach all fans")?;
        latencies.record(Duration::from_nanos(reached.saturating_sub(due.unix_ns)));
    }
    Ok((latencies, conflated))
}

async fn prototype(args: &Args, sessions: usize) -> Result<Latencies> {
    eprintln!("{sessions} sessions in the prototype's way");
    let prototype = Prototype::start().await?;
    let mut latencies = Latencies::new();
    for _ in 0..args.rounds {
        latencies.record(prototype.change(sessions).await?);
    }
    Ok(latencies)
}

/// Changes event 1, each number to another state; gives the new version.
async fn change(client: &Client, number: u32) -> Result<String> {
    let match_event = MATCH_EVENTS[number as usize % MATCH_EVENTS.len()].to_owned();
    let attributes = [
        ("match_event", match_event),
        ("match_timing", format!("CHANGE-{number}")),
    ];
    Ok(calls::merge_event(client, "1", attributes).await?.version)
}

/// Waits until all fans have a version, and says so where that took another change: a fan that
/// waits for its first set is no measurement, and is not hidden either.
async fn all_have(
    client: &Client,
    load: &mut Load,
    mut version: String,
) -> Result<(String, Complete)> {
    for number in 1..=FIRST_SETS_MAX {
        let has_it = async {
            loop {
                let complete = load.next().await?;
                if complete.version == version {
                    return anyhow::Ok(complete);
                }
            }
        };
        match tokio::time::timeout(FIRST_SET, has_it).await {
            Ok(complete) => return Ok((version, complete?)),
            Err(_) => eprintln!("version {version} did not reach all fans in {FIRST_SET:?}"),
        }
        version = change(client, FIRST_NUMBER + number).await?;
    }
    bail!("fans stay without a set")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(version: &str, unix_ms: u64) -> Due {
        Due {
            version: version.to_owned(),
            unix_ns: unix_ms * 1_000_000,
        }
    }

    fn complete(version: &str, unix_ms: u64) -> Complete {
        Complete {
            version: version.to_owned(),
            count: 6,
            last_unix_ns: unix_ms * 1_000_000,
            pushes: 6,
        }
    }

    #[test]
    fn a_conflated_change_is_timed_until_a_newer_one_has_reached_all() -> Result<()> {
        let due = [due("a", 100), due("b", 200), due("c", 300)];
        let (latencies, conflated) = settle(&due, &[complete("a", 110), complete("c", 350)])?;
        assert_eq!((latencies.count(), conflated), (3, 1));
        assert!((latencies.quantile_ms(0.0) - 10.0).abs() < 0.1);
        assert!((latencies.quantile_ms(1.0) - 150.0).abs() < 0.5);
        Ok(())
    }

    #[test]
    fn a_run_whose_last_change_does_not_reach_all_fails() {
        let due = [due("a", 100), due("b", 200)];
        assert!(settle(&due, &[complete("a", 110)]).is_err());
    }
    #[test]
    fn the_limit_of_a_run_leaves_room_for_twice_what_it_takes() {
        let args = Args {
            json: false,
            fans: vec![6, 100, 1_000],
            changes: 200,
            interval_ms: 100,
            rounds: 3,
        };
        let changes = Duration::from_secs(20) * 5;
        let prototype = Duration::from_millis(25) * (6 + 100 + 1_000) * 3;
        assert!(args.run_max() > 2 * (changes + prototype));
    }
}
