//! The embedded DynamoDB engine in a process of its own, so that what is used of it is
//! not counted with who uses it.

use std::process::Stdio;

use anyhow::{Context, Result};
use clap::Parser;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdin, Command},
};
use touchline_store::{
    embedded::{Embedded, Place},
    tables::{Store, StoreArgs},
};

use crate::system::DEADLINE;

/// The line by which the process says where it serves.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    endpoint: String,
}

/// Serves an empty one, in memory, until standard input ends.
pub(crate) async fn run() -> Result<()> {
    let embedded = Embedded::start(Place::Memory, ([127, 0, 0, 1], 0).into()).await?;
    let endpoint = format!("http://{}", embedded.address());
    println!("{}", serde_json::to_string(&Ready { endpoint })?);
    // Nothing is ever written to it: it ends with whoever started this.
    let _ = tokio::io::stdin().read(&mut [0]).await?;
    embedded.stop().await;
    Ok(())
}

/// The process; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct DynamoDb {
    pub(crate) endpoint: String,
    pub(crate) pid: u32,
    _child: Child,
    _stdin: Option<ChildStdin>,
}

impl DynamoDb {
    /// Starts it and waits until it serves.
    pub(crate) async fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("dynamo-db")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await;
        let line = line.context("the embedded DynamoDB does not start")??;
        let line = line.context("the embedded DynamoDB ended")?;
        let Ready { endpoint } = serde_json::from_str(&line)?;
        Ok(Self {
            endpoint,
            pid: child.id().context("it has not ended")?,
            _stdin: child.stdin.take(),
            _child: child,
        })
    }

    /// Its tables, for a process that is not measured.
    pub(crate) async fn store(&self) -> Store {
        #[derive(Parser)]
        struct Args {
            #[command(flatten)]
            store: StoreArgs,
        }
        let args = Args::parse_from(["bench", "--dynamodb-endpoint", &self.endpoint]);
        Store::connect(&args.store).await
    }
}
