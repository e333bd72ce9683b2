//! What touchline-server answered each consumer: what the bare server sends, and what every later
//! answer is compared with.

use anyhow::{Context, Result, ensure};
use prost::{Message, bytes::Bytes};
use touchline_client::proto;

/// Answers by consumer.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Script {
    #[prost(message, repeated, tag = "1")]
    pub(super) consumers: Vec<Recorded>,
}

/// One consumer's answers, encoded.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Recorded {
    #[prost(string, tag = "1")]
    pub(super) consumer_id: String,
    /// A GetComponentsResponse.
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) call: Bytes,
    /// A WatchEventResponse for each state, by its number.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(super) watch: Vec<Bytes>,
}

impl Script {
    /// These consumers, without answers.
    pub(super) fn new(consumers: &[String]) -> Self {
        let consumers = consumers.iter().map(|consumer_id| Recorded {
            consumer_id: consumer_id.clone(),
            ..Recorded::default()
        });
        Self {
            consumers: consumers.collect(),
        }
    }
}

/// The set of a GetComponentsResponse from the cache, without what differs from call to call.
pub(super) fn called(answer: &Bytes) -> Result<proto::ComponentSet> {
    let answer = proto::GetComponentsResponse::decode(answer.clone())?;
    let set = answer.component_set.context("an answer without a set")?;
    ensure!(set.position.is_some(), "the change feed is not followed");
    ageless(set)
}

/// A WatchEventResponse with a set from the cache, without what differs from change to change, and the
/// position.
pub(super) fn watched(message: &Bytes) -> Result<(proto::WatchEventResponse, proto::Position)> {
    let mut message = proto::WatchEventResponse::decode(message.clone())?;
    let state = message.state.as_mut().context("a message without state")?;
    let position = state.position.take().context("a state without position")?;
    let set = message.component_set.take();
    let mut set = ageless(set.context("a message without set")?)?;
    ensure!(
        set.position.take().as_ref() == Some(&position),
        "state and set have different positions"
    );
    message.component_set = Some(set);
    Ok((message, position))
}

fn ageless(mut set: proto::ComponentSet) -> Result<proto::ComponentSet> {
    ensure!(is_cached(&set), "not from the cache: {set:?}");
    set.age = None;
    Ok(set)
}

/// Whether a set's ranking is Personalize's, from the cache.
pub(super) fn is_cached(set: &proto::ComponentSet) -> bool {
    set.freshness() == proto::Freshness::Cached && set.origin() == proto::Origin::Personalize
}
