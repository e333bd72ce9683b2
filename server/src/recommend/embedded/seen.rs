//! Which interactions were recorded lately. Pure; the newest only, as a caller who repeats himself does
//! so at once.

use std::collections::{HashSet, VecDeque};

use sha2::{Digest, Sha256};

/// Interaction ids that are remembered.
const SEEN_MAX: usize = 100_000;

/// Interaction ids that were recorded lately, by their hash: the oldest make room.
#[derive(Debug, Default)]
pub(super) struct Seen {
    order: VecDeque<[u8; 16]>,
    known: HashSet<[u8; 16]>,
}

impl Seen {
    /// Remembers an id; false: it was known. The empty id is never known.
    pub(super) fn insert(&mut self, interaction_id: &str) -> bool {
        if interaction_id.is_empty() {
            return true;
        }
        let id = Self::digest(interaction_id);
        if !self.known.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// Whether an id is known.
    pub(super) fn contains(&self, interaction_id: &str) -> bool {
        !interaction_id.is_empty() && self.known.contains(&Self::digest(interaction_id))
    }

    fn digest(interaction_id: &str) -> [u8; 16] {
        let hash = Sha256::digest(interaction_id.as_bytes());
        std::array::from_fn(|place| hash[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_forgotten_oldest_first_beyond_the_bound() {
        let mut seen = Seen::default();
        for id in 0..=SEEN_MAX {
            assert!(seen.insert(&id.to_string()));
        }
        assert!(!seen.contains("0"));
        assert!(seen.contains("1") && !seen.insert("1"));
        assert_eq!(seen.order.len(), SEEN_MAX);
        assert_eq!(seen.known.len(), SEEN_MAX);
    }

    #[test]
    fn the_empty_id_is_never_known() {
        let mut seen = Seen::default();
        assert!(seen.insert("") && seen.insert("") && !seen.contains(""));
    }
}
