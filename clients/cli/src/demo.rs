//! What an empty local stack is filled with: a catalog, consumers with tastes, their history, and a
//! real match. Invented, except for the match; the same at every start.

use touchline_store::item::Item;

use crate::{items_csv, match_file::Match};

mod interactions;

/// The content that the demo's fans watch.
pub const CONTENT_ID: &str = "world-cup-final";

/// A consumer with a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// As the recommender knows them.
    pub consumer_id: String,
    /// For people.
    pub name: String,
    /// What the history shows, in a sentence.
    pub taste: &'static str,
    taste_kind: Taste,
}

/// Where a consumer's interest lies; decides which interactions are made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taste {
    Argentina,
    France,
    Bets,
    Statistics,
    Company,
    Shopping,
}

impl Taste {
    const ALL: [Self; 6] = [
        Self::Argentina,
        Self::France,
        Self::Bets,
        Self::Statistics,
        Self::Company,
        Self::Shopping,
    ];

    fn sentence(self) -> &'static str {
        match self {
            Self::Argentina => "lives for Argentina's players",
            Self::France => "follows les Bleus, goal by goal",
            Self::Bets => "bets on whatever comes next",
            Self::Statistics => "wants numbers, line-ups and replays",
            Self::Company => "watches with everyone: polls, quizzes, chat",
            Self::Shopping => "gets shirts, tickets and something to eat",
        }
    }
}

/// Synthetic consumers beside the named ones.
const CROWD: usize = 120;

/// The six named consumers, one of each taste, then the crowd.
pub fn consumers() -> Vec<Consumer> {
    let consumer = |id: String, name: String, taste_kind: Taste| Consumer {
        consumer_id: id,
        name,
        taste: taste_kind.sentence(),
        taste_kind,
    };
    let named = ["Diego", "Camille", "Bruno", "Nadia", "Lucy", "Omar"];
    let named = named
        .into_iter()
        .zip(Taste::ALL)
        .map(|(name, taste)| consumer(name.to_lowercase(), name.to_owned(), taste));
    let crowd = (1..=CROWD).map(|number| {
        let taste = Taste::ALL[number % Taste::ALL.len()];
        consumer(format!("fan-{number:03}"), format!("Fan {number}"), taste)
    });
    named.chain(crowd).collect()
}

/// The catalog: 40 items, as many of each type as in the prototype's sample.
pub fn items() -> Vec<Item> {
    items_csv::read(include_bytes!("../demo/items.csv").as_slice())
        .expect("the demo's catalog is checked by a test")
}

/// The consumers' history before the match, in Personalize's interactions schema with the context
/// columns.
pub fn interactions_csv() -> String {
    interactions::csv(&items(), &consumers())
}

/// The final of the 2022 World Cup.
pub fn world_cup_final() -> Match {
    Match::parse(include_str!("../demo/world-cup-final-2022.toml"))
        .expect("the demo's match is checked by a test")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_catalog_has_the_samples_forty_items() {
        let mut types: BTreeMap<String, usize> = BTreeMap::new();
        for item in items() {
            *types.entry(item.item_type.to_string()).or_default() += 1;
        }
        let expected = [
            ("GENERAL", 10),
            ("MONETIZE", 6),
            ("PLAYER", 20),
            ("SOCIAL", 4),
        ];
        assert_eq!(
            types,
            expected
                .map(|(name, count)| (name.to_owned(), count))
                .into()
        );
    }

    #[test]
    fn the_history_is_the_same_every_time_and_everyone_has_one() {
        let history = interactions_csv();
        assert_eq!(history, interactions_csv());
        for consumer in consumers() {
            let rows = history
                .lines()
                .filter(|row| row.starts_with(&format!("{},", consumer.consumer_id)));
            assert!(rows.count() >= 20, "{}", consumer.consumer_id);
        }
    }
}
