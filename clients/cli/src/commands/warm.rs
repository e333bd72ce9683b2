//! `touchline warm`: rankings into the server's cache before a match. Says what that takes, does it,
//! and says what became of it; asking itself is [`crate::warm`]'s.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, stdin},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgGroup, Args};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use touchline_client::{Client, Deadlines};
use touchline_store::event::DEFAULT_CONTEXT_KEYS;

use self::{
    provision::{CampaignArgs, provision},
    words::{Shown, count, counted, summary, time},
};
use crate::{
    Error,
    args::{Format, ServerAddress},
    output, show,
    warm::{
        End, PAGE_TIMEOUT, Tally, Work,
        consumers::{self, Consumers},
        plan::Plan,
        states::{self, Change, STATES_MAX, States},
        warm,
    },
};

mod provision;
mod words;

/// How long an answer is kept by a server that was not told otherwise: --ranking-ttl and
/// --ranking-stale.
const KEPT_BY_DEFAULT: Duration = Duration::from_secs(630);
/// Rankings that fit into a replica's cache of the default size, at about a kilobyte each.
const FIT_BY_DEFAULT: u64 = 64 << 10;
/// What a campaign bears by default (Personalize's quotas, GetRecommendations).
const QUOTA_DEFAULT: f64 = 500.0;

/// Flags of `touchline warm`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("who").required(true).args(["users", "consumers"]))]
#[command(after_help = "\
Asks for the rankings of many consumers in the states that are likely, so that the server has them
when the moment comes. It spends only budget that nobody else wants; what is cached already costs
nothing, so it can be interrupted and repeated. The present state comes first, then each --state in
its order. A server keeps an answer for --ranking-ttl and --ranking-stale (10m30s unless told
otherwise), in --ranking-cache-bytes (about 1 kB each): see docs/serving.md. Exits with 1 if
something was not warmed.

Examples:
  touchline warm 1 --users users.csv --dry-run                 how much that is, and how long it takes
  touchline warm 1 --users users.csv --state match_event=GOAL,score_difference=1 --within 10m
  touchline warm 1 --users users.csv --state '{\"match_venue\": \"Paris, France\"}'
  cut -d, -f2 season-tickets.csv | touchline warm 1 --consumers -
  touchline warm 1 --users users.csv --within 5m --campaign-arn ARN --apply-min-provisioned-tps")]
pub struct WarmArgs {
    /// The event
    #[arg(value_name = "EVENT")]
    pub event_id: String,
    /// For everybody in this CSV file: Personalize's users schema, of which USER_ID is read
    #[arg(long, value_name = "FILE.csv")]
    pub users: Option<PathBuf>,
    /// For everybody in this file: a consumer's id a line; - for standard input
    #[arg(long, value_name = "FILE")]
    pub consumers: Option<PathBuf>,
    /// Another state besides the present one: the event's row with these attributes replaced, as
    /// NAME=VALUE,NAME=VALUE or as a JSON object; can be given up to 64 times
    #[arg(long = "state", value_name = "NAME=VALUE,…", value_parser = Change::parse)]
    pub states: Vec<Change>,
    /// Consumers that are accepted, 1 to 10,000,000; more are refused, since each is a call
    #[arg(
        long,
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1..=10_000_000),
        value_name = "COUNT"
    )]
    pub max_consumers: u32,
    /// Be done within this long, 1s to 24h: what is not warmed by then is left, and
    /// minProvisionedTPS is reckoned for it [default: as long as it takes]
    #[arg(long, value_parser = within, value_name = "DURATION")]
    pub within: Option<Duration>,
    /// A page of consumers of whom nobody is answered is asked for again as long as this, at most 1h;
    /// with a server that cannot be reached for longer the run ends
    #[arg(long, default_value = "10s", value_parser = patience, value_name = "DURATION")]
    pub patience: Duration,
    /// Event attributes that the server asks the recommender with, as its own flag says
    #[arg(
        long,
        env = "TOUCHLINE_CONTEXT_KEYS",
        value_delimiter = ',',
        default_values = DEFAULT_CONTEXT_KEYS,
        value_name = "KEYS"
    )]
    pub context_keys: Vec<String>,
    /// Only say how much that is and how long it takes
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    /// What Personalize keeps ready
    pub campaign: CampaignArgs,
    #[command(flatten)]
    /// Where
    pub at: ServerAddress,
    #[command(flatten)]
    /// How it looks
    pub format: Format,
}

/// Runs the command.
pub async fn run(args: WarmArgs, shutdown: CancellationToken) -> Result<(), Error> {
    // Standard input may take for ever; whoever waits for it can still be interrupted.
    let prepared = shutdown.run_until_cancelled(prepare(&args)).await;
    let Some(prepared) = prepared.ok_or(Error::Interrupted)?? else {
        let nothing = "the server ranks in its own process, for which nothing is kept: there is \
                       nothing to warm";
        return match args.format.json {
            true => output::line(json!({ "type": "plan", "questions": 0, "reason": nothing })),
            false => output::line(nothing),
        };
    };
    prepared.tell(&args)?;
    // Boxed, since it may hold a whole client of AWS.
    let needed = args.within.map(|it| (it, prepared.plan.tps_within(it)));
    let provisioning = Box::pin(provision(&args.campaign, needed));
    let raised = shutdown.run_until_cancelled(provisioning).await;
    let lowers = match raised {
        Some(raised) => raised?,
        None => {
            let begun = provision::interrupted(&args.campaign);
            begun.iter().for_each(output::note);
            return Err(Error::Interrupted);
        }
    };
    if args.dry_run {
        return Ok(());
    }
    let warmed = prepared.warm(&args, &shutdown).await;
    if let Some(lowers) = lowers {
        output::note(lowers);
    }
    warmed
}

/// All that is known before the first page.
struct Prepared {
    client: Client,
    consumers: Consumers,
    states: States,
    plan: Plan,
}

/// Reads what was given and asks the server what it bears; `None` if nothing can be warmed.
async fn prepare(args: &WarmArgs) -> Result<Option<Prepared>, Error> {
    if args.states.len() > STATES_MAX {
        return Err(Error::Warm(format!(
            "--state is given {} times; at most {STATES_MAX} are accepted",
            args.states.len()
        )));
    }
    let consumers = read(args).await?;
    let failed = |source| Error::Server {
        server: args.at.server.clone(),
        source,
    };
    let client = Client::connect(&args.at.server).map_err(failed)?;
    let client = client.with_deadlines(Deadlines {
        batch: PAGE_TIMEOUT,
        ..Deadlines::default()
    });
    let present = client.get_event(&args.event_id).await.map_err(failed)?;
    let states = states::states(&present, &args.states, &args.context_keys).map_err(Error::Warm)?;
    let ids: Vec<&str> = consumers.ids.iter().map(AsRef::as_ref).collect();
    let context: BTreeMap<_, _> = states.states[0].context.clone();
    let shares = client.shares(context, &ids).await.map_err(failed)?;
    let plan = Plan::new(states.states.len(), &shares);
    Ok(plan.map(|plan| Prepared {
        client,
        consumers,
        states,
        plan,
    }))
}

/// The consumers. Read on a thread that nobody waits for at the end: standard input may never end.
async fn read(args: &WarmArgs) -> Result<Consumers, Error> {
    let max = args.max_consumers as usize;
    let (path, is_users) = match (&args.users, &args.consumers) {
        (Some(path), _) => (path.clone(), true),
        (None, Some(path)) => (path.clone(), false),
        (None, None) => unreachable!("clap requires one of the two"),
    };
    let named = match path.as_os_str() == "-" {
        true => PathBuf::from("standard input"),
        false => path.clone(),
    };
    let (done, read) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Who was interrupted wants no answer.
        let _ = done.send(read_file(&path, is_users, max));
    });
    let read = read.await.map_err(|lost| Error::Part {
        what: "a bug in touchline",
        source: lost.into(),
    })?;
    read.map_err(|reason| Error::File {
        path: named,
        reason,
    })
}

fn read_file(path: &Path, is_users: bool, max: usize) -> Result<Consumers, String> {
    if path.as_os_str() == "-" {
        return match is_users {
            true => consumers::from_users(stdin().lock(), max),
            false => consumers::from_list(stdin().lock(), max),
        };
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    match is_users {
        true => consumers::from_users(file, max),
        false => consumers::from_list(BufReader::new(file), max),
    }
}

impl Prepared {
    /// Says how much there is to do.
    fn tell(&self, args: &WarmArgs) -> Result<(), Error> {
        let Plan {
            questions,
            replicas,
            per_second,
            takes,
            ..
        } = self.plan;
        self.states.notes.iter().for_each(output::note);
        if self.consumers.repeated > 0 {
            let repeated = count(self.consumers.repeated as u64);
            output::note(format_args!("named again and asked once: {repeated}"));
        }
        if args.format.json {
            output::line(json!({
                "type": "plan",
                "questions": questions,
                "consumers": self.consumers.ids.len(),
                "states": self.states.states.iter()
                    .map(|state| json!({ "name": state.name, "context": state.context }))
                    .collect::<Vec<_>>(),
                "replicas": replicas,
                "budget_per_second": per_second,
                "takes_seconds": takes.as_secs_f64(),
                "min_provisioned_tps": args.within.map(|within| self.plan.tps_within(within)),
            }))?;
        } else {
            output::line(format_args!(
                "{} rankings: {} consumers, in {} of event {}",
                count(questions),
                count(self.consumers.ids.len() as u64),
                counted(self.states.states.len(), "state"),
                show::printable(&args.event_id)
            ))?;
            for state in &self.states.states {
                output::line(format_args!("  {}", show::printable(&state.name)))?;
            }
            output::line(format_args!(
                "about {} at the budget of {} a second ({}); what is cached already costs nothing",
                time(takes),
                count(per_second.round() as u64),
                counted(replicas, "replica")
            ))?;
        }
        self.advise(args);
        Ok(())
    }

    /// What may come in the way.
    fn advise(&self, args: &WarmArgs) {
        let plan = &self.plan;
        if plan.takes > KEPT_BY_DEFAULT {
            output::note(
                "advice: the first answers are older than 10m30s by then; the server keeps them for \
                 that long unless its --ranking-ttl and --ranking-stale say more",
            );
        }
        if plan.questions > FIT_BY_DEFAULT * plan.replicas.max(1) as u64 {
            output::note(format_args!(
                "advice: about {} MB of answers for each replica; --ranking-cache-bytes is 64 MiB \
                 unless the server was told more",
                count(plan.questions / plan.replicas.max(1) as u64 / 1_000)
            ));
        }
        if let Some(within) = args.within {
            let tps = f64::from(plan.tps_within(within));
            if tps > plan.per_second {
                output::note(format_args!(
                    "advice: within {} needs {} a second; the server's --personalize-tps allows {}, \
                     and a campaign's quota is {QUOTA_DEFAULT} unless it was raised",
                    time(within),
                    count(tps as u64),
                    count(plan.per_second.round() as u64)
                ));
            }
        }
    }

    /// Does it, and says what became of it.
    async fn warm(&self, args: &WarmArgs, shutdown: &CancellationToken) -> Result<(), Error> {
        let began = Instant::now();
        let work = Work {
            states: &self.states.states,
            consumers: &self.consumers.ids,
            page_size: self.plan.page_size,
            patience: args.patience,
            until: args.within.map(|within| began + within),
        };
        let questions = work.questions();
        let shown = Shown::new(questions);
        let told = |tally: &Tally| shown.show(tally);
        let (tally, end) = warm(&self.client, &work, shutdown, &told).await;
        shown.bar.finish_and_clear();
        let left = questions - tally.warmed() - tally.failed();
        summary(args.format.json, questions, &tally, &end, began.elapsed())?;
        if tally.warmed() == questions {
            return Ok(());
        }
        let why = match end {
            End::Done => String::new(),
            End::Interrupted => "interrupted: ".to_owned(),
            End::TimeOver => "the time was over: ".to_owned(),
            End::GaveUp(reason) => format!("gave up, since {reason}: "),
        };
        Err(Error::Warm(format!(
            "{why}{} of {} rankings were not warmed; the same command asks for those alone",
            count(tally.failed() + left),
            count(questions)
        )))
    }
}

fn within(text: &str) -> Result<Duration, String> {
    let fits = Duration::from_secs(1)..=Duration::from_hours(24);
    let within = humantime::parse_duration(text).ok();
    let within = within.filter(|within| fits.contains(within));
    within.ok_or_else(|| "1s to 24h is accepted, such as 10m".to_owned())
}

fn patience(text: &str) -> Result<Duration, String> {
    let patience = humantime::parse_duration(text).ok();
    let patience = patience.filter(|patience| *patience <= Duration::from_hours(1));
    patience.ok_or_else(|| "at most 1h is accepted, such as 10s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_makes_no_sense_is_refused_with_what_is_accepted() {
        assert_eq!(within("10m"), Ok(Duration::from_mins(10)));
        for bad in ["0s", "25h", "soon", "-1s"] {
            assert!(within(bad).unwrap_err().contains("1s to 24h"), "{bad}");
        }
        assert_eq!(patience("0s"), Ok(Duration::ZERO));
        for bad in ["61m", "soon"] {
            assert!(patience(bad).unwrap_err().contains("at most 1h"), "{bad}");
        }
    }
}
