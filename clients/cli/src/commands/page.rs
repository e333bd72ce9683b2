//! `touchline page`: the page of `touchline local` beside an installation that runs elsewhere: its
//! phones are fans of a real gateway, its desk writes over a real server. Knows no figures of
//! fan-outs: those are the push adapter's to tell.

use std::net::SocketAddr;

use clap::Args;
use futures::{StreamExt, TryStreamExt};
use tokio::{net::TcpListener, sync::broadcast};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Error,
    args::{GATEWAY, ServerAddress},
    demo, output,
    page::{self, PageParts},
    replay::{Pace, Remote, play_steered},
};

/// Flags of `touchline page`.
#[derive(Debug, Args)]
#[command(after_help = "\
The page knows no callers, so it answers only to who calls it localhost: in a cluster reach it with
`kubectl port-forward`. It plays the match when somebody presses play.

Examples:
  touchline page --server http://127.0.0.1:50051 --gateway ws://127.0.0.1:8081/dev
  touchline page --listen 0.0.0.0:8080 --insecure --server http://touchline-server:50051 \\
      --gateway wss://fans.example/dev")]
pub struct PageArgs {
    /// Address that it listens on; port 0 takes any free one
    #[arg(
        long,
        env = "TOUCHLINE_PAGE_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
    /// Listen beyond this machine although callers are not authenticated
    #[arg(long, env = "TOUCHLINE_INSECURE")]
    pub insecure: bool,
    /// Address of the fans' WebSocket, as a browser reaches it
    #[arg(long, env = "TOUCHLINE_GATEWAY", default_value = GATEWAY, value_name = "URL")]
    pub gateway: String,
    #[command(flatten)]
    /// How fast the match is
    pub pace: Pace,
    #[command(flatten)]
    /// Where
    pub at: ServerAddress,
}

/// Serves until `shutdown`.
pub async fn run(args: PageArgs, shutdown: CancellationToken) -> Result<(), Error> {
    super::check_listen(args.listen, args.insecure)?;
    let client = args.at.client()?;
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.map_err(|source| Error::Port {
        port: args.listen.port(),
        what: "the page",
        flag: "--listen",
        source,
    })?;
    let address = listener.local_addr()?;
    let (remote, steering) = Remote::new(args.pace, false);
    let game = demo::world_cup_final();
    let event_id = game.event_id.to_string();
    let parts = PageParts {
        client: client.clone(),
        gateway: args.gateway,
        game: game.clone(),
        remote,
        // Nobody tells this process of fan-outs.
        rounds: broadcast::channel(1).1,
    };
    let tasks = TaskTracker::new();
    let desk = page::start(listener, parts, &tasks, &shutdown);
    tasks.close();
    output::line(format_args!(
        "the page is at http://{address}; Ctrl-C ends it"
    ))?;
    let mut played = play_steered(client, game, event_id, true, steering).boxed();
    let playing = async {
        while let Some(played) = played.try_next().await? {
            desk.played(&played);
        }
        Ok(())
    };
    let ended = tokio::select! {
        ended = playing => ended,
        () = shutdown.cancelled() => Ok(()),
    };
    shutdown.cancel();
    tasks.wait().await;
    ended.map_err(|source| Error::Server {
        server: args.at.server,
        source,
    })
}
