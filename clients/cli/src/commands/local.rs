//! `touchline local`: the whole system on this machine, and what happens in it, as it happens. The
//! system itself is `stack`; this file starts it, watches it, and ends it.

mod banner;
mod log;

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::{net::TcpListener, sync::broadcast::error::RecvError, time::sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use touchline_client::{Caller, Client};
use touchline_runtime::log::{EnvFilter, LogFormat, begin as begin_log, filter};

use self::log::Log;
use crate::{
    Error,
    args::Format,
    demo,
    fan::{Fan, Heard, Protocol, listen},
    output,
    page::{self, Desk, PageParts},
    replay::{Pace, Played, Remote, play_steered},
    stack::{
        Stack, StackArgs,
        ports::{self, Port},
    },
};

/// The embedded engine warns of every answer that is no success, a table's absence included.
const LOG_DEFAULT: &str = "warn,dynoxide=error";

/// How long the match waits for the demo's fans.
const FANS_WAIT: Duration = Duration::from_secs(2);
/// How often the page is told how many fans there are.
const FANS_COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// Flags of `touchline local`.
#[derive(Debug, Args)]
#[command(after_help = "\
Everything listens on loopback only. Ctrl-C ends it in order, a second one at once; the data is
there at the next start.

Examples:
  touchline                                the demo, data in ./.touchline
  touchline --memory --speed 120           nothing kept, two match minutes a second
  touchline --no-replay --no-demo          an empty system to write to
  touchline --grpc-port 0 --fans-port 0    any free ports, said at the start")]
pub struct LocalArgs {
    #[command(flatten)]
    /// What runs, and where
    pub stack: StackArgs,
    #[command(flatten)]
    /// How fast the match is
    pub pace: Pace,
    /// Play no match until somebody does on the page: events come from you alone
    #[arg(long)]
    pub no_replay: bool,
    /// Port of the page
    #[arg(
        long,
        env = "TOUCHLINE_PAGE_PORT",
        default_value_t = 8080,
        value_name = "PORT"
    )]
    pub page_port: u16,
    /// Demo fans to connect, each a consumer of the demo on a WebSocket of its own; at most 1,000
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(..=1000), value_name = "COUNT")]
    pub fans: u16,
    /// What the services log to standard error, such as info or touchline_push=debug
    #[arg(
        long,
        env = "TOUCHLINE_LOG",
        default_value = LOG_DEFAULT,
        value_parser = filter,
        value_name = "FILTER"
    )]
    pub log: EnvFilter,
    #[command(flatten)]
    /// How it looks
    pub format: Format,
}

/// Runs the command until `shutdown`.
pub async fn run(args: LocalArgs, shutdown: CancellationToken) -> Result<(), Error> {
    let begin = Instant::now();
    begin_log(args.log.clone(), LogFormat::Text);
    let listener = listen_for_page(args.page_port, &args.stack).await?;
    let stack = tokio::select! {
        stack = Stack::start(args.stack.clone()) => stack?,
        () = shutdown.cancelled() => return Err(Error::Interrupted),
    };
    show(stack, listener, args, begin, shutdown).await
}

/// Shows what happens in the stack until `shutdown`, or until a part of it ends; then ends it.
async fn show(
    stack: Stack,
    listener: TcpListener,
    args: LocalArgs,
    begin: Instant,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let data = (!args.stack.memory).then(|| args.stack.data_dir.clone());
    let tasks = TaskTracker::new();
    if args.stack.demo {
        connect_fans(&tasks, &stack, args.fans, &shutdown);
    }
    let audience = tasks.len();
    let page = listener.local_addr()?;
    let (remote, steering) = Remote::new(args.pace, !args.no_replay);
    let game = demo::world_cup_final();
    let parts = PageParts {
        client: client(&stack)?,
        gateway: stack.addresses().gateway_url(),
        game: game.clone(),
        remote,
        rounds: stack.rounds(),
    };
    let desk = page::start(listener, parts, &tasks, &shutdown);
    tasks.close();

    let watched = async {
        match args.format.json {
            true => output::line(banner::json(page, stack.addresses(), data.as_deref()))?,
            false => output::line(banner::text(
                page,
                stack.addresses(),
                data.as_deref(),
                begin.elapsed(),
                !args.no_replay,
            ))?,
        }
        if !args.no_replay && !args.format.json {
            output::line(log::header())?;
        }
        await_fans(&stack, audience).await;
        let event_id = game.event_id.to_string();
        let played = play_steered(client(&stack)?, game, event_id, true, steering);
        watch_replay(&stack, &desk, played, args.format, &shutdown).await
    };
    let watched = tokio::select! {
        // First, as what else fails then fails because of it.
        biased;
        part = stack.part_ended() => Err(Error::PartEnded { part, ending: None }),
        watched = watched => watched,
    };
    // Whatever ended the watching, the stack ends in order.
    match watched {
        Err(Error::PartEnded { part, .. }) => output::note(format_args!(
            "\n{part} ended by itself; ending the rest in order; Ctrl-C twice ends at once"
        )),
        _ => output::note("\nending in order; Ctrl-C again ends at once"),
    }
    shutdown.cancel();
    let ended = end(stack, &tasks, data).await;
    match watched {
        Err(Error::PartEnded { part, .. }) => Err(Error::PartEnded {
            part,
            ending: ended.err().map(Box::new),
        }),
        watched => ended.and(watched),
    }
}

/// Connects the demo's fans, who print nothing: they are there to be served.
fn connect_fans(tasks: &TaskTracker, stack: &Stack, count: u16, shutdown: &CancellationToken) {
    let consumers = demo::consumers();
    for (number, consumer) in consumers
        .iter()
        .cycle()
        .take(usize::from(count))
        .enumerate()
    {
        let fan = Fan {
            caller: Caller::default(),
            consumer_id: consumer.consumer_id.clone(),
            device_id: format!("demo-{number}"),
            content_id: demo::CONTENT_ID.to_owned(),
            protocol: Protocol::V2,
        };
        let messages = listen(stack.addresses().gateway_url(), fan);
        let listening = async move {
            let served = messages.try_for_each(|heard| async {
                if let Heard::Interrupted { reason, .. } = heard {
                    tracing::debug!(reason, "a demo fan is interrupted");
                }
                Ok(())
            });
            if let Err(error) = Box::pin(served).await {
                tracing::warn!(%error, "a demo fan cannot connect");
            }
        };
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(listening));
    }
}

/// Waits for the demo's fans, so that the first moment finds them. A replay without them is still a
/// replay.
async fn await_fans(stack: &Stack, count: usize) {
    let connected = async {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        while stack.fans() < count {
            look.tick().await;
        }
    };
    if tokio::time::timeout(FANS_WAIT, connected).await.is_err() {
        tracing::warn!("not all demo fans are connected; the match begins without them");
    }
}

/// Prints a line for each moment that is played, once its fan-out is known.
async fn watch_replay(
    stack: &Stack,
    desk: &Desk,
    played: impl Stream<Item = Result<Played, touchline_client::Error>> + Send,
    format: Format,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let mut rounds = stack.rounds();
    let mut played = played.boxed();
    let mut log = Log::default();
    let mut count_fans = tokio::time::interval(FANS_COUNT_INTERVAL);
    loop {
        let overdue = log.overdue_at();
        let entries = tokio::select! {
            next = played.try_next() => match next.map_err(|source| failed(stack, source))? {
                Some(played) => {
                    desk.played(&played);
                    log.played(played, Instant::now())
                }
                None => return Ok(()),
            },
            round = rounds.recv() => match round {
                Ok(round) => log.round(&round),
                Err(RecvError::Lagged(_)) => Vec::new(),
                Err(RecvError::Closed) => return Ok(()),
            },
            () = async { sleep_until(overdue.expect("checked by the branch's condition").into()).await },
                if overdue.is_some() => log.overdue(Instant::now()),
            _ = count_fans.tick() => {
                desk.connected(stack.fans());
                Vec::new()
            }
            () = shutdown.cancelled() => return Ok(()),
        };
        entries.iter().try_for_each(|entry| match format.json {
            true => output::line(entry.json()),
            false => output::line(entry.text()),
        })?;
    }
}

fn client(stack: &Stack) -> Result<Client, Error> {
    Client::connect(&stack.addresses().server_url()).map_err(|source| failed(stack, source))
}

fn failed(stack: &Stack, source: touchline_client::Error) -> Error {
    Error::Server {
        server: stack.addresses().server_url(),
        source,
    }
}

/// Takes the page's port, before anything is started. Browsers that come meanwhile wait.
async fn listen_for_page(port: u16, stack: &StackArgs) -> Result<TcpListener, Error> {
    let (what, flag) = ("the page", "--page-port");
    ports::check_with(stack, [Port { port, what, flag }])?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    listener.map_err(|source| Error::Port {
        port,
        what,
        flag,
        source,
    })
}

/// Ends everything, and says so.
async fn end(stack: Stack, tasks: &TaskTracker, data: Option<PathBuf>) -> Result<(), Error> {
    tasks.wait().await;
    stack.stop().await?;
    match data {
        Some(folder) => output::note(format_args!("ended; the data is in {}", folder.display())),
        None => output::note("ended; nothing was kept"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn args() -> LocalArgs {
        let mut flags = vec!["touchline", "--memory", "--no-replay"];
        for port in [
            "--page-port",
            "--fans-port",
            "--management-port",
            "--grpc-port",
            "--push-grpc-port",
            "--dynamodb-port",
        ] {
            flags.extend([port, "0"]);
        }
        Cli::parse_from(flags).local
    }

    #[tokio::test]
    async fn a_part_that_ends_by_itself_is_named_and_ends_the_rest_in_order() {
        for (part, end_it) in Stack::PARTS {
            let args = args();
            let listener = listen_for_page(0, &args.stack).await.unwrap();
            let page = listener.local_addr().unwrap();
            let stack = Stack::start(args.stack.clone()).await.unwrap();
            let addresses = stack.addresses();
            let places = [page, addresses.grpc, addresses.dynamodb];

            end_it(&stack);
            let shutdown = CancellationToken::new();
            let showing = show(stack, listener, args, Instant::now(), shutdown);
            let shown = tokio::time::timeout(Duration::from_secs(40), showing).await;
            let error = shown.unwrap().unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("{part} ended by itself")),
                "{error}"
            );
            for place in places {
                let free = std::net::TcpListener::bind(place);
                assert!(free.is_ok(), "{place} after {part} ended");
            }
        }
    }
}
