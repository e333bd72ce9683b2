//! One of Touchline's services as a process of its own, and the flags that all runs of it share. Knows
//! no message of it but how a log writes one.

use std::{
    collections::VecDeque,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::system::{DEADLINE, binary, cpu_of};

/// Lines of a log that are kept.
const LOG_LINES_MAX: usize = 60;

/// Any free port.
pub(crate) const ANY: &str = "127.0.0.1:0";

/// Flags of every adapter beside addresses: the pace of reading for a store that is not AWS's.
const PACE: [(&str, &str); 2] = [
    ("--poll-interval", "20ms"),
    ("--shard-reads-per-second", "1000"),
];

/// The last lines of a service's log.
type Log = Arc<Mutex<VecDeque<String>>>;

/// A running service; killed when dropped.
#[derive(Debug)]
pub(crate) struct Service {
    name: String,
    child: Child,
    pub(crate) pid: u32,
    log: Log,
    // What it logs is read to its end, so that it never waits for a reader.
    _reading: AbortOnDropHandle<()>,
}

impl Service {
    /// Starts a binary, which must log one message after the other; gives the fields of each. A flag
    /// whose value is empty stands alone.
    pub(crate) async fn start<const N: usize>(
        (name, executable): (&str, &str),
        flags: &[(&str, &str)],
        messages: [&str; N],
    ) -> Result<(Self, [Value; N])> {
        let mut child = Command::new(binary(executable)?)
            .args(
                flags
                    .iter()
                    .flat_map(|(flag, value)| arguments(flag, value)),
            )
            .args(["--log-format", "json"])
            // They would all meet on the default ports.
            .env("TOUCHLINE_METRICS_LISTEN", "127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{executable} does not start"))?;
        let pid = child.id().context("it has not ended")?;
        let stderr = child.stderr.take().context("standard error is piped")?;
        let mut lines = BufReader::new(stderr).lines();
        let log = Log::default();
        let mut said = [const { Value::Null }; N];
        for (message, said) in messages.iter().zip(&mut said) {
            let saying = tokio::time::timeout(DEADLINE, says(message, &mut lines, &log)).await;
            let saying = saying.unwrap_or_else(|_| bail!("it does not say {message:?}"));
            *said = saying.with_context(|| format!("{name}: {}", lines_of(&log)))?;
        }
        let reading = TaskTracker::new().spawn({
            let log = log.clone();
            async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    keep(&log, line);
                }
            }
        });
        let service = Self {
            name: name.to_owned(),
            child,
            pid,
            log,
            _reading: AbortOnDropHandle::new(reading),
        };
        Ok((service, said))
    }

    /// Processor time that it has used so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.pid).with_context(|| format!("{} has ended", self.name))
    }

    /// Kills it as a power cut does, and waits until it is gone.
    pub(crate) async fn kill_9(mut self) -> Result<()> {
        self.child.kill().await.context("kill -9")
    }

    /// Asks it to end, and waits until it has, which it must do well and within this time.
    pub(crate) async fn terminate(mut self, time: Duration) -> Result<()> {
        let pid = self.pid.to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().await?;
        ensure!(sent.success(), "kill -TERM {pid}: {sent}");
        let ended = tokio::time::timeout(time, self.child.wait()).await;
        let ended =
            ended.with_context(|| format!("not ended within {time:?}: {}", self.log()))??;
        ensure!(ended.success(), "it ended with {ended}: {}", self.log());
        Ok(())
    }

    /// The end of its log, for a person to read.
    pub(crate) fn log(&self) -> String {
        format!(
            "{}, the end of its log:\n{}",
            self.name,
            lines_of(&self.log)
        )
    }
}

/// A flag and its value, if it has one.
fn arguments<'a>(flag: &'a str, value: &'a str) -> impl Iterator<Item = &'a str> {
    std::iter::once(flag).chain(Some(value).filter(|value| !value.is_empty()))
}

/// Reads the log until a message comes; gives its fields.
async fn says(
    message: &str,
    lines: &mut Lines<BufReader<ChildStderr>>,
    log: &Log,
) -> Result<Value> {
    while let Some(line) = lines.next_line().await? {
        let said: Option<Value> = serde_json::from_str(&line).ok();
        keep(log, line);
        if let Some(mut said) = said
            && said["fields"]["message"] == message
        {
            return Ok(said["fields"].take());
        }
    }
    bail!("it ended before it said {message:?}")
}

fn keep(log: &Log, line: String) {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    if log.len() >= LOG_LINES_MAX {
        log.pop_front();
    }
    log.push_back(line);
}

fn lines_of(log: &Log) -> String {
    let log = log.lock().unwrap_or_else(PoisonError::into_inner);
    log.iter().map(|line| format!("  {line}\n")).collect()
}

/// Flags of an adapter over these tables that asks this server.
pub(crate) fn adapter_flags<'a>(
    endpoint: &'a str,
    server_url: &'a str,
) -> Vec<(&'static str, &'a str)> {
    let mut flags = vec![
        ("--dynamodb-endpoint", endpoint),
        ("--server", server_url),
        ("--listen", ANY),
        ("--management-listen", ANY),
    ];
    flags.extend(PACE);
    flags
}

/// A field of a message in a log.
pub(crate) fn text<'a>(said: &'a Value, field: &str) -> Result<&'a str> {
    let text = said[field].as_str();
    text.with_context(|| format!("no {field} in {said}"))
}
