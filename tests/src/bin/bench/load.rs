//! Many fans in one process: real WebSocket connections that say when the last of them has received
//! a version. They show nothing and never answer.

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncReadExt, net::TcpStream, sync::mpsc, task::JoinSet};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message as Frame,
};
use touchline_tests::fan::registration;

/// Handshakes under way at one moment.
const CONNECTING_MAX: usize = 32;

/// Receipts that wait to be counted.
const RECEIPTS_MAX: usize = 4_096;

/// How many fans connect where.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// URL of the fans' WebSocket.
    #[arg(long)]
    gateway: String,
    /// How many fans to connect.
    #[arg(long)]
    fans: usize,
}

/// A version that every fan has received.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Complete {
    /// The version.
    pub(crate) version: String,
    /// How many fans received it: all of them.
    pub(crate) count: usize,
    /// When the last of them did, in nanoseconds since 1970.
    pub(crate) last_unix_ns: u64,
    /// How many sets all fans together have received so far.
    pub(crate) pushes: u64,
}

/// The part of a fan's message that is looked at.
#[derive(Debug, Deserialize)]
struct Message {
    version: Option<String>,
}

struct Receipt {
    version: String,
    unix_ns: u64,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Connects the fans and prints each [`Complete`] as a line of JSON, until standard input ends.
pub(crate) async fn run(args: Args) -> Result<()> {
    let (receipts, mut received) = mpsc::channel(RECEIPTS_MAX);
    let mut fans = JoinSet::new();
    let mut connecting = stream::iter(1..=args.fans)
        .map(|number| connect(&args.gateway, number))
        .buffer_unordered(CONNECTING_MAX);
    while let Some(socket) = connecting.try_next().await? {
        fans.spawn(read(socket, receipts.clone()));
    }
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut pushes = 0;
    let mut stdin = tokio::io::stdin();
    let mut nothing = [0];
    loop {
        let receipt = tokio::select! {
            receipt = received.recv() => receipt.context("no fan is left")?,
            Some(ended) = fans.join_next() => return ended?,
            _ = stdin.read(&mut nothing) => return Ok(()),
        };
        pushes += 1;
        let count = counts.entry(receipt.version.clone()).or_default();
        *count += 1;
        if *count == args.fans {
            // Receipts of different fans cross on their way here by less than this loop's pace.
            let complete = Complete {
                version: receipt.version,
                count: args.fans,
                last_unix_ns: receipt.unix_ns,
                pushes,
            };
            println!("{}", serde_json::to_string(&complete)?);
        }
    }
}

async fn connect(gateway: &str, number: usize) -> Result<Socket> {
    let (mut socket, _) = connect_async(gateway)
        .await
        .with_context(|| format!("fan {number} cannot connect"))?;
    let mut message = registration(&format!("fan-{number:03}"), "final");
    message["protocol"] = 2.into();
    socket.send(Frame::text(message.to_string())).await?;
    Ok(socket)
}

/// Reports each version that comes, once; ends with an error when the connection does.
async fn read(mut socket: Socket, receipts: mpsc::Sender<Receipt>) -> Result<()> {
    let mut newest = None;
    while let Some(frame) = socket.next().await {
        let Frame::Text(text) = frame? else {
            continue;
        };
        let unix_ns = unix_ns(SystemTime::now());
        let message: Message = serde_json::from_str(&text)?;
        let Some(version) = message.version else {
            bail!("not a set: {text}");
        };
        if newest.as_ref() != Some(&version) {
            newest = Some(version.clone());
            receipts.send(Receipt { version, unix_ns }).await?;
        }
    }
    bail!("a fan's connection was closed")
}

/// Nanoseconds since 1970.
pub(crate) fn unix_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
