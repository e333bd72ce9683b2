//! Touchline's own binaries as processes that can be stopped and killed.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener},
    ops::Range,
    path::PathBuf,
    process::Stdio,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};
use tokio::process::{Child, ChildStdin, Command};

use crate::eventually;

/// A running binary; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    /// Starts `name` with `arguments`. Its log goes to the test's standard error.
    pub fn start(name: &'static str, arguments: &[&str]) -> Result<Self> {
        Self::start_in(name, arguments, &[])
    }

    /// The same, with these variables in its environment.
    pub fn start_in(
        name: &'static str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let child = Command::new(binary(name)?)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        Ok(Self { name, child })
    }

    /// Waits until something listens on `address`.
    pub async fn listens(&mut self, address: SocketAddr) -> Result<()> {
        let name = self.name;
        let child = &mut self.child;
        let mut ended = None;
        eventually(&format!("{name} listens on {address}"), || {
            ended = ended.or(child.try_wait().ok().flatten());
            let ended = ended;
            async move {
                let open = tokio::net::TcpStream::connect(address).await.is_ok();
                (open || ended.is_some()).then_some(())
            }
        })
        .await;
        match ended {
            Some(status) => bail!("{name} ended: {status}"),
            None => Ok(()),
        }
    }

    /// Kills it as a power cut does.
    pub async fn kill_9(mut self) -> Result<()> {
        self.child.kill().await.context("kill -9")
    }

    /// Asks it to end, and gives its exit code.
    pub async fn terminate(self) -> Result<Option<i32>> {
        let pid = self.child.id().context("it has ended already")?;
        let sent = Command::new("kill")
            .args(["-TERM", &pid.to_string()])
            .status()
            .await?;
        if !sent.success() {
            bail!("kill -TERM {pid}: {sent}");
        }
        self.ended().await
    }

    /// Waits for its end, and gives its exit code.
    pub async fn ended(mut self) -> Result<Option<i32>> {
        let status = tokio::time::timeout(crate::DEADLINE, self.child.wait())
            .await
            .with_context(|| format!("{} does not end", self.name))??;
        Ok(status.code())
    }
}

/// What a binary that ended has said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A binary whose words are wanted; killed when dropped.
#[derive(Debug)]
pub struct Talking(Child);

impl Talking {
    /// Starts `name` with `arguments`.
    pub fn start(name: &'static str, arguments: &[&str]) -> Result<Self> {
        Self::spawn(name, arguments, Stdio::null())
    }

    /// The same, and what is written becomes its standard input.
    pub fn start_told(name: &'static str, arguments: &[&str]) -> Result<(Self, ChildStdin)> {
        let mut talking = Self::spawn(name, arguments, Stdio::piped())?;
        let input = talking.0.stdin.take().context("it was asked for")?;
        Ok((talking, input))
    }

    fn spawn(name: &'static str, arguments: &[&str], input: Stdio) -> Result<Self> {
        let child = Command::new(binary(name)?)
            .args(arguments)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        Ok(Self(child))
    }

    /// Sends what Ctrl-C sends.
    pub async fn interrupt(&self) -> Result<()> {
        let pid = self.0.id().context("it has ended already")?;
        let sent = Command::new("kill")
            .args(["-INT", &pid.to_string()])
            .status()
            .await?;
        anyhow::ensure!(sent.success(), "kill -INT {pid}: {sent}");
        Ok(())
    }

    /// Waits for its end.
    pub async fn ended(self) -> Result<Said> {
        let ended = tokio::time::timeout(crate::DEADLINE, self.0.wait_with_output());
        let output = ended.await.context("it does not end")??;
        Ok(Said {
            code: output.status.code(),
            out: String::from_utf8(output.stdout)?,
            err: String::from_utf8(output.stderr)?,
        })
    }
}

/// Ports that no system gives by itself: neither to who asks for any free one nor to who connects
/// somewhere (the lowest of those is 32,768 on Linux, 49,152 elsewhere). What is given is still free a
/// moment later.
const PORTS: Range<u16> = 10_000..32_768;
const ATTEMPTS_MAX: usize = 1_000;

/// A loopback address that was free a moment ago, and that this process was not given before.
pub fn free_address() -> Result<SocketAddr> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..ATTEMPTS_MAX {
        let address = SocketAddr::from(([127, 0, 0, 1], rand::random_range(PORTS)));
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if TcpListener::bind(address).is_ok() && given.insert(address.port()) {
            return Ok(address);
        }
    }
    bail!("{ATTEMPTS_MAX} ports of {PORTS:?} are taken")
}

/// `cargo test` puts the workspace's binaries beside the test's own folder.
fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile = test
        .ancestors()
        .nth(2)
        .context("the test stands in target/<profile>/deps")?;
    let path = profile.join(name);
    if !path.exists() {
        bail!("{} is not built: run `cargo build` first", path.display());
    }
    Ok(path)
}
