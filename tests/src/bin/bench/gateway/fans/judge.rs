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

    /// The first change after this one that a message of protocol 1 can answer, and its state; the
    /// change itself where the message repeats it. One whose newest change is due answers that if it
    /// can. An error says what is wrong with the message.
    pub(super) fn first_after(
        &mut self,
        consumer: usize,
        after: u32,
        is_due: bool,
        message: &[u8],
    ) -> Result<(u32, usize)> {
        let digest = book::first_in(message).context("not a set")?;
        let expected = &self.book.consumers[consumer].first;
        let newest = self.newest().filter(|_| is_due);
        let mut later = newest.into_iter().chain(self.positions.from(after + 1));
        let found = later.find(|(_, state)| expected[*state] == digest);
        if let Some(found) = found {
            return Ok(found);
        }
        let mut same = self.positions.from(after).take(1);
        if let Some(same) = same.find(|(_, state)| expected[*state] == digest) {
            return Ok(same);
        }
        let (_, state) = self.newest().context("nothing was written yet")?;
        let whose = self.whose(Protocol::First, digest, consumer, state);
        bail!("nothing that was changed after {after}: {whose}")
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

#[cfg(test)]
mod tests {
    use touchline_client::proto;

    use super::*;
    use crate::gateway::book::Consumer;

    fn set(item: &str) -> proto::ComponentSet {
        let component = proto::Component {
            item_type: "PLAYER".to_owned(),
            item_id: item.to_owned(),
            rank: 1,
            score: 0.5,
            ..proto::Component::default()
        };
        let mut set = proto::ComponentSet {
            set_id: "00000000000000a0".to_owned(),
            components: vec![component],
            ..proto::ComponentSet::default()
        };
        set.set_origin(proto::Origin::Personalize);
        set
    }

    /// Two consumers, who are shown `CONSUMER-STATE`.
    fn judge(is_positioned: bool) -> Judge {
        let mut book = Book::default();
        let mut consumers = [Consumer::new("ann"), Consumer::new("bob")];
        for state in 0..STATES {
            let version = format!("v{state}");
            for consumer in &mut consumers {
                let item = format!("{}-{state}", consumer.consumer_id);
                consumer.note(state, &version, "r", &set(&item));
            }
            book.versions.push(version);
        }
        book.consumers = consumers.into();
        let mut judge = Judge::new(book, is_positioned);
        judge.announce(7, 0);
        judge.announce(8, 1);
        judge
    }

    fn message(item: &str, state: usize, sequence: &str) -> String {
        format!(
            r#"{{"type":"components","event_id":"1","version":"v{state}","set_id":"00000000000000a0","epoch":"e","sequence":"{sequence}","origin":"personalize","freshness":"cached","recommendation_id":"r","components":[{{"item_type":"PLAYER","item_id":"{item}","rank":1,"score":0.5,"attributes":{{}}}}]}}"#
        )
    }

    fn second(judge: &mut Judge, message: &str) -> Result<(u32, usize), String> {
        let change = judge.change(0, Protocol::Second, message.as_bytes());
        change.map_err(|error| error.to_string())
    }

    #[test]
    fn a_message_is_right_the_first_time_and_every_time() {
        let mut judge = judge(true);
        for _ in 0..2 {
            assert_eq!(second(&mut judge, &message("ann-0", 0, "10")), Ok((7, 0)));
            assert_eq!(second(&mut judge, &message("ann-1", 1, "11")), Ok((8, 1)));
        }
        assert_eq!(judge.set_id(0, 1).as_deref(), Some("00000000000000a0"));
        assert_eq!(judge.set_id(1, 1), None);
    }

    #[test]
    fn another_consumers_or_states_set_is_named() {
        let mut judge = judge(true);
        for _ in 0..2 {
            let wrong = second(&mut judge, &message("bob-1", 1, "11")).unwrap_err();
            assert_eq!(wrong, "not the set of ann in state 1, but bob's in state 1");
            let bobs = message("bob-1", 1, "11");
            let wrong = judge.change(1, Protocol::Second, bobs.as_bytes());
            assert_eq!(wrong.unwrap(), (8, 1));
            let wrong = second(&mut judge, &message("ann-0", 1, "11"));
            assert!(wrong.is_err());
            // A right one in between changes nothing.
            assert!(second(&mut judge, &message("ann-1", 1, "11")).is_ok());
        }
    }

    #[test]
    fn protocol_1_is_known_by_what_it_shows_in_the_newest_state() {
        let mut judge = judge(true);
        let mut first = |text: &str| judge.change(0, Protocol::First, text.as_bytes());
        assert_eq!(first(r#"{"PLAYER": "ann-1"}"#).unwrap(), (8, 1));
        let wrong = first(r#"{"PLAYER": "bob-1"}"#).unwrap_err().to_string();
        assert_eq!(wrong, "not the set of ann in state 1, but bob's in state 1");
        let old = first(r#"{"PLAYER": "ann-0"}"#).unwrap_err().to_string();
        assert_eq!(old, "not the set of ann in state 1, but ann's in state 0");
    }

    #[test]
    fn a_message_of_protocol_1_may_answer_what_was_changed_since() {
        let mut judge = judge(true);
        judge.announce(9, 2);
        let mut first = |after, is_due, text: &str| {
            let found = judge.first_after(0, after, is_due, text.as_bytes());
            found.map_err(|error| error.to_string())
        };
        assert_eq!(first(7, false, r#"{"PLAYER": "ann-1"}"#), Ok((8, 1)));
        assert_eq!(first(7, true, r#"{"PLAYER": "ann-2"}"#), Ok((9, 2)));
        assert_eq!(first(8, false, r#"{"PLAYER": "ann-1"}"#), Ok((8, 1)));
        let old = first(8, false, r#"{"PLAYER": "ann-0"}"#).unwrap_err();
        let whose = "ann in state 2, but ann's in state 0";
        assert_eq!(old, format!("nothing that was changed after 8: {whose}"));
        assert!(first(7, false, r#"{"PLAYER": "bob-1"}"#).is_err());
    }

    #[test]
    fn without_positions_only_the_newest_state_may_come() {
        let mut judge = judge(false);
        assert_eq!(second(&mut judge, &message("ann-1", 1, "3")), Ok((8, 1)));
        let old = second(&mut judge, &message("ann-0", 0, "3"));
        assert_eq!(old, Err("state 0 instead of 1".to_owned()));
    }
}
