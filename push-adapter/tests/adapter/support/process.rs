//! The real binary as a process that can be stopped and killed. Asserts nothing by itself.

use std::{net::SocketAddr, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::DEADLINE;

/// The binary with these arguments and nothing in its environment; killed when dropped.
pub(crate) fn push(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_touchline-push"));
    command
        .args(args)
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// A running binary that listens anywhere on loopback.
pub(crate) struct Process {
    pub(crate) child: Child,
    /// What it said when it had started.
    started: String,
}

impl Process {
    /// Starts the binary and waits until it says that it started.
    pub(crate) async fn start(args: &[&str]) -> Self {
        let free = "127.0.0.1:0";
        let mut all = vec![
            "--listen",
            free,
            "--fans-listen",
            free,
            "--management-listen",
            free,
        ];
        all.extend(args);
        let mut child = push(&all).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let wait = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains("started") {
                    return line;
                }
            }
            panic!("it ended");
        };
        let started = tokio::time::timeout(DEADLINE, wait).await.unwrap();
        // It stays open, so that its log never stops it.
        child.stderr = Some(lines.into_inner().into_inner());
        Self { child, started }
    }

    /// Where fans connect.
    pub(crate) fn fans(&self) -> SocketAddr {
        let (_, rest) = self.started.split_once("fans=Some(").unwrap();
        rest.split_once(')').unwrap().0.parse().unwrap()
    }

    /// Sends it a signal, such as `-STOP`.
    pub(crate) async fn signal(&self, signal: &str) {
        let id = self.child.id().unwrap().to_string();
        let status = Command::new("kill").args([signal, &id]).status().await;
        assert!(status.unwrap().success());
    }

    /// Waits until it ends, and gives its exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(DEADLINE, self.child.wait());
        ended.await.unwrap().unwrap().code()
    }
}
