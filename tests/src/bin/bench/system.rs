//! What is measured, as processes: the local stack as a user starts it, and the load beside it.
//! Reads what the kernel says of them; sets up no measurement.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use touchline_client::Client;

use crate::load::Complete;

/// Nothing that is waited for takes longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Ticks of `/proc/PID/stat` a second: USER_HZ, which is 100 on every architecture in use.
const TICKS_A_SECOND: u64 = 100;

/// The whole local stack in a process of its own; killed when dropped.
#[derive(Debug)]
pub(crate) struct System {
    child: Child,
    pid: u32,
    ready: Ready,
    /// From the start of the process until it said that it is ready.
    pub(crate) start_to_ready: Duration,
    // What it prints is read to its end, so that it never waits for a reader.
    _draining: AbortOnDropHandle<()>,
    // Its working directory and its temporary files; removed after it was killed.
    _folder: TempDir,
}

/// The line by which `touchline local --json` says that it is ready, and where.
#[derive(Debug, Deserialize)]
struct Ready {
    server: String,
    gateway: String,
}

impl System {
    /// Starts it, in memory, without a replay and on free ports, and waits until it says that it is
    /// ready.
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(binary("touchline")?);
        command.args(["local", "--json", "--memory", "--no-replay", "--fans", "0"]);
        for port in [
            "page",
            "metrics",
            "push-metrics",
            "fans",
            "grpc",
            "management",
            "push-grpc",
            "dynamodb",
        ] {
            command.args([&format!("--{port}-port"), "0"]);
        }
        let start = Instant::now();
        let mut child = command
            .current_dir(folder.path())
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("touchline does not start")?;
        let pid = child.id().context("it has not ended")?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = tokio::time::timeout(DEADLINE, ready(&mut lines)).await;
        let ready = ready.context("touchline does not say that it is ready")??;
        let start_to_ready = start.elapsed();
        let draining = TaskTracker::new()
            .spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self {
            child,
            pid,
            ready,
            start_to_ready,
            _draining: AbortOnDropHandle::new(draining),
            _folder: folder,
        })
    }

    /// URL of the fans' WebSocket.
    pub(crate) fn gateway(&self) -> &str {
        &self.ready.gateway
    }

    /// A client of its gRPC services.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.ready.server)?)
    }

    /// Processor time that it has used so far, of all its threads.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.pid)
    }

    /// Memory that it holds resident, in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        resident_bytes_of(self.pid)
    }

    /// Kills it: nothing of it is kept.
    pub(crate) async fn stop(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// Fans in a process of their own; they leave when it is dropped.
#[derive(Debug)]
pub(crate) struct Load {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
    _stdin: Option<ChildStdin>,
}

impl Load {
    /// Starts connecting fans.
    pub(crate) fn start(gateway: &str, fans: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["load", "--gateway", gateway, "--fans", &fans.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        Ok(Self {
            lines: BufReader::new(stdout).lines(),
            _stdin: child.stdin.take(),
            _child: child,
        })
    }

    /// The next version that all fans have.
    pub(crate) async fn next(&mut self) -> Result<Complete> {
        let line = tokio::time::timeout(DEADLINE, self.lines.next_line()).await;
        let line = line.context("no version reached all fans")??;
        Ok(serde_json::from_str(
            &line.context("the fans' process ended")?,
        )?)
    }
}

/// Reads until the line that says where everything is.
async fn ready(lines: &mut Lines<impl AsyncBufRead + Unpin>) -> Result<Ready> {
    while let Some(line) = lines.next_line().await? {
        let said: serde_json::Value = serde_json::from_str(&line)?;
        if said["type"] == "ready" {
            return Ok(serde_json::from_value(said)?);
        }
    }
    bail!("touchline ended before it was ready")
}

/// Processor time that a process has used so far, of all its threads.
pub(crate) fn cpu_of(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = ticks(&stat).with_context(|| format!("not a stat line: {stat}"))?;
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_A_SECOND))
}

/// Memory that a process holds resident, in bytes.
pub(crate) fn resident_bytes_of(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kibibytes.context("no VmRSS")?.trim().parse::<u64>()? * 1_024)
}

/// One of Touchline's binaries, beside this one.
pub(crate) fn binary(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(
        path.exists(),
        "{} is not built: run `cargo build` with the same profile first",
        path.display()
    );
    Ok(path)
}

/// User and system time of a line of `/proc/PID/stat`. The name, in parentheses, may hold spaces.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_past_a_name_with_spaces_and_parentheses() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194304 9 0 0 0 30 12 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some(42));
    }
    #[tokio::test]
    async fn a_system_is_ready_once_it_says_so() -> Result<()> {
        let said = "{\"type\":\"other\"}\n\
            {\"type\":\"ready\",\"server\":\"http://s\",\"gateway\":\"ws://g\"}\n";
        let ready = ready(&mut said.as_bytes().lines()).await?;
        assert_eq!((&*ready.server, &*ready.gateway), ("http://s", "ws://g"));
        Ok(())
    }

    #[tokio::test]
    async fn a_system_that_ends_before_it_is_ready_is_an_error() {
        assert!(ready(&mut "{}\n".as_bytes().lines()).await.is_err());
    }
}
