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
use touchline_client::Client;
use tracing_subscriber::EnvFilter;

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
    tracing_subscriber::fmt()
        .with_env_filter(args.log)
        .with_writer(std::io::stderr)
        .with_ansi(output::has_terminal())
        .init();
    let data = (!args.stack.memory).then(|| args.stack.data_dir.clone());
    let demo = args.stack.demo;
    let listener = listen_for_page(args.page_port, &args.stack).await?;
    let stack = tokio::select! {
        stack = Stack::start(args.stack) => stack?,
        () = shutdown.cancelled() => return Err(Error::Interrupted),
    };
    let tasks = TaskTracker::new();
    if demo {
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
    let watched = watched.await;
    // Whatever ended the watching, the stack ends in order.
    shutdown.cancel();
    end(stack, &tasks, data).await?;
    watched
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
            if let Err(error) = served.await {
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
    output::note("\nending in order; Ctrl-C again ends at once");
    tasks.wait().await;
    stack.stop().await?;
    match data {
        Some(folder) => output::note(format_args!("ended; the data is in {}", folder.display())),
        None => output::note("ended; nothing was kept"),
    }
    Ok(())
}
