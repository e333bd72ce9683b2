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

use std::{io::BufRead, net::SocketAddr, path::PathBuf, sync::mpsc, time::Duration};

use anyhow::{Context, Result};
use mio::{Events, Poll, Token, Waker};
use prost::Message as _;

use self::{
    crowd::{Crowd, WAKE},
    judge::Judge,
};
use super::{book::Book, crowd::Command};

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

/// Does what standard input says, one JSON object a line, until it ends.
pub(crate) fn run(args: Args) -> Result<()> {
    let book = Book::decode(&*std::fs::read(&args.book)?)?;
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
    let judge = Judge::new(book, !args.unpositioned);
    let mut crowd = Crowd::new(args, judge, poll.registry().try_clone()?);
    let mut events = Events::with_capacity(EVENTS_MAX);
    loop {
        poll.poll(&mut events, Some(crowd.sleeps().min(LOOK)))?;
        for event in &events {
            let Token(number) = event.token();
            if event.token() != WAKE {
                crowd
                    .touched(number, event)
                    .with_context(|| crowd.name(number))?;
            }
        }
        while let Ok(line) = commands.try_recv() {
            let Some(line) = line else {
                return Ok(());
            };
            let command: Command = serde_json::from_str(&line?)?;
            crowd.take(command)?;
        }
        crowd.go_on()?;
    }
}
