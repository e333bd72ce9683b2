//! `touchline admin`: what the processes of an installation are doing, as it changes, and what their
//! operator can have them do. Asks each process about itself; nobody is asked about others.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use futures::future::join_all;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use touchline_client::Admin;

use self::view::{Sample, Silence, view};
use crate::{
    Error,
    args::{Format, Presented, SERVER},
    output,
};

mod view;

/// How often the view is drawn anew.
const INTERVAL: Duration = Duration::from_secs(1);
/// What a terminal does to show something else for a while, and to go back.
const OTHER_SCREEN: &str = "\x1b[?1049h\x1b[?25l";
const FIRST_SCREEN: &str = "\x1b[?25h\x1b[?1049l";
/// Drawing begins at the top, and what is left below from before goes.
const TOP: &str = "\x1b[H";
const END_OF_LINE: &str = "\x1b[K\r\n";
const BELOW: &str = "\x1b[J";

/// What is asked of a process.
#[derive(Debug, Args)]
#[command(after_help = "\
Without a command it is a view that is drawn anew each second until Ctrl-C; where the output is no
terminal it is `status`. Every process serves this at its gRPC port: a server at 50051, a push adapter
at 50052, a gateway at 50053. Where authentication is on the token needs the scope `admin`; where it is
off only callers on the process's own machine are answered.

Examples:
  touchline admin --server http://127.0.0.1:50051,http://127.0.0.1:50052
  touchline admin status --json | jq .push.leading
  touchline admin log info,touchline_push=debug --server http://127.0.0.1:50052
  kubectl port-forward pod/touchline-push-0 50052 & touchline admin drain --server http://127.0.0.1:50052")]
#[command(args_conflicts_with_subcommands = true)]
pub struct AdminArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<AdminCommand>,
    #[command(flatten)]
    /// Which processes
    pub at: Processes,
}

/// What a process can be asked to do.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// What it is doing, once
    Status {
        #[command(flatten)]
        /// Which processes
        at: Processes,
        #[command(flatten)]
        /// How it looks
        format: Format,
    },
    /// Whether it serves, by gRPC's health protocol; needs no scope where health is open
    Health {
        #[command(flatten)]
        /// Which processes
        at: Processes,
    },
    /// End it in order, as SIGTERM does
    Drain {
        #[command(flatten)]
        /// Which processes
        at: Processes,
    },
    /// Take the moderation policies as their file holds them now
    Reload {
        #[command(flatten)]
        /// Which processes
        at: Processes,
    },
    /// Change what it logs, until it ends
    Log {
        /// A level, or a list such as info,touchline_store=debug
        #[arg(value_name = "FILTER")]
        filter: String,
        #[command(flatten)]
        /// Which processes
        at: Processes,
    },
}

/// Which processes are asked.
#[derive(Debug, Clone, Args)]
pub struct Processes {
    /// Their gRPC addresses, separated by commas
    #[arg(
        long = "server",
        env = "TOUCHLINE_ADMIN_SERVERS",
        default_value = SERVER,
        value_delimiter = ',',
        value_name = "URL"
    )]
    pub servers: Vec<String>,
    #[command(flatten)]
    /// What calls present
    pub presented: Presented,
}

impl Processes {
    fn open(&self) -> Result<Vec<(String, Admin)>, Error> {
        let caller = self.presented.caller()?;
        let opened = self.servers.iter().map(|server| {
            let admin = Admin::connect_as(server, &caller);
            let admin = admin.map_err(|source| failed(server, source))?;
            Ok((server.clone(), admin))
        });
        opened.collect()
    }
}

/// Runs the command.
pub async fn run(args: AdminArgs, shutdown: CancellationToken) -> Result<(), Error> {
    match args.command {
        None if std::io::stdout().is_terminal() => watch(&args.at, shutdown).await,
        None => status(&args.at, false).await,
        Some(AdminCommand::Status { at, format }) => status(&at, format.json).await,
        Some(AdminCommand::Health { at }) => {
            for (server, admin) in at.open()? {
                let serves = admin.serves().await;
                if !serves.map_err(|source| failed(&server, source))? {
                    return Err(Error::Unasked(format!("{server} does not serve")));
                }
                output::line(format_args!("{server} serves"))?;
            }
            Ok(())
        }
        Some(AdminCommand::Drain { at }) => {
            for (server, admin) in at.open()? {
                admin
                    .drain()
                    .await
                    .map_err(|source| failed(&server, source))?;
                output::line(format_args!("{server} drains"))?;
            }
            Ok(())
        }
        Some(AdminCommand::Reload { at }) => {
            for (server, admin) in at.open()? {
                let changed = admin.reload_policies().await;
                let what = match changed.map_err(|source| failed(&server, source))? {
                    true => "has other policies in force",
                    false => "has the same policies in force",
                };
                output::line(format_args!("{server} {what}"))?;
            }
            Ok(())
        }
        Some(AdminCommand::Log { filter, at }) => {
            for (server, admin) in at.open()? {
                let before = admin.set_log(&filter).await;
                let before = before.map_err(|source| failed(&server, source))?;
                output::line(format_args!("{server} logs {filter}; before: {before}"))?;
            }
            Ok(())
        }
    }
}

fn failed(server: &str, source: touchline_client::Error) -> Error {
    Error::Server {
        server: server.to_owned(),
        source,
    }
}

/// Shows each process once. One that cannot be asked does not hide the others.
async fn status(at: &Processes, json: bool) -> Result<(), Error> {
    let processes = at.open()?;
    let samples = sample(&processes).await;
    if json {
        for sample in &samples {
            let Sample { server, status, .. } = sample;
            output::line(match status {
                Ok(status) => view::json(server, status),
                Err(silence) => json!({ "address": server, "error": silence.cause }),
            })?;
        }
    } else {
        output::line(view(&samples, &[]).trim_end())?;
    }
    match samples
        .iter()
        .find_map(|sample| sample.status.as_ref().err())
    {
        Some(silence) => Err(Error::Unasked(silence.advice.clone())),
        None => Ok(()),
    }
}

/// Draws what the processes are doing until `shutdown`.
async fn watch(at: &Processes, shutdown: CancellationToken) -> Result<(), Error> {
    let processes = at.open()?;
    let mut out = std::io::stdout();
    write!(out, "{OTHER_SCREEN}")?;
    let drawn = draw(&processes, &mut out, shutdown).await;
    // Whatever happened, the terminal is as it was.
    write!(out, "{FIRST_SCREEN}")?;
    out.flush()?;
    drawn
}

async fn draw(
    processes: &[(String, Admin)],
    out: &mut impl Write,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = Vec::new();
    loop {
        let samples = tokio::select! {
            samples = async {
                tick.tick().await;
                sample(processes).await
            } => samples,
            () = shutdown.cancelled() => return Ok(()),
        };
        write!(out, "{TOP}")?;
        for line in view(&samples, &before).lines() {
            write!(out, "{line}{END_OF_LINE}")?;
        }
        write!(out, "{BELOW}")?;
        out.flush()?;
        before = samples;
    }
}

async fn sample(processes: &[(String, Admin)]) -> Vec<Sample> {
    let asked = processes.iter().map(|(server, admin)| async move {
        let status = admin.status().await;
        Sample {
            server: server.clone(),
            at: Instant::now(),
            status: status.map_err(|source| Silence {
                cause: source.to_string(),
                advice: failed(server, source).to_string(),
            }),
        }
    });
    join_all(asked).await
}
