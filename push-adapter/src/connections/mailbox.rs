//! What waits to be written to one connection: replies in their turn, and the newest state of each
//! event. Pure: no socket, no clock, no waking.

use std::collections::VecDeque;

use touchline_store::{ids::ConsumerId, position::Position};

use super::{About, Frame, PostError, StateOf};

/// Replies that wait; beyond, the fan does not read.
pub const REPLIES_MAX: usize = 32;

/// Events whose newest state waits, and events whose last position is remembered.
pub const EVENTS_MAX: usize = 64;

/// What waits for one connection. Empty, it holds no memory but what it remembers.
#[derive(Debug, Default)]
pub struct Mailbox {
    replies: VecDeque<Frame>,
    states: VecDeque<Frame>,
    /// The last state that was taken out, by event: oldest first.
    shown: Vec<StateOf>,
    /// Who the fan is; `None` before a registration and while one is under way.
    consumer: Option<ConsumerId>,
}

/// A message was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It waits.
    Waits,
    /// It waits in place of an older state, which is never written.
    Replaces,
}

impl Mailbox {
    /// Takes a message to be written later. `Superseded` says that it is no longer wanted, `Full`
    /// that the fan does not read.
    pub fn put(&mut self, frame: Frame) -> Result<Put, PostError> {
        let About::State(of) = frame.about() else {
            if self.replies.len() >= REPLIES_MAX {
                return Err(PostError::Full);
            }
            self.replies.push_back(frame);
            return Ok(Put::Waits);
        };
        if self
            .consumer
            .as_ref()
            .is_some_and(|consumer| *consumer != of.consumer_id)
        {
            return Err(PostError::Superseded);
        }
        let shown = self
            .shown
            .iter()
            .find(|shown| shown.event_id == of.event_id && shown.consumer_id == of.consumer_id);
        if shown.is_some_and(|shown| !replaces(of, shown.position.as_ref())) {
            return Err(PostError::Superseded);
        }
        let waiting = self.states.iter().position(|waiting| {
            matches!(waiting.about(), About::State(waiting) if waiting.event_id == of.event_id)
        });
        let Some(index) = waiting else {
            if self.states.len() >= EVENTS_MAX {
                return Err(PostError::Full);
            }
            self.states.push_back(frame);
            return Ok(Put::Waits);
        };
        let About::State(old) = self.states[index].about() else {
            unreachable!("only states wait among the states");
        };
        if old.consumer_id == of.consumer_id && !replaces(of, old.position.as_ref()) {
            return Err(PostError::Superseded);
        }
        // The newest change goes last, as it came last.
        self.states.remove(index);
        self.states.push_back(frame);
        Ok(Put::Replaces)
    }

    /// Takes out what is written next, replies first: an acknowledgement comes before what follows
    /// from it.
    pub fn take(&mut self) -> Option<Frame> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        let Some(frame) = self.states.pop_front() else {
            // An idle connection holds on to nothing.
            (self.replies, self.states) = Default::default();
            return None;
        };
        if let About::State(of) = frame.about() {
            let shown = &mut self.shown;
            if let Some(place) = shown.iter().position(|old| old.event_id == of.event_id) {
                shown.remove(place);
            }
            if shown.len() >= EVENTS_MAX {
                shown.remove(0);
            }
            shown.push(of.clone());
        }
        Some(frame)
    }

    /// Throws away what waits; says how many states that were.
    pub fn empty(&mut self) -> usize {
        self.replies = VecDeque::new();
        std::mem::take(&mut self.states).len()
    }

    /// Who the fan is, if that is certain.
    pub fn consumer(&self) -> Option<&ConsumerId> {
        self.consumer.as_ref()
    }

    /// A registration is under way: until it is through, the row decides who the fan is.
    pub fn registering(&mut self) {
        self.consumer = None;
    }

    /// The fan is this consumer now; what waits for another is dropped. Says how much that was.
    pub fn registered(&mut self, consumer: ConsumerId) -> usize {
        let waited = self.states.len();
        self.states.retain(
            |frame| matches!(frame.about(), About::State(of) if of.consumer_id == consumer),
        );
        self.consumer = Some(consumer);
        waited - self.states.len()
    }
}

/// Whether a state comes after one of the same consumer that stands at `old`.
fn replaces(of: &StateOf, old: Option<&Position>) -> bool {
    match (&of.position, old) {
        (Some(new), Some(old)) if new.epoch() != old.epoch() => true,
        (Some(new), Some(old)) if of.answers => !old.is_after(new),
        (Some(new), Some(old)) => new.is_after(old),
        // Without a position a push is the leader's word on the newest state; an answer is what
        // somebody knew.
        (None, Some(_)) => !of.answers,
        (_, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use touchline_store::ids::EventId;

    use super::*;

    fn state(event: &str, consumer: &str, sequence: Option<u32>, answers: bool) -> Frame {
        let text = format!("{event} {sequence:?} {answers}");
        let of = StateOf {
            event_id: EventId::new(event).unwrap(),
            consumer_id: ConsumerId::new(consumer).unwrap(),
            position: sequence.map(|sequence| Position::new("epoch", &sequence.to_string())),
            answers,
        };
        Frame::state(text.into(), of)
    }

    fn push(event: &str, sequence: u32) -> Frame {
        state(event, "ann", Some(sequence), false)
    }

    fn taken(mailbox: &mut Mailbox) -> Vec<String> {
        std::iter::from_fn(|| mailbox.take())
            .map(|frame| frame.text().to_string())
            .collect()
    }

    #[test]
    fn only_the_newest_state_of_an_event_waits() {
        let mut mailbox = Mailbox::default();
        assert_eq!(mailbox.put(push("1", 1)), Ok(Put::Waits));
        for sequence in 2..=10 {
            assert_eq!(mailbox.put(push("1", sequence)), Ok(Put::Replaces));
        }
        mailbox.put(push("2", 3)).unwrap();
        assert_eq!(mailbox.put(push("1", 9)), Err(PostError::Superseded));
        assert_eq!(taken(&mut mailbox), ["1 Some(10) false", "2 Some(3) false"]);
        assert_eq!(mailbox.take().map(|_| ()), None);
    }

    #[test]
    fn what_was_written_is_never_followed_by_something_older() {
        let mut mailbox = Mailbox::default();
        mailbox.put(push("1", 5)).unwrap();
        taken(&mut mailbox);
        assert_eq!(mailbox.put(push("1", 4)), Err(PostError::Superseded));
        assert_eq!(mailbox.put(push("1", 5)), Err(PostError::Superseded));
        mailbox.put(push("1", 6)).unwrap();
    }

    #[test]
    fn an_answer_to_a_registration_repeats_what_is_shown_and_never_goes_back() {
        let mut mailbox = Mailbox::default();
        mailbox.put(push("1", 5)).unwrap();
        taken(&mut mailbox);
        let answer = |sequence| state("1", "ann", sequence, true);
        assert_eq!(mailbox.put(answer(Some(4))), Err(PostError::Superseded));
        assert_eq!(mailbox.put(answer(None)), Err(PostError::Superseded));
        mailbox.put(answer(Some(5))).unwrap();
        mailbox.put(push("1", 6)).unwrap();
        assert_eq!(mailbox.put(answer(Some(5))), Err(PostError::Superseded));
        assert_eq!(taken(&mut mailbox), ["1 Some(6) false"]);
    }

    #[test]
    fn no_fan_receives_a_message_for_who_they_were_before() {
        let mut mailbox = Mailbox::default();
        mailbox.registered(ConsumerId::new("ann").unwrap());
        mailbox.put(push("1", 5)).unwrap();
        mailbox.registering();
        let dropped = mailbox.registered(ConsumerId::new("bob").unwrap());
        assert_eq!((dropped, mailbox.empty()), (1, 0));
        assert_eq!(mailbox.put(push("1", 6)), Err(PostError::Superseded));
        mailbox.put(state("1", "bob", Some(5), true)).unwrap();
    }

    #[test]
    fn a_fan_who_does_not_read_fills_the_replies() {
        let mut mailbox = Mailbox::default();
        for _ in 0..REPLIES_MAX {
            mailbox.put(Frame::reply("reply")).unwrap();
        }
        assert_eq!(mailbox.put(Frame::reply("reply")), Err(PostError::Full));
    }

    #[test]
    fn states_of_too_many_events_fill_it_too() {
        let mut mailbox = Mailbox::default();
        for event in 0..EVENTS_MAX {
            mailbox.put(push(&event.to_string(), 1)).unwrap();
        }
        assert_eq!(mailbox.put(push("one more", 1)), Err(PostError::Full));
        mailbox.put(push("0", 2)).unwrap();
    }

    proptest! {
        #[test]
        fn positions_only_ever_rise_and_the_newest_arrives(
            steps in prop::collection::vec((0u32..20, any::<bool>()), 1..60)
        ) {
            let mut mailbox = Mailbox::default();
            let mut written = Vec::new();
            for (sequence, take) in &steps {
                let _ = mailbox.put(push("1", *sequence));
                if *take {
                    written.extend(mailbox.take());
                }
            }
            written.extend(mailbox.take());
            let sequences: Vec<_> = written
                .iter()
                .map(|frame| match frame.about() {
                    About::State(of) => of.position.clone().unwrap().sequence().to_owned(),
                    About::Reply => unreachable!(),
                })
                .collect();
            prop_assert!(sequences.is_sorted_by(|a, b| a < b));
            let newest = steps.iter().map(|(sequence, _)| *sequence).max().unwrap();
            let newest = Position::new("epoch", &newest.to_string());
            prop_assert_eq!(sequences.last().unwrap(), newest.sequence());
        }
    }
}
