//! Answers of `ComponentService.BatchGetComponents` for who passes them on: sets whose components stay as
//! they came. On the wire there is no difference to `v1`, and nothing that is left out here is needed by
//! who puts a set into a fan's message.

use prost::{
    DecodeError,
    bytes::{Buf, Bytes},
    encoding::{self, DecodeContext, WireType},
};

use crate::v1;

/// Some answers of a batch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BatchGetComponentsResponse {
    /// Component sets that were not sent before in this stream, in the order of their index.
    #[prost(message, repeated, tag = "1")]
    pub component_sets: Vec<ComponentSet>,
    /// The consumers answered by this part.
    #[prost(message, repeated, tag = "2")]
    pub answers: Vec<v1::ConsumerAnswer>,
}

/// A set whose components are not looked into.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ComponentSet {
    /// Hash of what the set shows.
    #[prost(string, tag = "3")]
    pub set_id: String,
    /// Each a `v1::Component`, encoded.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub components: Vec<Bytes>,
    /// Where the ranking came from.
    #[prost(enumeration = "v1::Origin", tag = "7")]
    pub origin: i32,
    /// How fresh the ranking is.
    #[prost(enumeration = "v1::Freshness", tag = "8")]
    pub freshness: i32,
}

/// Numbers of the fields of a component that differ from consumer to consumer.
const RANK: u32 = 3;
const SCORE: u32 = 4;

/// What a component has for one consumer alone.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Place {
    /// Place of the item in the ranking.
    pub rank: u32,
    /// The recommender's score.
    pub score: f64,
}

/// Takes an encoded component apart: what it has for one consumer alone, and, appended to `item`, the
/// encoded fields that it has for everybody.
///
/// # Errors
/// It is no encoded message.
pub fn split(component: &[u8], item: &mut Vec<u8>) -> Result<Place, DecodeError> {
    let mut place = Place::default();
    let mut rest = component;
    while rest.has_remaining() {
        let field = rest;
        let (tag, wire_type) = encoding::decode_key(&mut rest)?;
        let context = DecodeContext::default();
        match tag {
            RANK => encoding::uint32::merge(wire_type, &mut place.rank, &mut rest, context)?,
            SCORE => encoding::double::merge(wire_type, &mut place.score, &mut rest, context)?,
            _ => {
                skip(wire_type, tag, &mut rest)?;
                item.extend_from_slice(&field[..field.len() - rest.len()]);
            }
        }
    }
    Ok(place)
}

fn skip(wire_type: WireType, tag: u32, rest: &mut &[u8]) -> Result<(), DecodeError> {
    encoding::skip_field(wire_type, tag, rest, DecodeContext::default())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn component(rank: u32, score: f64) -> v1::Component {
        v1::Component {
            item_type: "PLAYER".to_owned(),
            item_id: "ITEM_ID_18".to_owned(),
            rank,
            score,
            attributes: [("item_label".to_owned(), "Messi".to_owned())].into(),
            reasons: vec!["promotion".to_owned()],
            ..v1::Component::default()
        }
    }

    #[test]
    fn what_is_received_is_what_was_sent() {
        let set = v1::ComponentSet {
            event_id: "1".to_owned(),
            set_id: "5e7".to_owned(),
            components: vec![component(1, 0.5), component(2, 0.25)],
            origin: v1::Origin::Personalize.into(),
            freshness: v1::Freshness::Cached.into(),
            ..v1::ComponentSet::default()
        };
        let sent = v1::BatchGetComponentsResponse {
            component_sets: vec![set.clone()],
            answers: vec![v1::ConsumerAnswer::default()],
        };
        let received = BatchGetComponentsResponse::decode(&*sent.encode_to_vec());
        let received = received.expect("it is the same on the wire");
        assert_eq!(received.answers, sent.answers);
        let [got] = &received.component_sets[..] else {
            panic!("{received:?}");
        };
        assert_eq!(
            (&got.set_id, got.origin, got.freshness),
            (&set.set_id, set.origin, set.freshness)
        );
        let components = got
            .components
            .iter()
            .map(|bytes| v1::Component::decode(&**bytes));
        let components: Result<Vec<_>, _> = components.collect();
        assert_eq!(components, Ok(set.components));
    }

    #[test]
    fn an_item_is_the_same_wherever_it_stands() {
        let [mut one, mut other] = [Vec::new(), Vec::new()];
        let bytes = component(1, 0.5).encode_to_vec();
        assert_eq!(
            split(&bytes, &mut one),
            Ok(Place {
                rank: 1,
                score: 0.5
            })
        );
        let bytes = component(7, 0.25).encode_to_vec();
        assert_eq!(
            split(&bytes, &mut other),
            Ok(Place {
                rank: 7,
                score: 0.25
            })
        );
        assert_eq!(one, other);
        let item = v1::Component::decode(&*one);
        assert_eq!(item, Ok(component(0, 0.0)));
        assert!(split(b"\xff", &mut one).is_err());
    }
}
