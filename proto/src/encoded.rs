//! Messages of `touchline.v1` whose parts are encoded already, because many messages share them: an item
//! stands in thousands of sets, a state in each of them. Encodes no such part itself.

use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut, Bytes},
    encoding::{DecodeContext, WireType, message},
};

use crate::v1;

/// Number of the field `components` of a ComponentSet.
const COMPONENTS: u32 = 5;

/// A message with some of its fields encoded. The others' fields are empty in `own`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shared<M> {
    /// Fields that are encoded already.
    pub encoded: Bytes,
    /// The other fields.
    pub own: M,
}

/// A state.
pub type EventState = Shared<v1::EventState>;

/// A component.
pub type Component = Shared<v1::Component>;

/// A set with shared components.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ComponentSet {
    /// Its own fields, and those that it has in common with other sets of the same state.
    pub set: Shared<v1::ComponentSet>,
    /// Its components.
    pub components: Vec<Component>,
}

impl<M: Message + Default> Message for Shared<M> {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.encoded);
        self.own.encode_raw(buffer);
    }

    /// What is decoded is nobody else's.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        self.own.merge_field(tag, wire_type, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.encoded.len() + self.own.encoded_len()
    }

    fn clear(&mut self) {
        self.encoded.clear();
        self.own.clear();
    }
}

impl Message for ComponentSet {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        self.set.encode_raw(buffer);
        message::encode_repeated(COMPONENTS, &self.components, buffer);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        self.set.merge_field(tag, wire_type, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.set.encoded_len() + message::encoded_len_repeated(COMPONENTS, &self.components)
    }

    fn clear(&mut self) {
        self.set.clear();
        self.components.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_encoded_parts_is_the_set_that_it_was_made_of() {
        let attributes = [("item_label".to_owned(), "Bet".to_owned())];
        let component = v1::Component {
            item_type: "MONETIZE".to_owned(),
            item_id: "bet".to_owned(),
            rank: 3,
            score: 0.5,
            attributes: attributes.into(),
            ..v1::Component::default()
        };
        let set = v1::ComponentSet {
            event_id: "1".to_owned(),
            version: "00112233aabbccdd".to_owned(),
            set_id: "0123456789abcdef".to_owned(),
            components: vec![component.clone(); 2],
            ..v1::ComponentSet::default()
        };

        let shared = v1::Component {
            rank: 0,
            score: 0.0,
            ..component
        };
        let component = Component {
            encoded: shared.encode_to_vec().into(),
            own: v1::Component {
                rank: 3,
                score: 0.5,
                ..v1::Component::default()
            },
        };
        let of_state = v1::ComponentSet {
            event_id: set.event_id.clone(),
            version: set.version.clone(),
            ..v1::ComponentSet::default()
        };
        let parts = ComponentSet {
            set: Shared {
                encoded: of_state.encode_to_vec().into(),
                own: v1::ComponentSet {
                    set_id: set.set_id.clone(),
                    ..v1::ComponentSet::default()
                },
            },
            components: vec![component; 2],
        };
        let encoded = parts.encode_to_vec();
        assert_eq!(encoded.len(), parts.encoded_len());
        assert_eq!(encoded.len(), set.encoded_len());
        assert_eq!(v1::ComponentSet::decode(&*encoded), Ok(set.clone()));
        let decoded = ComponentSet::decode(&*encoded).map(|decoded| decoded.set.own);
        assert_eq!(decoded, Ok(set));
    }
}
