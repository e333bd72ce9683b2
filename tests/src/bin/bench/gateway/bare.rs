//! The bare thing: a tokio-tungstenite server, with a task and a channel a connection, that sends to all
//! its connections what it was given, on command. It decides nothing.

use std::{
    collections::HashMap,
    io::Read,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_tungstenite::{
    accept_async,
    tungstenite::{Message, Utf8Bytes},
};

use super::script::STATES;
use crate::{load::unix_ns, system::DEADLINE};

/// Messages that wait for one connection.
const WAITING_MAX: usize = 16;

/// The answer to a registration.
const REGISTERED: &str = "{\"status\": \"success\"}";

/// What the process says on its standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Said {
    Listens { address: SocketAddr },
    Loaded,
}

/// What it is told on its standard input.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told {
    /// Hold these messages: a file that fans recorded.
    Load { path: std::path::PathBuf },
    /// Send everybody's message of a state.
    Send { state: usize },
}

/// By fan: where its messages go, and those of each state.
#[derive(Debug, Default)]
struct Fan {
    sender: Option<mpsc::Sender<Utf8Bytes>>,
    texts: [Option<Utf8Bytes>; STATES],
}

type Fans = Arc<Mutex<Vec<Fan>>>;

/// Serves until standard input ends.
pub(crate) async fn run() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    say(&Said::Listens { address })?;
    let fans = Fans::default();
    let mut conversations = JoinSet::new();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                conversations.spawn(converse(accepted?.0, fans.clone()));
            }
            // Who has left is forgotten.
            Some(_) = conversations.join_next() => {}
            line = lines.next_line() => match line? {
                None => return Ok(()),
                Some(line) => match serde_json::from_str(&line)? {
                    Told::Load { path } => {
                        load(&path, &mut locked(&fans))?;
                        say(&Said::Loaded)?;
                    }
                    Told::Send { state } => send(state, &locked(&fans))?,
                },
            }
        }
    }
}

fn say(said: &Said) -> Result<()> {
    println!("{}", serde_json::to_string(said)?);
    Ok(())
}

fn locked(fans: &Fans) -> MutexGuard<'_, Vec<Fan>> {
    fans.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fan(fans: &mut Vec<Fan>, number: usize) -> &mut Fan {
    if fans.len() <= number {
        fans.resize_with(number + 1, Fan::default);
    }
    &mut fans[number]
}

/// Reads what fans recorded; equal messages are held once.
fn load(path: &Path, fans: &mut Vec<Fan>) -> Result<()> {
    let mut file = std::io::BufReader::new(std::fs::File::open(path)?);
    let mut held: HashMap<Utf8Bytes, Utf8Bytes> = HashMap::new();
    let mut head = [0; 12];
    while file.read_exact(&mut head).is_ok() {
        let (numbers, _) = head.as_chunks::<4>();
        let [number, state, length] = [0, 1, 2].map(|at| u32::from_le_bytes(numbers[at]) as usize);
        let mut text = vec![0; length];
        file.read_exact(&mut text)?;
        let text = Utf8Bytes::from(String::from_utf8(text)?);
        let text = held.entry(text.clone()).or_insert(text).clone();
        fan(fans, number).texts[state] = Some(text);
    }
    Ok(())
}

fn send(state: usize, fans: &[Fan]) -> Result<()> {
    for (number, fan) in fans.iter().enumerate() {
        let (Some(sender), Some(text)) = (&fan.sender, &fan.texts[state]) else {
            bail!("fan {number} has no connection, or no message");
        };
        sender.try_send(text.clone())?;
    }
    Ok(())
}

async fn converse(stream: TcpStream, fans: Fans) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut socket = accept_async(stream).await?;
    let (sender, mut messages) = mpsc::channel(WAITING_MAX);
    let mut sender = Some(sender);
    loop {
        tokio::select! {
            Some(text) = messages.recv() => socket.send(Message::Text(text)).await?,
            message = socket.next() => match message.context("gone")?? {
                Message::Text(text) => {
                    let message: serde_json::Value = serde_json::from_str(&text)?;
                    let number = message["device_id"].as_str().context("no fan")?.parse()?;
                    fan(&mut locked(&fans), number).sender = sender.take();
                    socket.send(Message::text(REGISTERED)).await?;
                }
                Message::Close(_) => return Ok(()),
                _ => {}
            }
        }
    }
}

/// The process; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Bare {
    pub(super) address: SocketAddr,
    pub(super) pid: u32,
    lines: tokio::io::Lines<BufReader<ChildStdout>>,
    stdin: ChildStdin,
    _child: Child,
}

impl Bare {
    /// Starts it and waits until it listens; it holds no messages.
    pub(super) async fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("bare-front")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let mut bare = Self {
            address: ([127, 0, 0, 1], 0).into(),
            pid: child.id().context("it has not ended")?,
            lines: BufReader::new(stdout).lines(),
            stdin: child.stdin.take().context("standard input is piped")?,
            _child: child,
        };
        match bare.next().await? {
            Said::Listens { address } => bare.address = address,
            said => bail!("{said:?}"),
        }
        Ok(bare)
    }

    async fn next(&mut self) -> Result<Said> {
        let line = timeout(DEADLINE, self.lines.next_line()).await;
        let line = line.context("the bare server says nothing")??;
        Ok(serde_json::from_str(
            &line.context("the bare server ended")?,
        )?)
    }

    async fn tell(&mut self, told: &Told) -> Result<()> {
        let line = serde_json::to_string(told)? + "\n";
        self.stdin.write_all(line.as_bytes()).await?;
        Ok(self.stdin.flush().await?)
    }

    /// Gives it the messages that fans recorded.
    pub(super) async fn load(&mut self, path: &Path) -> Result<()> {
        let path = path.to_owned();
        self.tell(&Told::Load { path }).await?;
        match self.next().await? {
            Said::Loaded => Ok(()),
            said @ Said::Listens { .. } => bail!("{said:?}"),
        }
    }

    /// Has it send everybody's message of a state; gives when that was told, in nanoseconds since 1970.
    pub(super) async fn send(&mut self, state: usize) -> Result<u64> {
        let begin = unix_ns(SystemTime::now());
        self.tell(&Told::Send { state }).await?;
        Ok(begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fans_recorded_is_held_once_where_it_is_equal() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let mut bytes = Vec::new();
        for (fan, state, text) in [(0_u32, 1_u32, "same"), (1, 1, "same"), (1, 2, "other")] {
            let length = u32::try_from(text.len())?;
            bytes.extend([fan, state, length].map(u32::to_le_bytes).concat());
            bytes.extend(text.as_bytes());
        }
        std::fs::write(file.path(), bytes)?;
        let mut fans = Vec::new();
        load(file.path(), &mut fans)?;
        let text = |fan: usize, state: usize| fans[fan].texts[state].clone();
        assert_eq!(text(1, 2).as_deref(), Some("other"));
        assert_eq!(text(0, 0), None);
        let addresses = [0, 1].map(|fan| text(fan, 1).map(|text| text.as_ptr()));
        assert_eq!(addresses[0], addresses[1]);
        Ok(())
    }
}
