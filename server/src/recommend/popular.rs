//! What is popular, learned from the recommender's own answers: the source of last resort, which
//! asks nobody. Pure. Knows neither consumers nor contexts.

use std::collections::{HashMap, HashSet};

use touchline_store::ids::ItemId;

use super::{Origin, RankedItem, Ranking};

/// Different items that are counted.
const ITEMS_MAX: usize = 10_000;
/// Answers after which what was learned before counts half.
const HALF_LIFE: f64 = 2_000.0;

/// How often, and how high, each item stood in answers.
#[derive(Debug, Default)]
pub struct Popular {
    weights: HashMap<ItemId, f64>,
    /// What one answer weighs: it grows, instead of everything before it shrinking.
    unit: f64,
    /// The catalog's items, which stand behind everything that was learned, by id.
    catalog: Vec<ItemId>,
}

impl Popular {
    /// From now on exactly these items exist.
    pub fn set_items(&mut self, items: impl Iterator<Item = ItemId>) {
        self.catalog = items.collect();
        self.catalog.sort();
        let known: HashSet<&ItemId> = self.catalog.iter().collect();
        self.weights.retain(|item_id, _| known.contains(item_id));
    }

    /// Learns from one answer: the first place weighs 1, the second a half, and so on.
    pub fn learn(&mut self, ranking: &Ranking) {
        self.unit = self.unit.max(1.0) * 2f64.powf(1.0 / HALF_LIFE);
        for (place, ranked) in ranking.items.iter().enumerate() {
            let weight = self.unit / (place + 1) as f64;
            if let Some(sum) = self.weights.get_mut(&ranked.item_id) {
                *sum += weight;
            } else if self.weights.len() < ITEMS_MAX {
                self.weights.insert(ranked.item_id.clone(), weight);
            }
        }
        if self.unit > 1e100 {
            let unit = self.unit;
            self.weights.values_mut().for_each(|weight| *weight /= unit);
            self.unit = 1.0;
        }
    }

    /// The most popular first; items that no answer named come last. Empty without a catalog.
    pub fn ranking(&self, num_results: usize) -> Ranking {
        let weight = |item_id: &ItemId| self.weights.get(item_id).copied().unwrap_or_default();
        let mut items: Vec<(f64, &ItemId)> =
            self.catalog.iter().map(|it| (weight(it), it)).collect();
        items.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(other.1)));
        let ranked = |(_, item_id): (f64, &ItemId)| RankedItem {
            item_id: item_id.clone(),
            score: None,
            details: None,
        };
        Ranking {
            items: items.into_iter().take(num_results).map(ranked).collect(),
            recommendation_id: None,
            origin: Origin::Popular,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &[&str]) -> Vec<ItemId> {
        names
            .iter()
            .map(|name| ItemId::new(name).unwrap())
            .collect()
    }

    fn answer(names: &[&str]) -> Ranking {
        let items = ids(names).into_iter();
        Ranking {
            items: items
                .map(|item_id| RankedItem {
                    item_id,
                    score: None,
                    details: None,
                })
                .collect(),
            recommendation_id: None,
            origin: Origin::Personalize,
        }
    }

    fn order(popular: &Popular) -> Vec<String> {
        let ranking = popular.ranking(10);
        ranking
            .items
            .iter()
            .map(|it| it.item_id.to_string())
            .collect()
    }

    #[test]
    fn what_stood_high_most_often_is_first_and_what_nobody_named_is_last() {
        let mut popular = Popular::default();
        popular.set_items(ids(&["a", "b", "c", "d"]).into_iter());
        assert_eq!(order(&popular), ["a", "b", "c", "d"]);
        popular.learn(&answer(&["c", "b", "gone"]));
        popular.learn(&answer(&["c", "b"]));
        assert_eq!(order(&popular), ["c", "b", "a", "d"]);
    }

    #[test]
    fn new_answers_outweigh_old_ones() {
        let mut popular = Popular::default();
        popular.set_items(ids(&["a", "b"]).into_iter());
        (0..20_000).for_each(|_| popular.learn(&answer(&["a"])));
        (0..4_000).for_each(|_| popular.learn(&answer(&["b"])));
        assert_eq!(order(&popular), ["b", "a"]);
    }

    #[test]
    fn an_item_that_left_the_catalog_is_never_ranked() {
        let mut popular = Popular::default();
        popular.set_items(ids(&["a", "b"]).into_iter());
        popular.learn(&answer(&["b"]));
        popular.set_items(ids(&["a"]).into_iter());
        assert_eq!(order(&popular), ["a"]);
    }
}
