//! Moderation: from a ranking to what is shown. Pure; it neither ranks nor knows who it is for.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};

use crate::{
    catalog::{Catalog, CatalogItem},
    recommend::{Details, RankedItem},
};

/// One component of a set. Shares the catalog's item, so that a thousand sets hold it once.
#[derive(Debug, Clone)]
pub struct Component {
    /// The item and the slot that it fills.
    pub item: Arc<CatalogItem>,
    /// Its place in the ranking before moderation, from 1.
    pub rank: u32,
    /// The recommender's score, where it gave one.
    pub score: Option<f64>,
    /// What else it says of the item.
    pub details: Option<Arc<Details>>,
}

/// The moderated answer.
#[derive(Debug, Clone)]
pub struct Moderated {
    /// At most one a type, in the recommender's order.
    pub components: Vec<Component>,
    /// Hash of what they show.
    pub set_id: SetId,
    /// Ranked items that the catalog does not know, or whose row has no item type.
    pub unknown_items: usize,
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

/// Walks the ranking and keeps the first item of each item type, in order of first occurrence
/// (the prototype's rule). Items that the catalog does not know are skipped and counted, where the
/// prototype fails for everybody. An empty ranking gives an empty set.
pub fn moderate(ranking: &[RankedItem], catalog: &Catalog) -> Moderated {
    let mut components: Vec<Component> = Vec::new();
    let mut unknown_items = 0;
    for (index, ranked) in ranking.iter().enumerate() {
        let Some(item) = catalog.get(&ranked.item_id) else {
            unknown_items += 1;
            continue;
        };
        // A handful of types: looking through them is quicker than hashing.
        let taken = components
            .iter()
            .any(|component| component.item.item_type == item.item_type);
        if !taken {
            components.push(Component {
                item: item.clone(),
                rank: u32::try_from(index + 1).unwrap_or(u32::MAX),
                score: ranked.score,
                details: ranked.details.clone(),
            });
        }
    }
    Moderated {
        set_id: set_id(&components),
        components,
        unknown_items,
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use proptest::prelude::*;
    use touchline_store::{
        ids::{ItemId, ItemType},
        item::Item,
    };

    use super::*;

    fn item(item_id: &str, item_type: &str, label: &str) -> Item {
        Item {
            item_id: ItemId::new(item_id).unwrap(),
            item_type: ItemType::new(item_type).unwrap(),
            attributes: BTreeMap::from([("item_label".to_owned(), label.to_owned())]),
        }
    }

    fn catalog() -> Catalog {
        Catalog::new(vec![
            item("bet", "MONETIZE", "Bet now"),
            item("tickets", "MONETIZE", "Tickets"),
            item("poll", "SOCIAL", "Who wins?"),
            item("messi", "PLAYER", "Lionel Messi"),
            item("mbappe", "PLAYER", "Kylian Mbappé"),
        ])
    }

    fn ranking(items: &[&str]) -> Vec<RankedItem> {
        items
            .iter()
            .enumerate()
            .map(|(index, item_id)| RankedItem {
                item_id: ItemId::new(item_id).unwrap(),
                score: Some(1.0 / (index + 1) as f64),
                details: None,
            })
            .collect()
    }

    fn shown(moderated: &Moderated) -> Vec<String> {
        moderated
            .components
            .iter()
            .map(|component| {
                let item = &component.item;
                format!("{}={} #{}", item.item_type, item.item_id, component.rank)
            })
            .collect()
    }

    #[test]
    fn the_first_item_of_each_type_is_kept_in_order_of_first_occurrence() {
        let moderated = moderate(
            &ranking(&["mbappe", "messi", "poll", "tickets", "bet"]),
            &catalog(),
        );
        insta::assert_debug_snapshot!(shown(&moderated), @r#"
        [
            "PLAYER=mbappe #1",
            "SOCIAL=poll #3",
            "MONETIZE=tickets #4",
        ]
        "#);
    }

    #[test]
    fn seed_3_an_item_that_the_catalog_does_not_know_is_skipped_and_counted() {
        let moderated = moderate(&ranking(&["gone", "messi", "lost", "poll"]), &catalog());
        insta::assert_debug_snapshot!(shown(&moderated), @r#"
        [
            "PLAYER=messi #2",
            "SOCIAL=poll #4",
        ]
        "#);
        assert_eq!(moderated.unknown_items, 2);
    }

    #[test]
    fn an_empty_ranking_gives_an_empty_set() {
        let moderated = moderate(&[], &catalog());
        assert!(moderated.components.is_empty());
        insta::assert_snapshot!(moderated.set_id, @"e3b0c44298fc1c14");
    }

    #[test]
    fn the_set_id_is_of_what_is_shown_and_of_nothing_else() {
        let of = |items: &[&str], catalog: &Catalog| moderate(&ranking(items), catalog).set_id;
        let set_id = of(&["messi", "poll"], &catalog());
        // Other ranks and scores, the same screen.
        assert_eq!(of(&["gone", "messi", "mbappe", "poll"], &catalog()), set_id);
        assert_ne!(of(&["poll", "messi"], &catalog()), set_id, "another order");
        assert_ne!(of(&["mbappe", "poll"], &catalog()), set_id, "another item");
        let relabelled = Catalog::new(vec![
            item("poll", "SOCIAL", "Who won?"),
            item("messi", "PLAYER", "Lionel Messi"),
        ]);
        assert_ne!(of(&["messi", "poll"], &relabelled), set_id, "another label");
    }

    #[test]
    fn a_set_id_is_read_as_it_is_written() {
        let set_id = moderate(&ranking(&["messi"]), &catalog()).set_id;
        assert_eq!(SetId::parse(&set_id.to_string()), Some(set_id));
        for text in [
            "",
            "e3b0c44298fc1c1",
            "e3b0c44298fc1c144",
            "+3b0c44298fc1c14",
        ] {
            assert_eq!(SetId::parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn at_most_one_a_type_and_each_is_the_best_of_its_type(
            ranked in prop::collection::vec((0u8..30, 0u8..5), 0..60),
        ) {
            // Each item has one type, whatever the ranking repeats.
            let kind: BTreeMap<u8, u8> = ranked.iter().copied().collect();
            let known: Vec<Item> = kind
                .iter()
                .filter(|(id, _)| *id % 7 != 0)
                .map(|(id, kind)| item(&id.to_string(), &kind.to_string(), ""))
                .collect();
            let catalog = Catalog::new(known);
            let names: Vec<String> = ranked.iter().map(|(id, _)| id.to_string()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let moderated = moderate(&ranking(&names), &catalog);

            prop_assert!(moderated.components.is_sorted_by_key(|component| component.rank));
            let mut types = HashSet::new();
            for component in &moderated.components {
                prop_assert!(types.insert(component.item.item_type.clone()));
                let first = ranked.iter().position(|(id, _)| {
                    id % 7 != 0 && kind[id].to_string() == component.item.item_type.as_str()
                });
                prop_assert_eq!(first, Some(component.rank as usize - 1));
            }
            let unknown = ranked.iter().filter(|(id, _)| id % 7 == 0).count();
            prop_assert_eq!(moderated.unknown_items, unknown);
        }
    }
}
