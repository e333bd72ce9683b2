//! Moderation without policies is the prototype's; with them, each rule holds whatever else does.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;
use touchline_store::{
    event::{Context, Version},
    ids::{ItemId, ItemType},
    item::Item,
};

use super::{
    history::{History, StateKey},
    policies::{Daily, Policies, Rule, Who, Window},
    *,
};

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

/// Without policies.
fn plain(ranking: &[RankedItem], catalog: &Catalog) -> Moderated {
    by(&Policies::default(), ranking, catalog)
}

/// For nobody in particular, at the beginning of 1970.
fn by(policies: &Policies, ranking: &[RankedItem], catalog: &Catalog) -> Moderated {
    let asked = Asked {
        policies,
        who: Who::default(),
        context: &Context::new(),
        now: 0,
        shown: None,
    };
    moderate(ranking, catalog, &asked)
}

fn reasons(moderated: &Moderated) -> Vec<(&str, u32, Reason)> {
    let dropped = moderated.dropped.iter();
    dropped
        .map(|dropped| (dropped.item_id.as_str(), dropped.rank, dropped.reason))
        .collect()
}

fn unknown(moderated: &Moderated) -> usize {
    let dropped = moderated.dropped.iter();
    dropped
        .filter(|dropped| dropped.reason == Reason::UnknownItem)
        .count()
}

fn item_id(text: &str) -> ItemId {
    ItemId::new(text).unwrap()
}

fn item_type(text: &str) -> ItemType {
    ItemType::new(text).unwrap()
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
    let moderated = plain(
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
    let moderated = plain(&ranking(&["gone", "messi", "lost", "poll"]), &catalog());
    insta::assert_debug_snapshot!(shown(&moderated), @r#"
    [
        "PLAYER=messi #2",
        "SOCIAL=poll #4",
    ]
    "#);
    assert_eq!(unknown(&moderated), 2);
}

#[test]
fn an_empty_ranking_gives_an_empty_set() {
    let moderated = plain(&[], &catalog());
    assert!(moderated.components.is_empty());
    insta::assert_snapshot!(moderated.set_id, @"e3b0c44298fc1c14");
}

#[test]
fn the_set_id_is_of_what_is_shown_and_of_nothing_else() {
    let of = |items: &[&str], catalog: &Catalog| plain(&ranking(items), catalog).set_id;
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
    let set_id = plain(&ranking(&["messi"]), &catalog()).set_id;
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
        let moderated = plain(&ranking(&names), &catalog);

        prop_assert!(moderated.components.is_sorted_by_key(|component| component.rank));
        let mut types = HashSet::new();
        for component in &moderated.components {
            prop_assert!(types.insert(component.item.item_type.clone()));
            let first = ranked.iter().position(|(id, _)| {
                id % 7 != 0 && kind[id].to_string() == component.item.item_type.as_str()
            });
            prop_assert_eq!(first, Some(component.rank as usize - 1));
        }
        let unknown_ids = ranked.iter().filter(|(id, _)| id % 7 == 0).count();
        prop_assert_eq!(unknown(&moderated), unknown_ids);
    }
}

#[test]
fn what_is_pinned_stands_first_and_what_is_blocked_nowhere_even_if_it_is_pinned() {
    let policies = Policies {
        pinned: ["tickets", "gone", "bet", "poll"].map(item_id).into(),
        blocked: [item_id("poll")].into(),
        slots: [(item_type("PLAYER"), 2)].into(),
        ..Policies::default()
    };
    let ranking = ranking(&["messi", "bet", "messi", "mbappe", "poll"]);
    let moderated = by(&policies, &ranking, &catalog());
    insta::assert_debug_snapshot!(shown(&moderated), @r#"
    [
        "MONETIZE=tickets #0",
        "PLAYER=messi #1",
        "PLAYER=mbappe #4",
    ]
    "#);
    insta::assert_debug_snapshot!(reasons(&moderated), @r#"
    [
        (
            "gone",
            0,
            UnknownItem,
        ),
        (
            "bet",
            2,
            SlotFull,
        ),
        (
            "poll",
            5,
            Blocked,
        ),
        (
            "messi",
            3,
            SlotFull,
        ),
    ]
    "#);
    let pinned_alone = by(&policies, &[], &catalog());
    assert_eq!(shown(&pinned_alone), ["MONETIZE=tickets #0"]);
    assert_ne!(pinned_alone.set_id, plain(&[], &catalog()).set_id);
}

#[test]
fn a_bet_slip_needs_a_known_age_and_a_known_country_and_both_must_be_allowed() {
    let policies = Policies {
        types: [(
            item_type("MONETIZE"),
            Rule {
                min_age: Some(18),
                ..Rule::default()
            },
        )]
        .into(),
        items: [(
            item_id("bet"),
            Rule {
                countries: Some(["GB".to_owned(), "FR".to_owned()].into()),
                ..Rule::default()
            },
        )]
        .into(),
        ..Policies::default()
    };
    assert!(policies.ask_who() && !policies.ask_history());
    let reason = |age, country| {
        let asked = Asked {
            policies: &policies,
            who: Who { age, country },
            context: &Context::new(),
            now: 0,
            shown: None,
        };
        let moderated = moderate(&ranking(&["bet"]), &catalog(), &asked);
        moderated.dropped.first().map(|dropped| dropped.reason)
    };
    assert_eq!(reason(Some(18), Some("GB")), None);
    assert_eq!(reason(Some(17), Some("GB")), Some(Reason::Age));
    assert_eq!(reason(None, Some("GB")), Some(Reason::Age));
    assert_eq!(reason(Some(18), Some("US")), Some(Reason::Country));
    assert_eq!(reason(Some(18), None), Some(Reason::Country));
    assert_eq!(reason(Some(18), Some("gb")), Some(Reason::Country));
}

#[test]
fn a_part_of_the_day_is_a_clocks_at_its_offset_and_may_cross_midnight() {
    let hour = 3_600;
    let daily = |from: i64, until: i64, offset: i64| Window {
        daily: Some(Daily {
            from: from * hour,
            until: until * hour,
            utc_offset: offset * hour,
        }),
        ..Window::default()
    };
    let evening = daily(18, 23, 3);
    // 18:00 there is 15:00 UTC.
    let day = 86_400 * 20_000;
    for (now, holds) in [
        (15 * hour - 1, false),
        (15 * hour, true),
        (20 * hour, false),
    ] {
        assert_eq!(evening.holds(day + now), holds, "{now}");
    }
    let night = daily(22, 2, -1);
    for (now, holds) in [(hour, true), (3 * hour - 1, true), (3 * hour, false)] {
        assert_eq!(night.holds(day + now), holds, "{now}");
    }
    assert!(night.holds(day + 23 * hour));
    let dated = Window {
        from: Some(day),
        until: Some(day + hour),
        ..night
    };
    assert!(dated.holds(day) && !dated.holds(day - 1) && !dated.holds(day + hour));
}

/// Eight items of three types, of which the catalog does not know two.
fn small_catalog() -> Catalog {
    let kinds = ["A", "B", "C"];
    let items = (0..6).map(|id: usize| item(&id.to_string(), kinds[id % 3], ""));
    Catalog::new(items.collect())
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let countries = prop::option::of(prop::collection::btree_set("[AB]", 1..2));
    let only_when =
        prop::collection::btree_map("[KL]", prop::collection::btree_set("[xy]", 1..2), 0..2);
    let window = (prop::option::of(0i64..50), prop::option::of(50i64..100));
    let schedule = prop::collection::vec(window, 0..2);
    (
        prop::option::of(10u32..30),
        countries,
        prop::option::of(1usize..4),
        schedule,
        only_when,
    )
        .prop_map(|(min_age, countries, cap, schedule, only_when)| Rule {
            min_age,
            countries,
            cap,
            schedule: schedule
                .into_iter()
                .map(|(from, until)| Window {
                    from,
                    until,
                    daily: None,
                })
                .collect(),
            only_when,
        })
}

fn any_policies() -> impl Strategy<Value = Policies> {
    let id = || (0u8..8).prop_map(|id| item_id(&id.to_string()));
    let kind = || "[ABC]".prop_map(|text| item_type(&text));
    (
        prop::collection::hash_map(kind(), 0usize..4, 0..3),
        prop::collection::hash_map(kind(), any_rule(), 0..3),
        prop::collection::hash_map(id(), any_rule(), 0..4),
        prop::collection::hash_set(id(), 0..3),
        prop::collection::hash_set(id(), 0..3),
    )
        .prop_map(|(slots, types, items, blocked, pinned)| Policies {
            slots,
            types,
            items,
            blocked,
            pinned: pinned.into_iter().collect(),
        })
}

/// One question about one consumer: state, time, place in the match, and what was ranked.
type Question = (u8, i64, Context, Vec<RankedItem>);

fn any_question() -> impl Strategy<Value = Question> {
    let context = prop::collection::btree_map("[KL]", "[xy]", 0..3);
    let ranked = prop::collection::vec(0u8..8, 0..12).prop_map(|ids| {
        let names: Vec<String> = ids.iter().map(u8::to_string).collect();
        ranking(&names.iter().map(String::as_str).collect::<Vec<_>>())
    });
    (0u8..6, 0i64..100, context, ranked)
}

fn state(number: u8) -> StateKey {
    StateKey::of(&Version::from_text(number.to_string()))
}

proptest! {
    #[test]
    fn every_rule_holds_whatever_the_others_say(
        policies in any_policies(),
        age in prop::option::of(5u32..40),
        country in prop::option::of("[ABC]"),
        questions in prop::collection::vec(any_question(), 1..12),
    ) {
        let catalog = small_catalog();
        let who = Who { age, country: country.as_deref() };
        let mut history = History::default();
        let mut items_shown: BTreeMap<ItemId, HashSet<StateKey>> = BTreeMap::new();
        let mut types_shown: BTreeMap<ItemType, HashSet<StateKey>> = BTreeMap::new();
        for (number, now, context, ranking) in &questions {
            let state = state(*number);
            let asked = Asked { policies: &policies, who, context, now: *now, shown: Some((state, &history)) };
            let moderated = moderate(ranking, &catalog, &asked);
            let mut taken: BTreeMap<&ItemType, usize> = BTreeMap::new();
            let mut ids = HashSet::new();
            for component in &moderated.components {
                let Item { item_id, item_type, .. } = &**component.item;
                prop_assert!(catalog.get(item_id).is_some(), "the catalog knows it");
                prop_assert!(ids.insert(item_id.clone()), "nothing twice");
                prop_assert!(!policies.blocked.contains(item_id));
                *taken.entry(item_type).or_default() += 1;
                let rules = [policies.types.get(item_type), policies.items.get(item_id)];
                for rule in rules.into_iter().flatten() {
                    prop_assert!(rule.min_age.is_none_or(|min| age.is_some_and(|age| age >= min)));
                    let allows = |set: &BTreeSet<String>, value: Option<&String>| {
                        value.is_some_and(|value| set.contains(value))
                    };
                    let countries = rule.countries.as_ref();
                    prop_assert!(countries.is_none_or(|set| allows(set, country.as_ref())));
                    prop_assert!(rule.schedule.is_empty()
                        || rule.schedule.iter().any(|window| window.holds(*now)));
                    let mut situations = rule.only_when.iter();
                    prop_assert!(situations.all(|(key, set)| allows(set, context.get(key))));
                }
                items_shown.entry(item_id.clone()).or_default().insert(state);
                types_shown.entry(item_type.clone()).or_default().insert(state);
            }
            for (item_type, taken) in taken {
                prop_assert!(taken <= policies.slots(item_type));
            }
            // What is pinned stands before what is not, and each of the two in its own order.
            let place = |component: &Component| {
                let pinned = policies.pinned.iter().position(|id| *id == component.item.item_id);
                pinned.map_or((1, component.rank as usize), |place| (0, place))
            };
            prop_assert!(moderated.components.is_sorted_by_key(place));
            // Whatever was ranked or pinned is shown or has a reason.
            let all: HashSet<_> = ranking.iter().map(|ranked| &ranked.item_id)
                .chain(&policies.pinned).collect();
            for item_id in all {
                let dropped = moderated.dropped.iter().any(|dropped| dropped.item_id == *item_id);
                prop_assert!(ids.contains(item_id) || dropped);
            }
            history.count(state, &moderated.components, &policies);
        }
        for (item_id, states) in &items_shown {
            let cap = policies.items.get(item_id).and_then(|rule| rule.cap);
            prop_assert!(cap.is_none_or(|cap| states.len() <= cap));
            prop_assert!(history.states_of_item(item_id).len() <= cap.unwrap_or(0));
        }
        for (item_type, states) in &types_shown {
            let cap = policies.types.get(item_type).and_then(|rule| rule.cap);
            prop_assert!(cap.is_none_or(|cap| states.len() <= cap));
            prop_assert!(history.states_of_type(item_type).len() <= cap.unwrap_or(0));
        }
    }

    #[test]
    fn the_same_state_gives_the_same_set_whatever_was_asked_in_between(
        policies in any_policies(),
        states in prop::collection::vec(0usize..6, 1..40),
        questions in prop::collection::vec(any_question(), 6),
    ) {
        let catalog = small_catalog();
        let mut history = History::default();
        let mut first: BTreeMap<usize, SetId> = BTreeMap::new();
        for number in states {
            let (_, now, context, ranking) = &questions[number];
            let state = state(u8::try_from(number).unwrap());
            let who = Who { age: Some(30), country: Some("A") };
            let asked = Asked { policies: &policies, who, context, now: *now, shown: Some((state, &history)) };
            let moderated = moderate(ranking, &catalog, &asked);
            let is_new = history.count(state, &moderated.components, &policies);
            let known = first.insert(number, moderated.set_id);
            prop_assert!(known.is_none_or(|known| known == moderated.set_id && !is_new));
        }
    }
}
