//! Whose a message is and which change it answers: by the book, the first time that a consumer is shown
//! something in a state, and after that by a hash. Keeps no account of a fan.

use anyhow::{Context, Result, bail, ensure};

use super::{envelope::Reader, positions::Positions};
use crate::gateway::{
    book::{self, Book},
    hash::Hash,
    script::STATES,
};

/// What fans speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    First,
    Second,
}

/// Knows what everybody must be shown.
#[derive(Debug)]
pub(super) struct Judge {
    book: Book,
    reader: Reader,
    positions: Positions,
    /// Whether messages say which change they answer; a bare server's are always the same.
    is_positioned: bool,
    /// What was found to be right: by consumer, protocol and state.
    right: Vec<[[Right; STATES]; 2]>,
}

/// A message that was compared with the book.
#[derive(Debug, Clone, Copy, Default)]
struct Right {
    hash: u64,
    set_id: u64,
}

impl Judge {
    pub(super) fn new(book: Book, is_positioned: bool) -> Self {
        Self {
            reader: Reader::new(),
            positions: Positions::default(),
            is_positioned,
            right: vec![Default::default(); book.consumers.len()],
            book,
        }
    }

    /// From now on there may be messages of this change.
    pub(super) fn announce(&mut self, change: u32, state: usize) {
        self.positions.announce(change, state);
    }

    /// The newest change and its state.
    pub(super) fn newest(&self) -> Option<(u32, usize)> {
        self.positions.newest()
    }

    /// A consumer's id.
    pub(super) fn consumer_id(&self, consumer: usize) -> &str {
        &self.book.consumers[consumer].consumer_id
    }

    /// How many consumers there are.
    pub(super) fn consumers(&self) -> usize {
        self.book.consumers.len()
    }

    /// The id of the set that a consumer was shown in a state, by protocol 2.
    pub(super) fn set_id(&self, consumer: usize, state: usize) -> Option<String> {
        let right = self.right[consumer][Protocol::Second as usize][state];
        (right.hash != 0).then(|| format!("{:016x}", right.set_id))
    }

    /// The change that a message for a consumer answers, and its state. An error says what is wrong
    /// with the message.
    pub(super) fn change(
        &mut self,
        consumer: usize,
        protocol: Protocol,
        message: &[u8],
    ) -> Result<(u32, usize)> {
        let (newest, state) = self.newest().context("nothing was written yet")?;
        if protocol == Protocol::First {
            self.is_right(consumer, protocol, state, Hash::of(message), message)?;
            return Ok((newest, state));
        }
        let envelope = self.reader.read(message).context("not a set")?;
        let mut versions = self.book.versions.iter();
        let said = versions.position(|version| version.as_bytes() == envelope.version);
        let said = said.context("a version of no state")?;
        let change = if self.is_positioned {
            let (epoch, sequence) = envelope.position.context("a state without position")?;
            self.positions.change(epoch, sequence, said)?
        } else {
            ensure!(said == state, "state {said} instead of {state}");
            newest
        };
        let hash = envelope.hash;
        self.is_right(consumer, protocol, said, hash, message)?;
        Ok((change, said))
    }

    fn is_right(
        &mut self,
        consumer: usize,
        protocol: Protocol,
        state: usize,
        hash: u64,
        message: &[u8],
    ) -> Result<()> {
        let right = &mut self.right[consumer][protocol as usize][state];
        if right.hash == hash {
            return Ok(());
        }
        let expected = &self.book.consumers[consumer];
        let (digest, expected) = match protocol {
            Protocol::First => (
                book::first_in(message).context("not a set")?,
                &expected.first,
            ),
            Protocol::Second => (book::second_in(message)?, &expected.second),
        };
        if expected[state] != digest {
            bail!(
                "not the set of {}",
                self.whose(protocol, digest, consumer, state)
            );
        }
        // A hash that is known stays: what differs in how it is written is parsed each time.
        if right.hash == 0 {
            let set_id = match protocol {
                Protocol::First => 0,
                Protocol::Second => book::set_id_in(message)?,
            };
            *right = Right { hash, set_id };
        }
        Ok(())
    }

    /// Says whose set it should be, and whose it is.
    fn whose(&self, protocol: Protocol, digest: u64, consumer: usize, state: usize) -> String {
        let expected = self.consumer_id(consumer);
        let is = self.book.consumers.iter().find_map(|consumer| {
            let sets = match protocol {
                Protocol::First => &consumer.first,
                Protocol::Second => &consumer.second,
            };
            let state = sets.iter().position(|set| *set == digest)?;
            Some(format!("{}'s in state {state}", consumer.consumer_id))
        });
        let is = is.unwrap_or_else(|| "nobody's in any state".to_owned());
        format!("{expected} in state {state}, but {is}")
    }
}
