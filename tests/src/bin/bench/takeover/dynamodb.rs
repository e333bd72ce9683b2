//! The embedded DynamoDB engine in a process of its own, so that what the adapters use of it is not
//! theirs.

use std::process::Stdio;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdin, Command},
};
use touchline_store::embedded::{Embedded, Place};

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
pub(super) struct DynamoDb {
    pub(super) endpoint: String,
    _child: Child,
    _stdin: Option<ChildStdin>,
}

impl DynamoDb {
    /// Starts it and waits until it serves.
    pub(super) async fn start() -> Result<Self> {
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
            _stdin: child.stdin.take(),
            _child: child,
        })
    }
}
