//! Which contexts follow which, learned from the changes that were seen: a penalty is often followed
//! by a goal. Pure. A change is learned as what it changes, so that what one match taught holds for
//! another at a different venue; a number that moves is learned as its step.

use std::collections::HashMap;

use touchline_store::event::Context;

/// Changes that are told apart; beyond them, what was seen least is forgotten.
const CHANGES_MAX: usize = 2_000;
/// Half of what was learned is forgotten whenever so much was seen: matches of this season count more
/// than those of the last.
const SEEN_MAX: u32 = 100_000;
/// What follows less often than this, of all that could follow, is not worth a question.
const SHARE_MIN: f64 = 0.05;

/// What was learned.
#[derive(Debug, Clone, Default)]
pub struct Transitions {
    changes: HashMap<Change, u32>,
    seen: u32,
}

/// A context that may follow.
#[derive(Debug, Clone, PartialEq)]
pub struct Likely {
    /// The context.
    pub context: Context,
    /// How often it followed, of all that could, from 0 to 1.
    pub share: f64,
}

/// What changes, by key, in the order of keys.
type Change = Vec<(String, Step)>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Step {
    /// A whole number becomes another one, so much further.
    By(i64),
    /// One value becomes another; `None`: the context lacks the key.
    FromTo(Option<String>, Option<String>),
}

impl Transitions {
    /// One context followed another.
    pub fn learn(&mut self, from: &Context, to: &Context) {
        let change = change(from, to);
        if change.is_empty() {
            return;
        }
        *self.changes.entry(change).or_default() += 1;
        self.seen += 1;
        if self.changes.len() > CHANGES_MAX || self.seen > SEEN_MAX {
            self.forget();
        }
    }

    /// What may follow a context, the likeliest first, at most so many.
    pub fn following(&self, context: &Context, most: usize) -> Vec<Likely> {
        let mut counts: HashMap<Context, u32> = HashMap::new();
        for (change, count) in &self.changes {
            if let Some(next) = applied(change, context) {
                *counts.entry(next).or_default() += count;
            }
        }
        let all: u32 = counts.values().sum();
        let mut likely: Vec<Likely> = counts
            .into_iter()
            .map(|(context, count)| Likely {
                context,
                share: f64::from(count) / f64::from(all),
            })
            .filter(|likely| likely.share >= SHARE_MIN)
            .collect();
        // Equal shares in an order that is the same everywhere.
        likely.sort_by(|a, b| {
            let by_share = b.share.total_cmp(&a.share);
            by_share.then_with(|| a.context.cmp(&b.context))
        });
        likely.truncate(most);
        likely
    }

    fn forget(&mut self) {
        for count in self.changes.values_mut() {
            *count /= 2;
        }
        self.changes.retain(|_, count| *count > 0);
        self.seen = self.changes.values().sum();
    }
}

fn change(from: &Context, to: &Context) -> Change {
    let new = to.keys().filter(|key| !from.contains_key(*key));
    let mut keys: Vec<&String> = from.keys().chain(new).collect();
    keys.sort_unstable();
    keys.into_iter()
        .filter(|key| from.get(*key) != to.get(*key))
        .map(|key| (key.clone(), step(from.get(key), to.get(key))))
        .collect()
}

fn step(from: Option<&String>, to: Option<&String>) -> Step {
    let number = |text: Option<&String>| text.and_then(|text| whole(text));
    match (number(from), number(to)) {
        (Some(from), Some(to)) => Step::By(to.saturating_sub(from)),
        _ => Step::FromTo(from.cloned(), to.cloned()),
    }
}

/// A whole number in the one way in which it is written back.
fn whole(text: &str) -> Option<i64> {
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// What the context becomes; `None` if it cannot change in this way.
fn applied(change: &Change, context: &Context) -> Option<Context> {
    let mut next = context.clone();
    for (key, step) in change {
        match step {
            Step::By(step) => {
                let number = whole(context.get(key)?)?.checked_add(*step)?;
                next.insert(key.clone(), number.to_string());
            }
            Step::FromTo(from, to) => {
                if context.get(key) != from.as_ref() {
                    return None;
                }
                match to {
                    Some(to) => next.insert(key.clone(), to.clone()),
                    None => next.remove(key),
                };
            }
        }
    }
    Some(next)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn context(event: &str, difference: &str) -> Context {
        [("MATCH_EVENT", event), ("SCORE_DIFFERENCE", difference)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn what_one_match_taught_holds_for_another_score_and_venue() {
        let mut transitions = Transitions::default();
        transitions.learn(&context("PENALTY", "0"), &context("GOAL", "1"));
        transitions.learn(&context("PENALTY", "2"), &context("GOAL", "3"));
        transitions.learn(&context("PENALTY", "1"), &context("NONE", "1"));
        transitions.learn(&context("CORNER", "1"), &context("NONE", "1"));
        let mut here = context("PENALTY", "4");
        here.insert("MATCH_VENUE".to_owned(), "HOME".to_owned());
        let likely = transitions.following(&here, 10);
        let said: Vec<_> = likely
            .iter()
            .map(|likely| {
                let at = |key: &str| likely.context[key].as_str();
                assert_eq!(at("MATCH_VENUE"), "HOME");
                (at("MATCH_EVENT"), at("SCORE_DIFFERENCE"), likely.share)
            })
            .collect();
        assert_eq!(said, [("GOAL", "5", 2.0 / 3.0), ("NONE", "4", 1.0 / 3.0)]);
        assert_eq!(transitions.following(&here, 1).len(), 1);
    }

    #[test]
    fn what_hardly_ever_follows_is_not_named() {
        let mut transitions = Transitions::default();
        for _ in 0..99 {
            transitions.learn(&context("PENALTY", "0"), &context("GOAL", "1"));
        }
        transitions.learn(&context("PENALTY", "0"), &context("CARD", "0"));
        assert_eq!(transitions.following(&context("PENALTY", "0"), 9).len(), 1);
    }

    #[test]
    fn a_key_may_come_and_go() {
        let mut transitions = Transitions::default();
        let (mut with, without) = (context("NONE", "0"), context("NONE", "0"));
        with.insert("EXTRA".to_owned(), "1".to_owned());
        transitions.learn(&without, &with);
        transitions.learn(&with, &without);
        assert_eq!(transitions.following(&without, 9)[0].context, with);
        assert_eq!(transitions.following(&with, 9)[0].context, without);
    }

    #[test]
    fn memory_is_bounded_and_what_is_seen_often_stays() {
        let mut transitions = Transitions::default();
        for number in 0..10_000 {
            transitions.learn(&context("PENALTY", "0"), &context("GOAL", "1"));
            transitions.learn(&context("NONE", "0"), &context(&format!("E{number}"), "0"));
            assert!(transitions.changes.len() <= CHANGES_MAX);
        }
        let likely = transitions.following(&context("PENALTY", "0"), 1);
        assert_eq!(likely[0].context, context("GOAL", "1"));
    }

    fn any_context() -> impl Strategy<Value = Context> {
        prop::collection::btree_map("[A-C]", "(-?[0-9]{1,3}|[a-c])", 0..4)
    }

    proptest! {
        #[test]
        fn what_followed_once_may_follow_again(from in any_context(), to in any_context()) {
            let mut transitions = Transitions::default();
            transitions.learn(&from, &to);
            let likely = transitions.following(&from, 9);
            if from == to {
                prop_assert!(likely.is_empty());
            } else {
                prop_assert_eq!(&likely[0].context, &to);
            }
        }
    }
}
