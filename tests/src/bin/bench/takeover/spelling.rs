//! A catalog and a history in which the set that a fan is shown spells the number of the state that it
//! answers, so that a message of either protocol says by itself how new it is. Pure.

use std::fmt::Write;

use anyhow::Result;
use touchline_store::{
    ids::{ItemId, ItemType},
    item::Item,
};

/// The largest number that can be spelled.
pub(super) const NUMBER_MAX: u32 = 9_999;

/// Taps of an item in its situation: enough that the ranker puts it before all others.
const TAPS: u32 = 100;

/// The attribute of the event that holds a digit, and the type of the items that show it; the highest
/// place first.
const PLACES: [(&str, &str); 4] = [
    ("match_event", "THOUSANDS"),
    ("match_timing", "HUNDREDS"),
    ("score_difference", "TENS"),
    ("match_venue", "ONES"),
];

/// The event's attributes in the state with this number.
pub(super) fn attributes(number: u32) -> Vec<(&'static str, String)> {
    let digits = format!("{number:04}");
    let digits = digits.chars().map(String::from);
    PLACES.iter().map(|(name, _)| *name).zip(digits).collect()
}

/// Ten items of each type, one for each digit.
pub(super) fn items() -> Result<Vec<Item>> {
    let types = PLACES.iter().map(|(_, item_type)| *item_type);
    let all = types.flat_map(|item_type| (0..10).map(move |digit| (item_type, digit)));
    all.map(|(item_type, digit)| {
        Ok(Item {
            item_id: ItemId::new(format!("{item_type}-{digit}"))?,
            item_type: ItemType::new(item_type)?,
            attributes: [].into(),
        })
    })
    .collect()
}

/// A history, as CSV, in which a digit's item is what everybody taps where the event has that digit.
pub(super) fn interactions() -> String {
    let mut csv = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE".to_owned();
    for (name, _) in PLACES {
        csv.push(',');
        csv.push_str(&name.to_uppercase());
    }
    csv.push('\n');
    for (place, (_, item_type)) in PLACES.iter().enumerate() {
        // The other places' columns stay empty: such a tap says nothing of them.
        let (before, after) = (",".repeat(place + 1), ",".repeat(PLACES.len() - 1 - place));
        for digit in 0..10 {
            for tap in 0..TAPS {
                let row =
                    format!("viewer-{tap},{item_type}-{digit},{tap},tap{before}{digit}{after}");
                writeln!(csv, "{row}").expect("writing to a text does not fail");
            }
        }
    }
    csv
}

/// The number that a set spells, given the item that it shows of a type.
pub(super) fn number<'a>(shown: impl Fn(&str) -> Option<&'a str>) -> Option<u32> {
    PLACES.iter().try_fold(0, |number, (_, item_type)| {
        let digit = shown(item_type)?.strip_prefix(item_type)?;
        Some(number * 10 + digit.strip_prefix('-')?.parse::<u32>().ok()?)
    })
}

/// The number of a state, given an attribute's value.
pub(super) fn number_of_state<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Option<u32> {
    PLACES.iter().try_fold(0, |number, (name, _)| {
        Some(number * 10 + value(name)?.parse::<u32>().ok()?)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_set_spells_the_number_of_its_state() {
        for wanted in [0, 7, 40, 1_999, NUMBER_MAX] {
            let attributes: HashMap<_, _> = attributes(wanted).into_iter().collect();
            let state = number_of_state(|name| attributes.get(name).map(String::as_str));
            assert_eq!(state, Some(wanted));
            let set: HashMap<_, _> = PLACES
                .iter()
                .map(|(name, item_type)| (*item_type, format!("{item_type}-{}", attributes[name])))
                .collect();
            let spelled = number(|item_type| set.get(item_type).map(String::as_str));
            assert_eq!(spelled, Some(wanted));
        }
    }

    #[test]
    fn what_is_no_such_set_spells_nothing() {
        assert_eq!(number(|_| Some("PLAYER-1")), None);
        assert_eq!(number(|_| None), None);
    }

    #[test]
    fn every_row_of_the_history_has_the_headers_columns() {
        let csv = interactions();
        let columns = |line: &str| line.split(',').count();
        let header = columns(csv.lines().next().unwrap());
        assert!(csv.lines().all(|line| columns(line) == header));
        assert!(csv.contains("\nviewer-0,HUNDREDS-7,0,tap,,7,,\n"));
    }
}
