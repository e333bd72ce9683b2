//! What is measured, as processes: the local stack as a user starts it, and the load beside it.
//! Reads what the kernel says of them; sets up no measurement.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdin, ChildStdout, Command},
};
use touchline_client::Client;
use touchline_tests::process::free_address;

use crate::load::Complete;

/// Nothing that is waited for takes longer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Ticks of `/proc/PID/stat` a second: USER_HZ, which is 100 on every architecture in use.
const TICKS_A_SECOND: u64 = 100;

/// The whole local stack in a process of its own; killed when dropped.
#[derive(Debug)]
pub(crate) struct System {
    child: Child,
    pid: u32,
    fans: SocketAddr,
    grpc: SocketAddr,
    /// From the start of the process until both ports answered.
    pub(crate) start_to_ready: Duration,
    _folder: TempDir,
}

impl System {
    /// Starts it, in memory and without a replay, and waits until it answers.
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (fans, grpc) = (free_address()?, free_address()?);
        let ports = [
            ("--fans-port", fans),
            ("--grpc-port", grpc),
            ("--management-port", free_address()?),
            ("--push-grpc-port", free_address()?),
            ("--dynamodb-port", free_address()?),
        ];
        let mut command = Command::new(touchline()?);
        command.args(["local", "--memory", "--no-replay", "--fans", "0"]);
        for flag in ["--page-port", "--metrics-port", "--push-metrics-port"] {
            command.args([flag, "0"]);
        }
        for (flag, address) in ports {
            command.args([flag, &address.port().to_string()]);
        }
        let start = Instant::now();
        let mut child = command
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("touchline does not start")?;
        let pid = child.id().context("it has not ended")?;
        for address in [grpc, fans] {
            answers(&mut child, address, start).await?;
        }
        Ok(Self {
            child,
            pid,
            fans,
            grpc,
            start_to_ready: start.elapsed(),
            _folder: folder,
        })
    }

    /// URL of the fans' WebSocket.
    pub(crate) fn gateway(&self) -> String {
        format!("ws://{}/dev", self.fans)
    }

    /// A client of its gRPC services.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::connect(&format!("http://{}", self.grpc))?)
    }

    /// Processor time that it has used so far, of all its threads.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let ticks = ticks(&stat).with_context(|| format!("not a stat line: {stat}"))?;
        Ok(Duration::from_millis(ticks * 1_000 / TICKS_A_SECOND))
    }

    /// Memory that it holds resident, in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kibibytes.context("no VmRSS")?.trim().parse::<u64>()? * 1_024)
    }

    /// Ends it.
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

/// Waits until something listens.
async fn answers(child: &mut Child, address: SocketAddr, start: Instant) -> Result<()> {
    while TcpStream::connect(address).await.is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("touchline ended: {status}");
        }
        ensure!(start.elapsed() < DEADLINE, "nothing listens on {address}");
        // The pace of looking.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// The binary `touchline` beside this one.
fn touchline() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("touchline");
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
}
