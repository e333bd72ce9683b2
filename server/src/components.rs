//! Moderation: from a ranking to what is shown, by the [`policies`] and what was shown before
//! ([`history`]). Pure; it does not rank.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};
use touchline_store::ids::ItemId;

use crate::{
    catalog::{Catalog, CatalogItem},
    recommend::{Details, RankedItem},
};

pub mod history;
pub mod policies;
#[cfg(test)]
mod tests;

use policies::{Asked, Reason};

/// One component of a set. Shares the catalog's item, so that a thousand sets hold it once.
#[derive(Debug, Clone)]
pub struct Component {
    /// The item and the slot that it fills.
    pub item: Arc<CatalogItem>,
    /// Its place in the ranking before moderation, from 1; 0 where it is pinned and was not ranked.
    pub rank: u32,
    /// The recommender's score, where it gave one.
    pub score: Option<f64>,
    /// What else it says of the item.
    pub details: Option<Arc<Details>>,
}

/// An item that is not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The item, as it was ranked or pinned.
    pub item_id: ItemId,
    /// Its place in the ranking, from 1; 0 where it is pinned and was not ranked.
    pub rank: u32,
    /// Why it is not shown.
    pub reason: Reason,
}

/// The moderated answer.
#[derive(Debug, Clone)]
pub struct Moderated {
    /// What is pinned, then the recommender's order; of each type no more than it has slots.
    pub components: Vec<Component>,
    /// Hash of what they show.
    pub set_id: SetId,
    /// What is not shown, in the same order.
    pub dropped: Vec<Dropped>,
}

/// Hash of what a set shows: item types, items and their attributes, in order. Equal ids, equal
/// components on the screen; scores and the event are no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SetId(u64);

impl fmt::Display for SetId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl SetId {
    /// Reads an id as [`Display`](fmt::Display) writes it: 16 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits
            .then(|| u64::from_str_radix(text, 16).ok().map(Self))
            .flatten()
    }
}

/// Takes what is pinned, then walks the ranking, and keeps what may be shown until the slots of its
/// type are taken. Without policies that is the first item of each item type, in order of first
/// occurrence (the prototype's rule). Items that the catalog does not know are dropped, where the
/// prototype fails for everybody. An empty ranking gives an empty set, but for what is pinned.
pub fn moderate(ranking: &[RankedItem], catalog: &Catalog, asked: &Asked<'_>) -> Moderated {
    let pinned = &asked.policies.pinned;
    let mut walk = Walk {
        catalog,
        asked,
        components: Vec::new(),
        dropped: Vec::new(),
    };
    for item_id in pinned {
        let place = ranking.iter().position(|ranked| ranked.item_id == *item_id);
        walk.take(item_id, place.map(|place| (place, &ranking[place])));
    }
    for (place, ranked) in ranking.iter().enumerate() {
        if !pinned.contains(&ranked.item_id) {
            walk.take(&ranked.item_id, Some((place, ranked)));
        }
    }
    Moderated {
        set_id: set_id(&walk.components),
        components: walk.components,
        dropped: walk.dropped,
    }
}

struct Walk<'a> {
    catalog: &'a Catalog,
    asked: &'a Asked<'a>,
    components: Vec<Component>,
    dropped: Vec<Dropped>,
}

impl Walk<'_> {
    fn take(&mut self, item_id: &ItemId, ranked: Option<(usize, &RankedItem)>) {
        let rank = ranked.map_or(0, |(place, _)| u32::try_from(place + 1).unwrap_or(u32::MAX));
        let reason = match self.catalog.get(item_id) {
            None => Reason::UnknownItem,
            Some(item) => match self.refuse(item) {
                Ok(()) => {
                    self.components.push(Component {
                        item: item.clone(),
                        rank,
                        score: ranked.and_then(|(_, ranked)| ranked.score),
                        details: ranked.and_then(|(_, ranked)| ranked.details.clone()),
                    });
                    return;
                }
                Err(reason) => reason,
            },
        };
        self.dropped.push(Dropped {
            item_id: item_id.clone(),
            rank,
            reason,
        });
    }

    fn refuse(&self, item: &Arc<CatalogItem>) -> Result<(), Reason> {
        if let Some(reason) = self.asked.policies.refuse(item, self.asked) {
            return Err(reason);
        }
        // A handful of components: looking through them is quicker than hashing.
        let of_type = |component: &&Component| component.item.item_type == item.item_type;
        let taken = self.components.iter().filter(of_type).count();
        let is_repeated = || {
            let mut shown = self.components.iter();
            shown.any(|component| Arc::ptr_eq(&component.item, item))
        };
        if taken >= self.asked.policies.slots(&item.item_type) || (taken > 0 && is_repeated()) {
            return Err(Reason::SlotFull);
        }
        Ok(())
    }
}

fn set_id(components: &[Component]) -> SetId {
    let mut hash = Sha256::new();
    for component in components {
        hash.update(component.item.digest());
    }
    let digest = hash.finalize();
    let (head, _) = digest
        .split_first_chunk::<8>()
        .expect("a SHA-256 digest has 32 bytes");
    SetId(u64::from_be_bytes(*head))
}
