//! The bare thing: a tonic server of the same two methods that has nothing around its calls, and sends
//! what it was given: as messages, by the code that tonic generates, or as bytes that are encoded
//! already. It decides nothing.

mod bytes;
mod messages;

use std::{path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use prost::Message;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    process::{Child, ChildStdin, Command},
    sync::watch,
};
use tonic::{
    Status,
    transport::{Server, server::TcpIncoming},
};

use super::script::Script;
use crate::system::{DEADLINE, cpu_of};

/// Streams of a connection: hyper's default of 200 is fewer than a connection has watchers here.
const STREAMS_MAX: u32 = 100_000;

/// What a bare server sends.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File of a script
    #[arg(long)]
    script: PathBuf,
    /// As what it holds them
    #[arg(long, value_enum)]
    holds: Holds,
}

/// As what a bare server holds its answers.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Holds {
    /// As messages, which are copied and encoded for each answer
    Messages,
    /// As bytes, encoded once
    Bytes,
}

impl Holds {
    fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Bytes => "bytes",
        }
    }
}

/// The line by which the process says where it serves.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    url: String,
}

/// Serves; each line on standard input is the number of the state that streams are told of. Until
/// standard input ends.
pub(crate) async fn run(args: Args) -> Result<()> {
    let script = Script::decode(&*std::fs::read(args.script)?)?;
    let state = watch::Sender::new(0);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    println!("{}", serde_json::to_string(&Ready { url })?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let mut server = Server::builder().max_concurrent_streams(STREAMS_MAX);
    let server = match args.holds {
        Holds::Messages => server.add_service(messages::service(script, state.subscribe())?),
        Holds::Bytes => server.add_service(bytes::service(script, state.subscribe())),
    };
    let serving = server.serve_with_incoming(incoming);
    let told = async {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Some(line) = lines.next_line().await? {
            state.send_replace(line.parse()?);
        }
        anyhow::Ok(())
    };
    tokio::select! {
        served = serving => Ok(served?),
        told = told => told,
    }
}

/// Tells a stream of each state from now on, beginning with the one that stands.
fn told<M: Clone + Send + Sync + 'static>(
    mut state: watch::Receiver<usize>,
    messages: Arc<[M]>,
) -> BoxStream<'static, Result<M, Status>> {
    state.mark_changed();
    let stream = stream::unfold((state, messages), |(mut state, messages)| async move {
        state.changed().await.ok()?;
        let number = *state.borrow_and_update();
        let message = messages.get(number).cloned();
        let message = message.ok_or_else(|| Status::not_found("no such state"));
        Some((message, (state, messages)))
    });
    stream.boxed()
}

fn unknown() -> Status {
    Status::not_found("no such consumer")
}

/// The process; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Bare {
    url: String,
    pid: u32,
    stdin: ChildStdin,
    _child: Child,
    _folder: TempDir,
}

impl Bare {
    /// Starts it and waits until it serves.
    pub(super) async fn start(script: &Script, holds: Holds) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("script");
        std::fs::write(&path, script.encode_to_vec())?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("bare")
            .arg("--script")
            .arg(path)
            .args(["--holds", holds.as_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await;
        let line = line.context("the bare server does not start")??;
        let Ready { url } = serde_json::from_str(&line.context("the bare server ended")?)?;
        Ok(Self {
            url,
            pid: child.id().context("it has not ended")?,
            stdin: child.stdin.take().context("standard input is piped")?,
            _child: child,
            _folder: folder,
        })
    }

    /// Where it serves.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Processor time that it has used so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.pid)
    }

    /// Lets it tell its streams of a state.
    pub(super) async fn change(&mut self, number: usize) -> Result<()> {
        self.stdin
            .write_all(format!("{number}\n").as_bytes())
            .await?;
        Ok(self.stdin.flush().await?)
    }
}
