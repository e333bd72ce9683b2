//! Touchline's own front at speed: ten thousand fans at a gateway, beside as many at a bare WebSocket
//! server. What is measured and the fans are processes of their own; nothing here looks inside one.

use std::time::Duration;

use anyhow::Result;
use clap::{ValueEnum, builder::RangedU64ValueParser};

use self::{
    duel::{Duel, duel},
    goals::goals,
    idle::{Wanted, idle},
    pair::Pace,
    site::{Front, Site},
};
use crate::{
    figures::{self, Figure},
    system::DEADLINE,
};

pub(crate) mod balance;
pub(crate) mod bare;
mod book;
mod cpu;
mod crowd;
mod duel;
pub(crate) mod fans;
mod goals;
mod growth;
mod hash;
mod herd;
mod idle;
mod pair;
pub(crate) mod restart;
mod script;
mod site;
mod stalled;
pub(crate) mod telemetry;

/// Ten thousand fans at a gateway, beside as many at a bare WebSocket server
///
/// The system is a DynamoDB, a touchline-server in front of a stand-in for Personalize that has answered
/// everything before, a touchline-push that leads, and a `touchline-push gateway` that holds the fans'
/// connections. The bare server is tokio-tungstenite, with a task and a channel a connection, that sends
/// on command what the gateway's fans were sent before. All are processes of their own, as are both
/// crowds of fans; they live at the same time, and slices of changes alternate between them, after an
/// A/A pair of the gateway's own that shows how far apart two figures stand of which neither is better.
/// A change is over when everybody has it.
///
/// broadcast: all fans are the same consumer. Pushes for each second of the gateway's processor time,
/// beside the bare server's; a second line counts all processes of the system.
///
/// personalised_push: each fan is a consumer of their own. Pushes for each second of the processor time
/// of all processes; a second line counts the gateway alone.
///
/// change_to_last_ratio, change_to_last_ms: from the moment at which the write of the row began until the
/// last fan had its message; at the bare server from the command. p50 and p99, of personalised pushes.
///
/// rss_idle_connection, idle_cpu_connection: memory and processor time of a fan to whom nothing happens
/// but pings.
///
/// stalled_readers: one fan in ten stops reading, until the sockets are full and beyond. p99 of the
/// others, beside slices in which everybody reads.
///
/// reconnect_herd: everybody's connection is lost at once, and everybody comes back: without a word of
/// what they show, and with their set's id while the match changes. Until everybody shows the newest.
///
/// growth: processor time of a push with more and more fans.
///
/// Fans hold each message against what the server says over gRPC that this consumer is shown in this
/// state. One that is missing, comes twice, is older than what is shown or is another consumer's fails
/// the run, and so do counters of the gateway that do not add up with what fans have received.
///
/// With the defaults it takes about fifteen minutes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON, one object a figure, and the tables to standard error
    #[arg(long)]
    json: bool,
    /// Which of them, separated by commas
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_values = [
            "broadcast", "personalised_push", "change_to_last_ratio", "change_to_last_ms",
            "rss_idle_connection", "idle_cpu_connection", "stalled_readers", "reconnect_herd", "growth",
        ]
    )]
    only: Vec<Part>,
    /// How many fans, at either server
    #[arg(
        long,
        default_value_t = 10_000,
        value_name = "COUNT",
        value_parser = RangedU64ValueParser::<usize>::new().range(20..=19_000)
    )]
    fans: usize,
    /// Slices of each server; the A/A pair, growth and stalled_readers take half as many
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=100))]
    slices: u32,
    /// Changes of a slice
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=400))]
    changes: u32,
    /// From one change to the next at least, in milliseconds; it waits until everybody has the one before
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    interval_ms: u64,
    /// Changes that fill the sockets of those who stall
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    filling: u32,
    /// How often everybody comes back, in either way
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    herds: u32,
    /// Pause between two pings of idle fans, in milliseconds; three of them are waited for
    #[arg(long, default_value_t = 25_000, value_parser = clap::value_parser!(u64).range(1_000..=120_000))]
    ping_interval_ms: u64,
    /// How many fans growth is measured with, separated by commas
    #[arg(
        long,
        value_name = "COUNT",
        value_delimiter = ',',
        default_values_t = [1_000, 5_000, 10_000, 18_000],
        value_parser = RangedU64ValueParser::<usize>::new().range(20..=19_000)
    )]
    growth: Vec<usize>,
    /// Who holds the fans' connections
    #[arg(long, value_enum, default_value = "gateway", hide = true)]
    front: Front,
}

/// A figure, or several that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Part {
    /// Equal messages to everybody.
    Broadcast,
    /// Everybody's own message.
    PersonalisedPush,
    /// From a change to the last fan, beside the bare server.
    ChangeToLastRatio,
    /// From a change to the last fan.
    ChangeToLastMs,
    /// Memory of a fan to whom nothing happens.
    RssIdleConnection,
    /// Processor time of a fan to whom nothing happens.
    IdleCpuConnection,
    /// Fans who do not read.
    StalledReaders,
    /// Everybody comes back at once.
    ReconnectHerd,
    /// What a push costs with more fans.
    Growth,
}

impl Args {
    /// A run that takes longer is stuck.
    pub(crate) fn run_max(&self) -> Duration {
        // Two duels of three slices each, one slice in each size, and those of who stalls.
        let slices = self.slices * (6 + 2 * self.growth.len() as u32 + 2);
        let changes = slices * self.changes + self.slices * self.filling;
        let each = Duration::from_millis(self.interval_ms).max(Duration::from_secs(1));
        let pings = Duration::from_millis(self.ping_interval_ms) * 4;
        each * changes + pings + DEADLINE * (20 + 4 * self.herds)
    }

    fn pace(&self) -> Pace {
        Pace {
            changes: self.changes,
            interval: Duration::from_millis(self.interval_ms),
        }
    }

    fn ping_interval(&self) -> Duration {
        Duration::from_millis(self.ping_interval_ms)
    }

    /// What comes though it must not has come by then.
    fn quiet(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn has(&self, parts: &[Part]) -> bool {
        self.only.iter().any(|part| parts.contains(part))
    }
}

/// Runs the benchmark and prints its figures.
pub(crate) async fn run(args: Args) -> Result<()> {
    let site = Site::start(args.front).await?;
    let measured = Box::pin(measure(&args, &site)).await;
    if measured.is_err() {
        eprint!("{}", site.logs());
    }
    let figures = measured?;
    let goals = goals(&figures);
    if args.json {
        figures::print_json(&figures)?;
        eprint!("{}\n{goals}", figures::table(&figures));
    } else {
        print!("{}\n{goals}", figures::table(&figures));
    }
    Ok(())
}

async fn measure(args: &Args, site: &Site) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if args.has(&[Part::Broadcast]) {
        figures.extend(Box::pin(broadcast(args, site)).await?);
    }
    if args.only.iter().any(|part| *part != Part::Broadcast) {
        figures.extend(Box::pin(of_their_own(args, site)).await?);
    }
    Ok(figures)
}

/// All fans are the same consumer.
async fn broadcast(args: &Args, site: &Site) -> Result<Vec<Figure>> {
    let name = "broadcast";
    let book = site.book(&["everybody".to_owned()]).await?;
    let duel = Box::pin(duel(args, site, book.path(), name)).await?;
    let mut figures = duel.pushes(name, false);
    figures.extend(duel.latencies(&format!("{name}: change to last fan")));
    figures.extend(duel.balance);
    Ok(figures)
}

/// Each fan is a consumer of their own.
async fn of_their_own(args: &Args, site: &Site) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let own = [
        Part::PersonalisedPush,
        Part::ChangeToLastRatio,
        Part::ChangeToLastMs,
    ];
    let idle_parts = [Part::RssIdleConnection, Part::IdleCpuConnection];
    let growing = match args.has(&[Part::Growth]) {
        true => args.growth.iter().copied().max().unwrap_or(0),
        false => 0,
    };
    let consumers = args.fans.max(growing);
    let consumers: Vec<String> = (0..consumers).map(|fan| format!("fan-{fan:05}")).collect();
    eprintln!("{} consumers in the cache", consumers.len());
    let book = site.book(&consumers).await?;
    let book = book.path();
    if args.has(&own) {
        let duel = Box::pin(duel(args, site, book, "personalised_push")).await?;
        figures.extend(personalised(args, duel));
    }
    if args.has(&idle_parts) {
        let wanted = Wanted {
            memory: args.has(&[Part::RssIdleConnection]),
            cpu: args.has(&[Part::IdleCpuConnection]),
        };
        figures.extend(Box::pin(idle(args, site, book, wanted)).await?);
    }
    if args.has(&[Part::StalledReaders]) {
        figures.extend(Box::pin(stalled::stalled(args, site, book)).await?);
    }
    if args.has(&[Part::ReconnectHerd]) {
        figures.extend(Box::pin(herd::herd(args, site, book)).await?);
    }
    if args.has(&[Part::Growth]) {
        figures.extend(Box::pin(growth::growth(args, site, book)).await?);
    }
    Ok(figures)
}

fn personalised(args: &Args, duel: Duel) -> Vec<Figure> {
    let mut figures = Vec::new();
    if args.has(&[Part::PersonalisedPush]) {
        figures.extend(duel.pushes("personalised_push", true));
    }
    if args.has(&[Part::ChangeToLastRatio, Part::ChangeToLastMs]) {
        figures.extend(duel.latencies("change_to_last"));
    }
    figures.extend(duel.balance);
    figures
}
