//! What one consumer was shown of one event, as far as caps ask. Pure; where it is kept, and for how
//! long, is not decided here.
//!
//! A cap is a number of states. An item that was shown in a state may be shown in it again, however
//! often that is asked for; in any other state it may be shown while there is room. What is counted
//! is never taken back, so the same ranking gives the same components for the same state, whatever
//! was asked for in between.

use std::collections::HashMap;

use touchline_store::{
    event::Version,
    ids::{ItemId, ItemType},
};

use super::{Component, policies::Policies};

/// One state of an event, by its version: a state that comes back is the same state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateKey(u64);

impl StateKey {
    /// The key of this version.
    pub fn of(version: &Version) -> Self {
        // FNV-1a: a version is a hash already, or a caller's own text.
        let hash = version
            .as_str()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        Self(hash)
    }
}

/// The states in which capped items and types were shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    items: HashMap<ItemId, Vec<StateKey>>,
    types: HashMap<ItemType, Vec<StateKey>>,
}

impl History {
    /// Whether something that was shown in `states` may be shown in `state`.
    pub(super) fn has_room(states: &[StateKey], state: StateKey, cap: usize) -> bool {
        states.len() < cap || states.contains(&state)
    }

    /// The states in which this item was shown.
    pub fn states_of_item(&self, item_id: &ItemId) -> &[StateKey] {
        self.items.get(item_id).map_or(&[], Vec::as_slice)
    }

    /// The states in which any item of this type was shown.
    pub fn states_of_type(&self, item_type: &ItemType) -> &[StateKey] {
        self.types.get(item_type).map_or(&[], Vec::as_slice)
    }

    /// Counts what is shown in a state, and says whether that was new. What has no cap takes no room.
    pub fn count(
        &mut self,
        state: StateKey,
        components: &[Component],
        policies: &Policies,
    ) -> bool {
        let mut is_new = false;
        for component in components {
            let (item_id, item_type) = (&component.item.item_id, &component.item.item_type);
            if policies.cap_of_item(item_id).is_some() {
                is_new |= count(self.items.entry(item_id.clone()).or_default(), state);
            }
            if policies.cap_of_type(item_type).is_some() {
                is_new |= count(self.types.entry(item_type.clone()).or_default(), state);
            }
        }
        is_new
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let of = |texts: usize, states: usize| texts + 64 + states * size_of::<StateKey>();
        let items = self.items.iter();
        let items = items.map(|(item_id, states)| of(item_id.as_str().len(), states.capacity()));
        let types = self.types.iter();
        let types = types.map(|(name, states)| of(name.as_str().len(), states.capacity()));
        size_of::<Self>() + items.sum::<usize>() + types.sum::<usize>()
    }
}

fn count(states: &mut Vec<StateKey>, state: StateKey) -> bool {
    let is_new = !states.contains(&state);
    if is_new {
        states.push(state);
    }
    is_new
}
