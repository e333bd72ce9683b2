//! What the stand-in prefers: a pure function of the consumer, the context and the item.
//!
//! It claims no sense in its taste: different consumers get different rankings, and so do
//! different contexts, the same on every machine and in every run.

use std::collections::BTreeMap;

/// All items with their scores, best first. Scores sum to 1, as the service's do over the whole
/// catalog.
pub(super) fn rank(
    items: &[String],
    consumer_id: &str,
    context: &BTreeMap<String, String>,
) -> Vec<(String, f64)> {
    let consumer = text_hash(consumer_id);
    let situation = context.iter().fold(0_u64, |hash, (key, value)| {
        mix(hash ^ text_hash(key).rotate_left(17) ^ text_hash(value))
    });
    let mut liked: Vec<(&String, f64)> = items
        .iter()
        .map(|item_id| {
            let item = text_hash(item_id);
            // The consumer's taste weighs twice as much as the situation.
            let taste = 2.0 * unit(mix(consumer ^ item)) + unit(mix(situation ^ item));
            (item_id, taste.exp())
        })
        .collect();
    let sum: f64 = liked.iter().map(|(_, weight)| weight).sum();
    liked.sort_by(|one, other| other.1.total_cmp(&one.1).then_with(|| one.0.cmp(other.0)));
    liked
        .into_iter()
        .map(|(item_id, weight)| (item_id.clone(), weight / sum))
        .collect()
}

/// The next number of a well-mixed sequence (SplitMix64's finaliser).
pub(super) fn mix(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A number in `[0, 1)` from the upper 53 bits.
pub(super) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// FNV-1a, which is the same everywhere.
fn text_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<String> {
        (1..=40).map(|number| format!("ITEM_ID_{number}")).collect()
    }

    fn context(event: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("MATCH_EVENT".to_owned(), event.to_owned())])
    }

    #[test]
    fn consumers_and_contexts_have_rankings_of_their_own() {
        let ann_goal = rank(&items(), "ann", &context("GOAL"));
        assert_eq!(ann_goal, rank(&items(), "ann", &context("GOAL")));
        assert_ne!(ann_goal, rank(&items(), "bob", &context("GOAL")));
        assert_ne!(ann_goal, rank(&items(), "ann", &context("INJURY")));
    }

    #[test]
    fn scores_fall_and_sum_to_one() {
        let ranked = rank(&items(), "ann", &context("GOAL"));
        assert!(ranked.is_sorted_by(|one, other| one.1 >= other.1));
        let sum: f64 = ranked.iter().map(|(_, score)| score).sum();
        assert!((sum - 1.0).abs() < 1e-9, "the scores sum to {sum}");
    }
}
