//! Order of ids as a person reads them: runs of digits compare as numbers, so that `ITEM_ID_2`
//! stands before `ITEM_ID_10`. Knows nothing of what the ids name.

use std::cmp::Ordering;

/// Compares two ids. Ids that differ never compare as equal: `A_01` and `A_1` fall back to plain
/// text order.
pub(super) fn compare(left: &str, right: &str) -> Ordering {
    let (mut rest_left, mut rest_right) = (left, right);
    loop {
        if rest_left.is_empty() || rest_right.is_empty() {
            let shorter_first = rest_left.len().cmp(&rest_right.len());
            return shorter_first.then_with(|| left.cmp(right));
        }
        let (run_left, after_left) = split_run(rest_left);
        let (run_right, after_right) = split_run(rest_right);
        let order = compare_runs(run_left, run_right);
        if order != Ordering::Equal {
            return order;
        }
        (rest_left, rest_right) = (after_left, after_right);
    }
}

/// The first run of digits, or of anything else, and what follows it.
fn split_run(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|first: char| first.is_ascii_digit());
    let end = text
        .find(|next: char| next.is_ascii_digit() != digits)
        .unwrap_or(text.len());
    text.split_at(end)
}

fn compare_runs(left: &str, right: &str) -> Ordering {
    let is_number = |run: &str| run.starts_with(|first: char| first.is_ascii_digit());
    if !(is_number(left) && is_number(right)) {
        return left.cmp(right);
    }
    // Without leading zeros the longer number is the larger one, however long: nothing overflows.
    let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digits_compare_as_numbers() {
        let mut ids = [
            "B",
            "ITEM_ID_10",
            "ITEM_ID_2",
            "ITEM_ID_1",
            "ITEM_ID_02",
            "7",
        ];
        ids.sort_by(|left, right| compare(left, right));
        assert_eq!(
            ids,
            [
                "7",
                "B",
                "ITEM_ID_1",
                "ITEM_ID_02",
                "ITEM_ID_2",
                "ITEM_ID_10"
            ]
        );
    }

    proptest! {
        #[test]
        fn the_order_is_total(mut ids in prop::collection::vec("[a0-2é]{0,6}", 0..12)) {
            // The standard library's sort panics on an order that contradicts itself.
            ids.sort_by(|left, right| compare(left, right));
            for pair in ids.windows(2) {
                prop_assert_ne!(compare(&pair[0], &pair[1]), Ordering::Greater);
                prop_assert_eq!(compare(&pair[0], &pair[1]), compare(&pair[1], &pair[0]).reverse());
                prop_assert_eq!(compare(&pair[0], &pair[1]) == Ordering::Equal, pair[0] == pair[1]);
            }
        }
    }
}
