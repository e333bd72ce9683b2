//! What fans notice of how scarce Amazon Personalize is: a goal for everybody in one second, twice the
//! capacity for a minute, and a minute without the service. Knows what is measured; who is asked and
//! counted is [`world`]'s.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{ValueEnum, builder::RangedU64ValueParser};
use futures::{StreamExt, stream};
use tokio::time::{Instant, sleep_until};
use touchline_client::proto::{Freshness, Origin};
use touchline_tests::personalize::Fault;

use self::{
    answers::{Answers, Kind},
    world::World,
};
use crate::{
    figures::{self, Figure},
    system::DEADLINE,
};

mod answers;
mod pace;
mod world;

/// Consumers of one call of BatchGetComponents, as the push adapter asks.
const PAGE: usize = 1_000;
/// Pages under way at the same time.
const PAGES: usize = 8;
/// Open-loop callers wait for so long at most.
const CALLER_DEADLINE: Duration = Duration::from_secs(1);
/// What may be under way of an open loop; beyond it the machine, not the server, is measured.
const CALLS_MAX: usize = 5_000;

/// A goal for everybody, an overload and an outage, in front of a scarce Personalize
///
/// touchline-server as a process of its own, in front of a stand-in for Amazon Personalize in this one:
/// answers after a log-normal delay (30 ms in the median, 90 ms at p99), throttles above the budget,
/// hangs when told. All fans of a users file of 40 cohorts.
///
/// goal: everybody is asked for at once, in pages of 1,000 as the push adapter does it: cold, and after
/// a penalty that let the server ask for the goal ahead. Figures are times from the change to each fan's
/// answer, by source, and the calls made beside what the budget allowed while there was work.
///
/// overload: callers who each want their own answer within a second, first at 0.9 of the capacity, then
/// at twice of it, then at half. Figures are answers by Personalize a second (goodput) beside those at
/// 0.9, and how long after the end of the overload callers are Personalize's again.
///
/// outage: fans who were seen before and fans who are new, at 200 a second, while Personalize hangs.
/// Figures are times to an answer before and while it hangs, by source, and how long it takes until
/// Personalize answers again.
///
/// Every answer by Personalize is compared with what the stand-in ranks for this consumer in this
/// context; another one's, a call above the budget or a throttle fails the run. Server, stand-in and callers share this machine.
///
/// With the defaults it takes about seven minutes.
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
        default_values = ["goal", "overload", "outage"]
    )]
    only: Vec<Part>,
    /// Fans of the goal
    #[arg(
        long,
        default_value_t = 10_000,
        value_name = "COUNT",
        value_parser = RangedU64ValueParser::<usize>::new().range(100..=50_000)
    )]
    fans: usize,
    /// Calls a second that the budget allows, which is also what the stand-in bears
    #[arg(long, default_value_t = 500, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(10..=2_000))]
    budget: u32,
    /// How long the overload and the outage last, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=600))]
    seconds: u64,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Everybody at once.
    Goal,
    /// Twice the capacity.
    Overload,
    /// Nobody there.
    Outage,
}

impl Args {
    /// A run that takes longer is stuck.
    pub(crate) fn run_max(&self) -> Duration {
        // Filling the cache for everybody, three times, and what lasts as long as was said, twice.
        let everybody = Duration::from_secs(self.fans as u64 / u64::from(self.budget) + 1);
        everybody * 8 + Duration::from_secs(self.seconds) * 4 + DEADLINE * 8
    }

    fn seconds(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// Runs the benchmark and prints its figures.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut figures = Vec::new();
    for part in &args.only {
        let world = World::start(args.fans, args.budget).await?;
        let measured = match part {
            Part::Goal => Box::pin(goal(&args, &world)).await,
            Part::Overload => Box::pin(overload(&args, &world)).await,
            Part::Outage => Box::pin(outage(&args, &world)).await,
        };
        if measured.is_err() {
            eprint!("{}", world.log());
        }
        figures.extend(measured?);
    }
    if args.json {
        figures::print_json(&figures)?;
        eprint!("{}", figures::table(&figures));
    } else {
        print!("{}", figures::table(&figures));
    }
    Ok(())
}

async fn goal(args: &Args, world: &World) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    eprintln!("goal, cold");
    let pace = world.pace();
    let cold = everybody(world, "PENALTY").await?;
    figures.extend(cold.figures("goal cold"));
    // Everybody's own ranking is still asked for, with what the budget allows.
    let own = world.asked_until(args.fans as u64).await?;
    let made = pace.stop(own);
    made.check(args.budget)?;
    figures.extend(made.figures("goal cold", args.budget));

    // Taught once, it knows what follows a penalty.
    eprintln!("goal, asked for ahead");
    let teacher = &world.fans[..1];
    for event in ["GOAL", "NONE"] {
        world.batch(event, teacher, &mut Answers::new()).await?;
    }
    everybody(world, "PENALTY").await?;
    world.ahead("GOAL").await?;
    let ahead = everybody(world, "GOAL").await?;
    figures.extend(ahead.figures("goal ahead"));
    world.check_throttles().await?;
    Ok(figures)
}

/// Everybody in one state, as the push adapter asks.
async fn everybody(world: &World, event: &str) -> Result<Answers> {
    let began = Instant::now();
    let pages = world.fans.chunks(PAGE).map(|page| async move {
        let mut answers = Answers::since(began);
        let sets = world.batch(event, page, &mut answers).await?;
        anyhow::Ok((answers, sets))
    });
    let (mut all, mut shown) = (Answers::new(), Vec::new());
    let mut pages = stream::iter(pages).buffer_unordered(PAGES);
    while let Some(page) = pages.next().await {
        let (answers, sets) = page?;
        all.add(answers);
        shown.extend(sets);
    }
    world.check_all(event, &shown)?;
    all.check_whole(world.fans.len())?;
    Ok(all)
}

async fn overload(args: &Args, world: &World) -> Result<Vec<Figure>> {
    let capacity = f64::from(args.budget);
    let mut callers = Callers::new("caller");
    eprintln!("overload: 0.9 of the capacity");
    let calm = callers
        .run(world, 0.9 * capacity, args.seconds() / 3)
        .await?;
    eprintln!("overload: twice the capacity");
    let over = callers.run(world, 2.0 * capacity, args.seconds()).await?;
    eprintln!("overload: half the capacity");
    let ended = Instant::now();
    let mut recovered = None;
    // A second in which nearly everybody was Personalize's again.
    while recovered.is_none() && ended.elapsed() < DEADLINE {
        let second = callers
            .run(world, 0.5 * capacity, Duration::from_secs(1))
            .await?;
        if second.share(Kind::of(Origin::Personalize, Freshness::Live)) >= 0.99 {
            recovered = Some(ended.elapsed().saturating_sub(Duration::from_secs(1)));
        }
    }
    // As a figure, however long it is: a busy machine says nothing about the server.
    let recovered = recovered.unwrap_or(DEADLINE);
    world.check_throttles().await?;
    let goodput = |answers: &Answers, over: Duration| {
        let own = answers.count(Kind::of(Origin::Personalize, Freshness::Live));
        own as f64 / over.as_secs_f64()
    };
    let peak = goodput(&calm, args.seconds() / 3);
    let mut figures = vec![
        Figure::one(
            "overload x2: goodput, beside that at 0.9",
            goodput(&over, args.seconds()),
            "1/s",
            over.len() as u64,
        )
        .against(peak),
        Figure::one("overload x2: recovery", recovered.as_secs_f64(), "s", 1),
    ];
    figures.extend(calm.figures("overload x0.9"));
    figures.extend(over.figures("overload x2"));
    Ok(figures)
}

async fn outage(args: &Args, world: &World) -> Result<Vec<Figure>> {
    const RATE: f64 = 200.0;
    // Half of them were seen before.
    let mut callers = Callers::new("fan");
    callers.seen = (0..1_000).map(|number| format!("known-{number}")).collect();
    for known in callers.seen.chunks(100) {
        world.batch("GOAL", known, &mut Answers::new()).await?;
    }
    world.asked_until(callers.seen.len() as u64).await?;
    eprintln!("outage: before");
    let before = callers.run(world, RATE, args.seconds() / 3).await?;
    eprintln!("outage: Personalize hangs");
    world.stand_in.behave(|it| it.fault = Some(Fault::Hang));
    let during = callers.run(world, RATE, args.seconds()).await?;
    world.stand_in.behave(|it| it.fault = None);
    let back = Instant::now();
    let again = loop {
        let second = callers
            .run(world, RATE / 10.0, Duration::from_millis(250))
            .await?;
        if second.count(Kind::of(Origin::Personalize, Freshness::Live)) > 0 {
            break back.elapsed();
        }
        if back.elapsed() > DEADLINE {
            bail!("Personalize is never asked again");
        }
    };
    let mut figures = before.figures("outage, before");
    figures.extend(during.figures("outage"));
    figures.push(Figure::one(
        "outage: until Personalize answers again",
        again.as_secs_f64(),
        "s",
        1,
    ));
    Ok(figures)
}

/// Callers in an open loop: they come at a fixed pace, whatever becomes of those before.
struct Callers {
    name: &'static str,
    next: u64,
    /// Every second one is of these.
    seen: Vec<String>,
}

impl Callers {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            next: 0,
            seen: Vec::new(),
        }
    }

    async fn run(&mut self, world: &World, rate: f64, lasting: Duration) -> Result<Answers> {
        let began = Instant::now();
        let count = (rate * lasting.as_secs_f64()) as usize;
        let names: Vec<String> = (0..count).map(|_| self.name()).collect();
        let mut all = Answers::new();
        let calls = names
            .into_iter()
            .enumerate()
            .map(|(place, name)| async move {
                let due = began + Duration::from_secs_f64(place as f64 / rate);
                sleep_until(due).await;
                // From when it was due: who comes late because of others has waited.
                let mut answers = Answers::since(due);
                world
                    .get("GOAL", &name, CALLER_DEADLINE, &mut answers)
                    .await?;
                anyhow::Ok(answers)
            });
        let mut calls = stream::iter(calls).buffer_unordered(CALLS_MAX);
        while let Some(answers) = calls.next().await {
            all.add(answers?);
        }
        all.check_whole(count)?;
        Ok(all)
    }

    fn name(&mut self) -> String {
        self.next += 1;
        let number = self.next as usize;
        match self.seen.is_empty() || self.next.is_multiple_of(2) {
            true => format!("{}-{number}", self.name),
            false => self.seen[number % self.seen.len()].clone(),
        }
    }
}
