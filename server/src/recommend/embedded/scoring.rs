//! From counts to scores, pure. A score is how likely a consumer is, in a situation, to want an
//! item; `docs/ranker.md` has the formula with its reasons. Decides nothing about slots: that is
//! moderation.

use std::collections::{BTreeMap, BTreeSet};

use touchline_store::{
    event::Context,
    ids::{ConsumerId, ItemId},
    item::Item,
};

use super::{
    model::{ItemIndex, Model},
    natural,
};

/// Added to each item's count, so that an item that nobody has met yet is not impossible.
const POPULARITY_PRIOR: f64 = 1.0;
/// A context value speaks for itself from about this many interactions on.
const CONTEXT_PRIOR: f64 = 30.0;
/// How far each context key is believed; below 1, as keys of one moment repeat each other.
const CONTEXT_TRUST: f64 = 0.9;
/// A consumer's attribute tastes speak for themselves from about this much weight on.
const ATTRIBUTE_PRIOR: f64 = 10.0;
/// How far all attributes together are believed; they are shared out, as they repeat each other.
const ATTRIBUTE_TRUST: f64 = 0.8;
/// A consumer's items speak for themselves from about this much weight on.
const ITEM_PRIOR: f64 = 15.0;
/// Attributes that are compared at most, beside the item type.
const ATTRIBUTES_MAX: usize = 8;

/// The items that are ranked, in natural order of their ids.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    items: Vec<CatalogItem>,
    /// Place in `items` by the model's number.
    places: Vec<Option<usize>>,
    attributes: usize,
    attribute_values: usize,
}

#[derive(Debug)]
struct CatalogItem {
    item_id: ItemId,
    index: Option<ItemIndex>,
    /// The number of the item's value for each attribute.
    values: Vec<usize>,
}

impl Catalog {
    /// Prepares these items for ranking.
    pub(super) fn new(items: &[Item], model: &mut Model) -> Self {
        let mut sorted: Vec<&Item> = items.iter().collect();
        sorted
            .sort_by(|left, right| natural::compare(left.item_id.as_str(), right.item_id.as_str()));
        sorted.dedup_by(|left, right| left.item_id == right.item_id);
        let columns = shared_attributes(&sorted);
        let mut catalog = Self {
            attributes: columns.len(),
            ..Self::default()
        };
        let mut numbers: BTreeMap<(usize, &str), usize> = BTreeMap::new();
        for (place, item) in sorted.into_iter().enumerate() {
            let mut number = |column: usize, value| {
                let next = numbers.len();
                *numbers.entry((column, value)).or_insert(next)
            };
            let values = columns
                .iter()
                .enumerate()
                .map(|(column, name)| number(column, attribute(item, name)))
                .collect();
            let index = model.index(&item.item_id);
            if let Some(index) = index {
                let end = catalog.places.len().max(index.as_usize() + 1);
                catalog.places.resize(end, None);
                catalog.places[index.as_usize()] = Some(place);
            }
            catalog.items.push(CatalogItem {
                item_id: item.item_id.clone(),
                index,
                values,
            });
        }
        catalog.attribute_values = numbers.len();
        catalog
    }

    /// The id of the item at a place.
    pub(super) fn item_id(&self, place: usize) -> &ItemId {
        &self.items[place].item_id
    }
}

/// The empty name stands for the item type.
fn attribute<'a>(item: &'a Item, name: &str) -> &'a str {
    match name {
        "" => item.item_type.as_str(),
        name => item.attributes.get(name).map_or("", String::as_str),
    }
}

/// Attributes that can tell tastes apart: those whose values items share. A label is different for
/// each item and a loading time the same for all; neither says anything.
fn shared_attributes<'a>(items: &[&'a Item]) -> Vec<&'a str> {
    let names: BTreeSet<&str> = items
        .iter()
        .flat_map(|item| item.attributes.keys().map(String::as_str))
        .filter(|name| !name.is_empty())
        .collect();
    let shared = names.into_iter().filter(|name| {
        let values: BTreeSet<&str> = items.iter().map(|item| attribute(item, name)).collect();
        values.len() > 1 && values.len() <= items.len().div_ceil(2)
    });
    std::iter::once("")
        .chain(shared.take(ATTRIBUTES_MAX))
        .collect()
}

/// What the model says about the catalog before anybody asks: made once a batch.
#[derive(Debug)]
pub(super) struct Scorer<'a> {
    model: &'a Model,
    catalog: &'a Catalog,
    /// Probability of each item.
    popularity: Vec<f64>,
    popularity_ln: Vec<f64>,
    /// Probability of each attribute value.
    values: Vec<f64>,
}

/// What a context adds to the logarithm of each item's probability.
#[derive(Debug)]
pub(super) struct Lifts(Vec<f64>);

impl<'a> Scorer<'a> {
    pub(super) fn new(model: &'a Model, catalog: &'a Catalog) -> Self {
        let weights = catalog
            .items
            .iter()
            .map(|item| POPULARITY_PRIOR + item.index.map_or(0.0, |index| model.popularity(index)));
        let mut popularity: Vec<f64> = weights.collect();
        normalise(&mut popularity);
        let mut values = vec![0.0; catalog.attribute_values];
        for (item, probability) in catalog.items.iter().zip(&popularity) {
            for value in &item.values {
                values[*value] += probability;
            }
        }
        Self {
            model,
            catalog,
            popularity_ln: popularity
                .iter()
                .map(|probability| probability.ln())
                .collect(),
            popularity,
            values,
        }
    }

    /// What a context says. Keys and values that were never seen say nothing.
    pub(super) fn lifts(&self, context: &Context) -> Lifts {
        let mut lifts = vec![0.0; self.catalog.items.len()];
        for (key, value) in context {
            let Some(tally) = self.model.context(key, value) else {
                continue;
            };
            let items = self.catalog.items.iter();
            let weights: Vec<f64> = items
                .map(|item| item.index.map_or(0.0, |index| tally.of(index)))
                .collect();
            let trust = CONTEXT_TRUST * evidence(&weights, &self.popularity);
            let total = tally.total();
            for ((lift, weight), popularity) in lifts.iter_mut().zip(&weights).zip(&self.popularity)
            {
                let smoothed = (weight + CONTEXT_PRIOR * popularity) / (total + CONTEXT_PRIOR);
                *lift += trust * (smoothed / popularity).ln();
            }
        }
        Lifts(lifts)
    }

    /// Places in the catalog with their scores, best first, ties in the ids' natural order; the
    /// scores sum to 1.
    pub(super) fn rank(&self, consumer_id: &ConsumerId, lifts: &Lifts) -> Vec<(usize, f64)> {
        let mut scores = self.taste_ln(consumer_id);
        for (score, lift) in scores.iter_mut().zip(&lifts.0) {
            *score += lift;
        }
        softmax(&mut scores);
        let mut ranked: Vec<(usize, f64)> = scores.into_iter().enumerate().collect();
        // The catalog is in natural order, so its places break ties.
        ranked
            .sort_unstable_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
        ranked
    }

    /// The logarithm of the probability that this consumer wants each item, whatever the
    /// situation: own items, backed by own attribute tastes, backed by everybody's items.
    fn taste_ln(&self, consumer_id: &ConsumerId) -> Vec<f64> {
        let (items, total) = self.history(consumer_id);
        if total <= 0.0 {
            return self.popularity_ln.clone();
        }
        let lifts = self.attribute_lifts(&items, total);
        let mut expected: Vec<f64> = self
            .catalog
            .items
            .iter()
            .zip(&self.popularity_ln)
            .map(|(item, ln)| ln + item.values.iter().map(|value| lifts[*value]).sum::<f64>())
            .collect();
        softmax(&mut expected);
        for (place, weight) in &items {
            expected[*place] += weight / ITEM_PRIOR;
        }
        // The common factor that would make these sum to 1 falls out of the ranking's softmax.
        for expected in &mut expected {
            // A probability may have come out as 0, of which there is no logarithm.
            *expected = expected.max(f64::MIN_POSITIVE).ln();
        }
        expected
    }

    /// What this consumer did with items that are still in the catalog, and its weight.
    fn history(&self, consumer_id: &ConsumerId) -> (Vec<(usize, f64)>, f64) {
        let Some(tally) = self.model.consumer(consumer_id) else {
            return (Vec::new(), 0.0);
        };
        let items: Vec<(usize, f64)> = tally
            .iter()
            .filter_map(|(item, weight)| {
                let place = self.catalog.places.get(item.as_usize())?;
                Some(((*place)?, weight))
            })
            .collect();
        let total = items.iter().map(|(_, weight)| weight).sum();
        (items, total)
    }

    /// How much more (or less) than everybody this consumer wants items with each attribute value.
    fn attribute_lifts(&self, items: &[(usize, f64)], total: f64) -> Vec<f64> {
        let mut lifts = vec![0.0; self.values.len()];
        for (place, weight) in items {
            for value in &self.catalog.items[*place].values {
                lifts[*value] += weight;
            }
        }
        let trust = ATTRIBUTE_TRUST / (self.catalog.attributes.max(1) as f64).sqrt();
        for (lift, probability) in lifts.iter_mut().zip(&self.values) {
            let smoothed = (*lift + ATTRIBUTE_PRIOR * probability) / (total + ATTRIBUTE_PRIOR);
            *lift = trust * (smoothed / probability).ln();
        }
        lifts
    }
}

/// How much of what sets a context value apart from overall popularity is more than chance, from 0
/// to 1. A match's venue counts as many taps as its goals do and says nothing: the likelihood ratio
/// of such a value is about as large as its degrees of freedom.
fn evidence(weights: &[f64], popularity: &[f64]) -> f64 {
    let total: f64 = weights.iter().sum();
    let term = |(weight, popularity): (&f64, &f64)| {
        if *weight > 0.0 {
            2.0 * weight * (weight / (total * popularity)).ln()
        } else {
            0.0
        }
    };
    let ratio: f64 = weights.iter().zip(popularity).map(term).sum();
    let freedom = weights.len().saturating_sub(1) as f64;
    if ratio > freedom {
        1.0 - freedom / ratio
    } else {
        0.0
    }
}

fn normalise(weights: &mut [f64]) {
    let total: f64 = weights.iter().sum();
    for weight in weights {
        *weight /= total;
    }
}

/// Turns logarithms into probabilities that sum to 1.
fn softmax(logarithms: &mut [f64]) {
    // Taking the largest away first keeps the exponential within its range.
    let largest = logarithms.iter().copied().fold(f64::MIN, f64::max);
    for logarithm in logarithms.iter_mut() {
        *logarithm = (*logarithm - largest).exp();
    }
    normalise(logarithms);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_value_that_differs_by_chance_is_not_believed() {
        let popularity = [0.25; 4];
        assert_eq!(evidence(&[26.0, 24.0, 25.0, 25.0], &popularity), 0.0);
        assert_eq!(evidence(&[1.0, 0.0, 0.0, 0.0], &popularity), 0.0);
        assert!(evidence(&[70.0, 10.0, 10.0, 10.0], &popularity) > 0.9);
    }

    #[test]
    fn nothing_counted_and_nothing_to_rank_are_no_evidence() {
        assert_eq!(evidence(&[0.0; 3], &[0.2, 0.3, 0.5]), 0.0);
        assert_eq!(evidence(&[], &[]), 0.0);
        assert_eq!(evidence(&[5.0], &[1.0]), 0.0);
    }
}
