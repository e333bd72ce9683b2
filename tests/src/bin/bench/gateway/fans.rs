//! Many fans in one process, on one thread: real WebSocket connections, read with as little work as
//! possible, each message held against what its fan has to be shown. A message that is missing, comes
//! twice, is too old or is another fan's ends the process with an error that names fan and messages.

mod account;
mod connection;
mod crowd;
mod envelope;
mod frames;
mod judge;
mod positions;
mod progress;
pub(crate) mod roving;

use std::{
    io::BufRead,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, Result};
use mio::{Events, Poll, Registry, Token, Waker, event};
use prost::Message as _;
use serde::{Serialize, de::DeserializeOwned};

use self::{crowd::Crowd, judge::Judge};
use super::book::Book;

/// The token of what wakes the loop beside sockets.
const WAKE: Token = Token(usize::MAX);

/// Events that are looked at together.
const EVENTS_MAX: usize = 1_024;

/// How often it is looked whether something takes too long.
const LOOK: Duration = Duration::from_millis(500);

/// Fans, where they connect and what they have to be shown.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address of the fans' WebSocket
    #[arg(long)]
    address: SocketAddr,
    /// Its path
    #[arg(long)]
    path: String,
    /// File of a book: what each consumer is shown; fan N is the consumer at that place, from the
    /// beginning again where there are fewer
    #[arg(long)]
    book: PathBuf,
    /// One fan in so many speaks protocol 1; 0 for nobody
    #[arg(long)]
    first_every: usize,
    /// One fan in so many stops reading when told; 0 for nobody
    #[arg(long)]
    stalling_every: usize,
    /// Messages do not say which change they answer, and registrations are not answered with a set
    #[arg(long)]
    unpositioned: bool,
}

/// Fans who do what they are told, and whose sockets are looked at by somebody else.
trait Told {
    /// What they can be told.
    type Command: DeserializeOwned;

    /// Does what was told, or begins to.
    fn take(&mut self, command: Self::Command) -> Result<()>;

    /// Something came of a fan's socket.
    fn touched(&mut self, fan: usize, event: &event::Event) -> Result<()>;

    /// Until when nothing has to be done but what sockets bring.
    fn sleeps(&self) -> Duration;

    /// Does what has its time, and looks whether something takes too long.
    fn go_on(&mut self) -> Result<()>;

    /// How a fan is called.
    fn name(&self, fan: usize) -> String;
}

/// Does what standard input says, one JSON object a line, until it ends.
pub(crate) fn run(args: Args) -> Result<()> {
    let judge = Judge::new(book(&args.book)?, !args.unpositioned);
    drive(|registry| Crowd::new(args, judge, registry))
}

fn book(path: &Path) -> Result<Book> {
    Ok(Book::decode(&*std::fs::read(path)?)?)
}

fn drive<T: Told>(begin: impl FnOnce(Registry) -> T) -> Result<()> {
    let mut poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    let (sender, commands) = mpsc::sync_channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if sender.send(Some(line)).is_err() || waker.wake().is_err() {
                return;
            }
        }
        // Nobody is left to be told.
        let _ = sender.send(None);
        let _ = waker.wake();
    });
    let mut fans = begin(poll.registry().try_clone()?);
    let mut events = Events::with_capacity(EVENTS_MAX);
    loop {
        poll.poll(&mut events, Some(fans.sleeps().min(LOOK)))?;
        for event in &events {
            let Token(number) = event.token();
            if event.token() != WAKE {
                fans.touched(number, event)
                    .with_context(|| fans.name(number))?;
            }
        }
        while let Ok(line) = commands.try_recv() {
            let Some(line) = line else {
                return Ok(());
            };
            fans.take(serde_json::from_str(&line?)?)?;
        }
        fans.go_on()?;
    }
}

fn say(said: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(said)?);
    Ok(())
}
