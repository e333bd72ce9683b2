//! Two fans who watch the same, one of each protocol, and who notice whatever is out of order. They
//! know numbered states only: see [`numbered`].

use std::{collections::HashMap, net::SocketAddr};

use serde_json::Value;
use touchline_store::{event::EventState, tables::Store};

use super::{Fan, put, state};

/// The state of this number of an event.
pub(crate) fn numbered(event: &str, number: u32) -> EventState {
    state(event, &format!("{event}/{number}"))
}

/// Writes the state of this number.
pub(crate) async fn put_numbered(store: &Store, event: &str, number: u32) {
    put(store, &numbered(event, number)).await;
}

/// Fans of both protocols. What they remember outlives their connections.
#[derive(Default)]
pub(crate) struct Pair {
    fans: Option<[Fan; 2]>,
    memories: [Memory; 2],
}

/// What one fan was shown.
#[derive(Default)]
struct Memory {
    /// Events and numbers in the order in which they came, ends as `None`.
    heard: Vec<(String, Option<u32>)>,
    /// The last number, by event.
    numbers: HashMap<String, u32>,
    /// The last sequence, by event and epoch.
    sequences: HashMap<(String, String), String>,
    epochs: Vec<String>,
}

impl Pair {
    /// Fans who have registered; protocol 2 is answered with what is on, where something is.
    pub(crate) async fn register(front: SocketAddr) -> Self {
        let mut pair = Self::default();
        pair.register_again(front).await;
        pair
    }

    /// Fans who come back, to this front.
    pub(crate) async fn register_again(&mut self, front: SocketAddr) {
        let mut first = Fan::connect(front).await;
        first.register("ann", "final").await;
        let mut second = Fan::connect(front).await;
        second.register_2("bob", "final", None).await;
        self.fans = Some([first, second]);
    }

    /// Hears until both were shown this state of the event, since [`Pair::heard`] was asked last.
    pub(crate) async fn end_on(&mut self, event: &str, number: u32) {
        let fans = self.fans.as_mut().unwrap();
        let shown = (event.to_owned(), Some(number));
        for (fan, memory) in fans.iter_mut().zip(&mut self.memories) {
            while !memory.heard.contains(&shown) {
                memory.take(&fan.hear().await);
            }
        }
    }

    /// Hears until the fan of protocol 2 was told that the event is over.
    pub(crate) async fn hear_end_of(&mut self, event: &str) {
        let fans = self.fans.as_mut().unwrap();
        let end = (event.to_owned(), None);
        while !self.memories[1].heard.contains(&end) {
            self.memories[1].take(&fans[1].hear().await);
        }
    }

    /// Hears what waits for them. The fan of protocol 2 may be answered once more with what is on.
    pub(crate) async fn hear_the_rest(&mut self) {
        let fans = self.fans.as_mut().unwrap();
        for (fan, memory) in fans.iter_mut().zip(&mut self.memories) {
            for message in fan.hear_what_waits().await {
                memory.take(&message);
            }
        }
    }

    /// Everything that each was shown since this was asked last, as `event/number`.
    pub(crate) fn heard(&mut self) -> [Vec<String>; 2] {
        self.memories.each_mut().map(|memory| {
            let heard = memory.heard.drain(..);
            heard
                .map(|(event, number)| match number {
                    Some(number) => format!("{event}/{number}"),
                    None => format!("{event} ended"),
                })
                .collect()
        })
    }

    /// How many epochs the fan of protocol 2 has met.
    pub(crate) fn epochs(&self) -> usize {
        self.memories[1].epochs.len()
    }
}

impl Memory {
    /// Takes what a fan is shown. Panics when it is older than what they saw.
    fn take(&mut self, message: &Value) {
        if message["type"] == "ended" {
            let event = message["event_id"].as_str().unwrap().to_owned();
            self.take_position(&event, message);
            self.heard.push((event, None));
            return;
        }
        let shown = match message["set_id"].as_str() {
            // Protocol 2 names the consumer first.
            Some(set_id) => set_id.split_once(':').unwrap().1,
            None => message["GENERAL"]
                .as_str()
                .unwrap()
                .strip_prefix("all:")
                .unwrap(),
        };
        let (event, number) = shown.split_once('/').unwrap();
        let (event, number) = (event.to_owned(), number.parse().unwrap());
        let last = self.numbers.insert(event.clone(), number);
        assert!(
            last.is_none_or(|last| last <= number),
            "state {last:?} was followed by {message}"
        );
        if message["type"] == "components" {
            self.take_position(&event, message);
        }
        self.heard.push((event, Some(number)));
    }

    fn take_position(&mut self, event: &str, message: &Value) {
        let (epoch, sequence) = (message["epoch"].as_str(), message["sequence"].as_str());
        let (Some(epoch), Some(sequence)) = (epoch, sequence) else {
            assert_ne!(message["type"], "components", "{message} has no place");
            return;
        };
        let (epoch, sequence) = (epoch.to_owned(), sequence.to_owned());
        if !self.epochs.contains(&epoch) {
            self.epochs.push(epoch.clone());
        }
        let place = (event.to_owned(), epoch);
        let last = self.sequences.insert(place, sequence.clone());
        assert!(
            last.as_ref().is_none_or(|last| *last <= sequence),
            "the place {last:?} was followed by {message}"
        );
    }
}
