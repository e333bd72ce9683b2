//! What was learned: counts of interactions by item, by context value and by consumer. Adding one
//! is cheap, so the model never needs a training run. Has no clock, does no I/O, and does not know
//! which items are in the catalog; scores are made of the counts in [`super::scoring`].

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    hash::{DefaultHasher, Hash, Hasher},
};

use touchline_store::{
    event::Context,
    ids::{ConsumerId, ItemId},
};

/// Different items that are counted.
const ITEMS_MAX: usize = 100_000;
/// Different consumers that have a profile; whoever comes later is counted for everybody only.
const CONSUMERS_MAX: usize = 500_000;
/// Interactions that are remembered as heard, of 8 bytes each.
const HEARD_MAX: usize = 1_000_000;
/// Different values of all context keys together.
const CONTEXT_VALUES_MAX: usize = 10_000;

/// An item as the model numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ItemIndex(u32);

impl ItemIndex {
    pub(super) fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// Sums of weights by item. Weights are whole numbers, so sums do not depend on the order.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Ordered by item; short, as one consumer or one context value meets few items.
    weights: Vec<(ItemIndex, f64)>,
    total: f64,
}

impl Tally {
    /// The weight of one item.
    pub(super) fn of(&self, item: ItemIndex) -> f64 {
        self.weights
            .binary_search_by_key(&item, |(item, _)| *item)
            .map_or(0.0, |place| self.weights[place].1)
    }

    /// The weight of all items.
    pub(super) fn total(&self) -> f64 {
        self.total
    }

    /// Items that have a weight.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ItemIndex, f64)> + '_ {
        self.weights.iter().copied()
    }

    fn add(&mut self, item: ItemIndex, weight: f64) {
        match self.weights.binary_search_by_key(&item, |(item, _)| *item) {
            Ok(place) => self.weights[place].1 += weight,
            Err(place) => self.weights.insert(place, (item, weight)),
        }
        self.total += weight;
    }
}

/// All counts.
#[derive(Debug, Default)]
pub(super) struct Model {
    items: HashMap<ItemId, ItemIndex>,
    popularity: Vec<f64>,
    contexts: HashMap<String, HashMap<String, Tally>>,
    context_values: usize,
    consumers: HashMap<ConsumerId, Tally>,
    /// What counted for everybody: consumer, item and situation, hashed.
    heard: HashSet<u64>,
    learned: u64,
}

impl Model {
    /// Counts one interaction. `weight` is how much it says about its consumer. For everybody else
    /// one consumer's same item in the same situation counts once, or one eager thumb would decide
    /// for all.
    pub(super) fn learn(
        &mut self,
        consumer_id: &ConsumerId,
        item_id: &ItemId,
        context: &Context,
        weight: u32,
    ) {
        self.learned += 1;
        let Some(item) = self.index(item_id) else {
            return;
        };
        if let Some(tally) = self.consumer_entry(consumer_id) {
            tally.add(item, f64::from(weight));
        }
        if !self.is_heard_first((consumer_id, item, context)) {
            return;
        }
        self.popularity[item.as_usize()] += 1.0;
        for (key, value) in context {
            if let Some(tally) = self.context_value(key, value) {
                tally.add(item, 1.0);
            }
        }
    }

    /// Whether this is the first time; when as many are remembered as may be, all are forgotten.
    fn is_heard_first(&mut self, what: impl Hash) -> bool {
        if self.heard.len() >= HEARD_MAX {
            self.heard.clear();
        }
        // Keyed the same in every process, so that rankings are the same too.
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        self.heard.insert(hasher.finish())
    }

    /// The number of an item, which it gets here if it has none; `None`: there are too many.
    pub(super) fn index(&mut self, item_id: &ItemId) -> Option<ItemIndex> {
        if let Some(item) = self.items.get(item_id) {
            return Some(*item);
        }
        if self.items.len() >= ITEMS_MAX {
            return None;
        }
        let item = ItemIndex(u32::try_from(self.items.len()).ok()?);
        self.items.insert(item_id.clone(), item);
        self.popularity.push(0.0);
        Some(item)
    }

    /// How often an item was interacted with.
    pub(super) fn popularity(&self, item: ItemIndex) -> f64 {
        self.popularity[item.as_usize()]
    }

    /// What was interacted with while the context key had this value.
    pub(super) fn context(&self, key: &str, value: &str) -> Option<&Tally> {
        self.contexts.get(key)?.get(value)
    }

    /// What this consumer interacted with.
    pub(super) fn consumer(&self, consumer_id: &ConsumerId) -> Option<&Tally> {
        self.consumers.get(consumer_id)
    }

    /// Interactions so far.
    pub(super) fn learned(&self) -> u64 {
        self.learned
    }

    fn context_value(&mut self, key: &str, value: &str) -> Option<&mut Tally> {
        let known = self.context(key, value).is_some();
        if !known {
            if self.context_values >= CONTEXT_VALUES_MAX {
                return None;
            }
            self.context_values += 1;
            let values = self.contexts.entry(key.to_owned()).or_default();
            values.insert(value.to_owned(), Tally::default());
        }
        self.contexts.get_mut(key)?.get_mut(value)
    }

    fn consumer_entry(&mut self, consumer_id: &ConsumerId) -> Option<&mut Tally> {
        let full = self.consumers.len() >= CONSUMERS_MAX;
        match self.consumers.entry(consumer_id.clone()) {
            Entry::Occupied(entry) => Some(entry.into_mut()),
            Entry::Vacant(_) if full => None,
            Entry::Vacant(entry) => Some(entry.insert(Tally::default())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: usize) -> ItemId {
        ItemId::new(format!("ITEM_ID_{id}")).unwrap()
    }

    fn consumer(id: usize) -> ConsumerId {
        ConsumerId::new(format!("consumer-{id}")).unwrap()
    }

    #[test]
    fn what_is_learned_is_counted_for_item_context_and_consumer() {
        let mut model = Model::default();
        let goal = Context::from([("MATCH_EVENT".to_owned(), "GOAL".to_owned())]);
        model.learn(&consumer(1), &item(7), &goal, 5);
        model.learn(&consumer(2), &item(7), &Context::new(), 1);
        let index = model.index(&item(7)).unwrap();
        assert_eq!(model.popularity(index), 2.0);
        assert_eq!(model.context("MATCH_EVENT", "GOAL").unwrap().of(index), 1.0);
        assert_eq!(model.consumer(&consumer(1)).unwrap().of(index), 5.0);
        assert_eq!(model.consumer(&consumer(2)).unwrap().total(), 1.0);
        assert_eq!(model.learned(), 2);
    }

    #[test]
    fn one_eager_thumb_does_not_decide_for_everybody() {
        let mut model = Model::default();
        let goal = Context::from([("MATCH_EVENT".to_owned(), "GOAL".to_owned())]);
        for _ in 0..20 {
            model.learn(&consumer(1), &item(7), &goal, 1);
        }
        model.learn(&consumer(2), &item(7), &goal, 1);
        let index = model.index(&item(7)).unwrap();
        assert_eq!(model.popularity(index), 2.0);
        assert_eq!(model.context("MATCH_EVENT", "GOAL").unwrap().of(index), 2.0);
        assert_eq!(model.consumer(&consumer(1)).unwrap().of(index), 20.0);
    }

    #[test]
    fn the_number_of_context_values_is_bounded() {
        let mut model = Model::default();
        for value in 0..=CONTEXT_VALUES_MAX {
            let context = Context::from([("CLOCK".to_owned(), value.to_string())]);
            model.learn(&consumer(1), &item(1), &context, 1);
        }
        assert!(model.context("CLOCK", "0").is_some());
        let beyond = CONTEXT_VALUES_MAX.to_string();
        assert!(model.context("CLOCK", &beyond).is_none());
        let known = Context::from([("CLOCK".to_owned(), "0".to_owned())]);
        model.learn(&consumer(2), &item(1), &known, 1);
        assert_eq!(model.context("CLOCK", "0").unwrap().total(), 2.0);
    }

    #[test]
    fn the_number_of_items_is_bounded() {
        let mut model = Model::default();
        for id in 0..ITEMS_MAX {
            assert!(model.index(&item(id)).is_some());
        }
        assert_eq!(model.index(&item(ITEMS_MAX)), None);
        assert!(model.index(&item(0)).is_some());
    }

    #[test]
    fn a_consumer_beyond_the_bound_counts_for_everybody_only() {
        let mut model = Model::default();
        for id in 0..CONSUMERS_MAX {
            model.consumers.insert(consumer(id), Tally::default());
        }
        model.learn(&consumer(CONSUMERS_MAX), &item(1), &Context::new(), 1);
        assert!(model.consumer(&consumer(CONSUMERS_MAX)).is_none());
        let index = model.index(&item(1)).unwrap();
        assert_eq!(model.popularity(index), 1.0);
    }
}
