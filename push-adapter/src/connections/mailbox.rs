//! What waits to be written to one connection: replies in their turn, and the newest state of each
//! event. Pure: no socket, no clock, no waking.

use std::collections::VecDeque;

use touchline_store::{
    ids::{ConsumerId, EventId},
    position::Position,
};

use super::{About, Frame, PostError, StateOf};

/// Replies that wait; beyond, the fan does not read.
pub const REPLIES_MAX: usize = 32;

/// Events whose newest state waits, and events whose last position is remembered.
pub const EVENTS_MAX: usize = 64;

/// What waits for one connection.
#[derive(Debug, Default)]
pub struct Mailbox {
    replies: VecDeque<Frame>,
    states: Vec<Frame>,
    /// The last state that was taken out, by event: oldest first.
    shown: VecDeque<(EventId, ConsumerId, Option<Position>)>,
    /// Who the fan is; `None` before a registration and while one is under way.
    consumer: Option<ConsumerId>,
}

impl Mailbox {
    /// Takes a message to be written later. `Superseded` says that it is no longer wanted, `Full`
    /// that the fan does not read.
    pub fn put(&mut self, frame: Frame) -> Result<(), PostError> {
        let About::State(of) = frame.about() else {
            if self.replies.len() >= REPLIES_MAX {
                return Err(PostError::Full);
            }
            self.replies.push_back(frame);
            return Ok(());
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
            .find(|(event_id, consumer_id, _)| {
                *event_id == of.event_id && *consumer_id == of.consumer_id
            })
            .map(|(_, _, position)| position);
        if shown.is_some_and(|shown| !replaces(of, shown.as_ref())) {
            return Err(PostError::Superseded);
        }
        let waiting = self.states.iter().position(|waiting| {
            matches!(waiting.about(), About::State(waiting) if waiting.event_id == of.event_id)
        });
        let Some(index) = waiting else {
            if self.states.len() >= EVENTS_MAX {
                return Err(PostError::Full);
            }
            self.states.push(frame);
            return Ok(());
        };
        let About::State(old) = self.states[index].about() else {
            unreachable!("only states wait among the states");
        };
        if old.consumer_id == of.consumer_id && !replaces(of, old.position.as_ref()) {
            return Err(PostError::Superseded);
        }
        // The newest change goes last, as it came last.
        self.states.remove(index);
        self.states.push(frame);
        Ok(())
    }

    /// Takes out what waits, replies first: an acknowledgement comes before what follows from it.
    pub fn take(&mut self, into: &mut Vec<Frame>) {
        into.extend(self.replies.drain(..));
        for frame in self.states.drain(..) {
            if let About::State(of) = frame.about() {
                self.shown
                    .retain(|(event_id, _, _)| *event_id != of.event_id);
                if self.shown.len() >= EVENTS_MAX {
                    self.shown.pop_front();
                }
                self.shown.push_back((
                    of.event_id.clone(),
                    of.consumer_id.clone(),
                    of.position.clone(),
                ));
            }
            into.push(frame);
        }
    }

    /// Whether anything waits.
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty() && self.states.is_empty()
    }

    /// A registration is under way: until it is through, the row decides who the fan is.
    pub fn registering(&mut self) {
        self.consumer = None;
    }

    /// The fan is this consumer now; what waits for another is dropped.
    pub fn registered(&mut self, consumer: ConsumerId) {
        self.states.retain(
            |frame| matches!(frame.about(), About::State(of) if of.consumer_id == consumer),
        );
        self.consumer = Some(consumer);
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
        let mut frames = Vec::new();
        mailbox.take(&mut frames);
        frames
            .iter()
            .map(|frame| frame.text().to_string())
            .collect()
    }

    #[test]
    fn only_the_newest_state_of_an_event_waits() {
        let mut mailbox = Mailbox::default();
        for sequence in 1..=10 {
            mailbox.put(push("1", sequence)).unwrap();
        }
        mailbox.put(push("2", 3)).unwrap();
        assert_eq!(mailbox.put(push("1", 9)), Err(PostError::Superseded));
        assert_eq!(taken(&mut mailbox), ["1 Some(10) false", "2 Some(3) false"]);
        assert!(mailbox.is_empty());
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
        mailbox.registered(ConsumerId::new("bob").unwrap());
        assert!(mailbox.is_empty());
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
                    mailbox.take(&mut written);
                }
            }
            mailbox.take(&mut written);
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
