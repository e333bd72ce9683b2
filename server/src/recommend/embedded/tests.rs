//! What the ranker promises as a whole. How well it ranks is measured over demo data elsewhere
//! (`tests/tests/ranker.rs`).

use std::{collections::BTreeMap, fs, path::Path};

use proptest::prelude::*;
use touchline_store::ids::{ConsumerId, ItemId, ItemType};

use super::*;

const HEADER: &str = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,MATCH_EVENT\n";

/// 40 items as the prototype has them: 20 of type PLAYER, 10 GENERAL, 6 MONETIZE, 4 SOCIAL.
fn items() -> Vec<Item> {
    let item = |number: usize| {
        let item_type = match number {
            1..=20 => "PLAYER",
            21..=30 => "GENERAL",
            31..=36 => "MONETIZE",
            _ => "SOCIAL",
        };
        let country = ["FRANCE", "ARGENTINA", "BRAZIL"][number % 3];
        Item {
            item_id: ItemId::new(format!("ITEM_ID_{number}")).unwrap(),
            item_type: ItemType::new(item_type).unwrap(),
            attributes: BTreeMap::from([
                ("country".to_owned(), country.to_owned()),
                ("item_label".to_owned(), format!("Item {number}")),
            ]),
        }
    };
    (1..=40).rev().map(item).collect()
}

fn context(pairs: &[(&str, &str)]) -> Arc<Context> {
    let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    Arc::new(pairs.iter().map(pair).collect())
}

fn query(consumer_id: &str, context: &Arc<Context>) -> Query {
    Query {
        consumer_id: ConsumerId::new(consumer_id).unwrap(),
        context: context.clone(),
        refinement: Arc::default(),
        num_results: 40,
    }
}

fn ranking(ranker: &EmbeddedRecommender, query: Query) -> Vec<RankedItem> {
    let mut answers = ranker.rank_now(&[query]);
    answers.remove(0).unwrap().items
}

fn ids(ranked: &[RankedItem]) -> Vec<&str> {
    ranked.iter().map(|item| item.item_id.as_str()).collect()
}

fn tap(interaction_id: &str, consumer_id: &str, item: usize) -> Interaction {
    Interaction {
        interaction_id: interaction_id.to_owned(),
        consumer_id: ConsumerId::new(consumer_id).unwrap(),
        item_id: ItemId::new(format!("ITEM_ID_{item}")).unwrap(),
        event_type: "tap".to_owned(),
        timestamp_seconds: 1_671_375_600,
        event_id: None,
        context: Context::clone(&context(&[("MATCH_EVENT", "GOAL")])),
        recommendation_id: None,
    }
}

/// Learned from a file of these rows: consumer, item, match event.
fn learned(rows: &[(&str, usize, &str)]) -> EmbeddedRecommender {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("interactions.csv");
    let rows = rows.iter().map(|(consumer_id, item, match_event)| {
        format!("{consumer_id},ITEM_ID_{item},1671375600,tap,{match_event}\n")
    });
    fs::write(&path, HEADER.to_owned() + &rows.collect::<String>()).unwrap();
    let config = EmbeddedConfig {
        interactions: Some(path),
        feedback: None,
    };
    let ranker = EmbeddedRecommender::open(&config).unwrap();
    ranker.set_items(&items());
    ranker
}

fn with_feedback(path: &Path) -> EmbeddedRecommender {
    keeping(path, 1_000)
}

/// Keeps the newest so many interactions.
fn keeping(path: &Path, max: usize) -> EmbeddedRecommender {
    let config = EmbeddedConfig {
        interactions: None,
        feedback: Some(FeedbackConfig {
            path: path.to_owned(),
            max,
        }),
    };
    let ranker = EmbeddedRecommender::open(&config).unwrap();
    ranker.set_items(&items());
    ranker
}

/// Two consumers who want different players, and many who want neither.
fn tastes<'a>(first: &'a str, second: &'a str) -> Vec<(&'a str, usize, &'static str)> {
    let mut rows = Vec::new();
    for _ in 0..12 {
        rows.extend([(first, 3, "GOAL"), (first, 6, "GOAL"), (second, 4, "GOAL")]);
        rows.extend([("crowd", 11, "GOAL"), ("crowd", 22, "PENALTY")]);
    }
    rows
}

#[test]
fn two_consumers_of_different_tastes_get_different_rankings_in_one_context() {
    let ranker = learned(&tastes("anna", "ben"));
    let goal = context(&[("MATCH_EVENT", "GOAL")]);
    let (anna, ben) = (
        ranking(&ranker, query("anna", &goal)),
        ranking(&ranker, query("ben", &goal)),
    );
    assert_eq!(ids(&anna)[..2], ["ITEM_ID_3", "ITEM_ID_6"]);
    assert_eq!(ids(&ben)[0], "ITEM_ID_4");
}

#[test]
fn swapping_two_ids_in_the_file_swaps_their_rankings() {
    let goal = context(&[("MATCH_EVENT", "GOAL")]);
    let ranker = learned(&tastes("anna", "ben"));
    let swapped = learned(&tastes("ben", "anna"));
    let of = |ranker, consumer_id| ranking(ranker, query(consumer_id, &goal));
    assert_eq!(of(&ranker, "anna"), of(&swapped, "ben"));
    assert_eq!(of(&ranker, "ben"), of(&swapped, "anna"));
    assert_ne!(of(&ranker, "anna"), of(&ranker, "ben"));
}

#[test]
fn from_an_empty_file_all_consumers_are_equal_and_ids_stand_in_natural_order() {
    let ranker = learned(&[]);
    let goal = context(&[("MATCH_EVENT", "GOAL")]);
    let anna = ranking(&ranker, query("anna", &goal));
    assert_eq!(anna, ranking(&ranker, query("ben", &goal)));
    let natural: Vec<String> = (1..=40).map(|item| format!("ITEM_ID_{item}")).collect();
    assert_eq!(ids(&anna), natural);
}

#[test]
fn an_unknown_consumer_gets_what_is_popular_in_the_context() {
    // One consumer's habit says little about others; that of sixty does.
    let crowd: Vec<String> = (0..60).map(|number| format!("fan-{number}")).collect();
    let mut rows = tastes("anna", "ben");
    for consumer in &crowd {
        rows.extend([(consumer.as_str(), 3, "GOAL"), (consumer, 22, "PENALTY")]);
    }
    let ranker = learned(&rows);
    let first = |match_event| {
        let context = context(&[("MATCH_EVENT", match_event)]);
        ids(&ranking(&ranker, query("nobody", &context)))[0].to_owned()
    };
    assert_eq!(first("PENALTY"), "ITEM_ID_22");
    assert_eq!(first("GOAL"), "ITEM_ID_3");
}

#[test]
fn context_keys_and_values_that_were_never_seen_change_nothing() {
    let ranker = learned(&tastes("anna", "ben"));
    let plain = ranking(&ranker, query("anna", &context(&[])));
    let odd = context(&[("MATCH_EVENT", "EARTHQUAKE"), ("WEATHER", "GOAL")]);
    assert_eq!(plain, ranking(&ranker, query("anna", &odd)));
}

#[tokio::test]
async fn ten_taps_put_an_item_first_of_its_type() {
    // A light history, one as the demo consumers have it, and none.
    let light: Vec<_> = (1..=20).map(|item| ("anna", item, "GOAL")).collect();
    let demo: Vec<_> = (0..50)
        .map(|row| ("anna", [3, 3, 6, 12, 24][row % 5], "GOAL"))
        .chain((0..500).map(|row| ("crowd", [3, 9, 25, 35][row % 4], "GOAL")))
        .collect();
    for rows in [vec![], light, demo] {
        let ranker = learned(&rows);
        let goal = context(&[("MATCH_EVENT", "GOAL")]);
        let before = ranking(&ranker, query("anna", &goal));
        assert_ne!(ids(&before)[0], "ITEM_ID_17");
        let taps: Vec<_> = (0..10).map(|_| tap("", "anna", 17)).collect();
        ranker.record(&taps).await.unwrap();
        let after = ranking(&ranker, query("anna", &goal));
        let players = |id: &&&str| id["ITEM_ID_".len()..].parse::<usize>().unwrap() <= 20;
        assert_eq!(ids(&after).iter().find(players), Some(&"ITEM_ID_17"));
    }
}

#[tokio::test]
async fn what_one_consumer_taps_changes_little_for_the_others() {
    let ranker = learned(&tastes("anna", "ben"));
    let goal = context(&[("MATCH_EVENT", "GOAL")]);
    let taps: Vec<_> = (0..10).map(|_| tap("", "anna", 17)).collect();
    ranker.record(&taps).await.unwrap();
    assert_eq!(ids(&ranking(&ranker, query("ben", &goal)))[0], "ITEM_ID_4");
}

#[tokio::test]
async fn feedback_survives_reopening_and_so_does_what_counts_as_a_duplicate() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("feedback.csv");
    let goal = context(&[("MATCH_EVENT", "GOAL")]);
    let ranker = with_feedback(&path);
    let taps = [
        tap("a", "anna", 17),
        tap("b", "anna", 17),
        tap("a", "anna", 17),
    ];
    let recorded = ranker.record(&taps).await.unwrap();
    assert_eq!((recorded.recorded, recorded.duplicates), (2, 1));
    let before = ranking(&ranker, query("anna", &goal));
    assert_eq!(ids(&before)[0], "ITEM_ID_17");
    drop(ranker);

    let ranker = with_feedback(&path);
    assert_eq!(ranking(&ranker, query("anna", &goal)), before);
    let again = [
        tap("b", "anna", 17),
        tap("c", "anna", 17),
        tap("", "anna", 17),
    ];
    let recorded = ranker.record(&again).await.unwrap();
    assert_eq!((recorded.recorded, recorded.duplicates), (2, 1));
}

#[tokio::test]
async fn what_is_acknowledged_is_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("feedback.csv");
    let ranker = with_feedback(&path);
    ranker.record(&[tap("a", "anna", 17)]).await.unwrap();
    let content = fs::read_to_string(&path).unwrap();
    assert!(content.ends_with("}\"\n") && content.contains("a,anna,ITEM_ID_17,1671375600,tap,"));
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_learned_and_may_be_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let ranker = with_feedback(&folder.path().join("feedback.csv"));
    let goal = context(&[("MATCH_EVENT", "GOAL")]);
    let before = ranking(&ranker, query("anna", &goal));
    ranker.journal.lock().await.file().unwrap().fill_up();
    for _ in 0..2 {
        let error = ranker.record(&[tap("a", "anna", 17)]).await.unwrap_err();
        assert!(matches!(error, RecommendError::Unavailable(_)), "{error}");
    }
    assert_eq!(ranking(&ranker, query("anna", &goal)), before);
}

#[tokio::test]
async fn the_newest_feedback_is_kept_in_the_background_and_is_what_a_restart_learns() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("feedback.csv");
    let ranker = keeping(&path, 20);
    let shutdown = CancellationToken::new();
    let recording = async {
        for number in 0..100 {
            let id = number.to_string();
            let item = if number < 80 { 17 } else { 3 };
            ranker.record(&[tap(&id, "anna", item)]).await.unwrap();
        }
        let small = async {
            let mut look = tokio::time::interval(Duration::from_millis(5));
            while ranker.journal.lock().await.is_exceeded() {
                look.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), small)
            .await
            .unwrap();
        shutdown.cancel();
    };
    tokio::join!(ranker.keep_compact(shutdown.clone()), recording);
    let rows = fs::read_to_string(&path).unwrap().lines().count() - 1;
    assert!((20..=25).contains(&rows), "{rows} rows");
    drop(ranker);

    let goal = context(&[("MATCH_EVENT", "GOAL")]);
    let restarted = keeping(&path, 20);
    let expected = learned(&[]);
    let newest: Vec<_> = (80..100)
        .map(|id| tap(&id.to_string(), "anna", 3))
        .collect();
    expected.record(&newest).await.unwrap();
    assert_eq!(
        ranking(&restarted, query("anna", &goal)),
        ranking(&expected, query("anna", &goal))
    );
    let again = restarted.record(&newest).await.unwrap();
    assert_eq!((again.recorded, again.duplicates), (0, 20));
}

#[tokio::test]
async fn an_interaction_that_is_too_large_to_be_kept_is_refused_with_its_call() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("feedback.csv");
    let ranker = with_feedback(&path);
    let goal = context(&[("MATCH_EVENT", "GOAL")]);
    let before = ranking(&ranker, query("anna", &goal));
    let mut large = tap("a", "anna", 17);
    large.context = Context::clone(&context(&[("TEXT", &"x".repeat(64 << 10))]));
    let error = ranker.record(&[tap("b", "anna", 17), large]).await;
    let error = error.unwrap_err();
    assert!(matches!(error, RecommendError::Invalid(_)), "{error}");
    assert_eq!(ranking(&ranker, query("anna", &goal)), before);
    drop(ranker);
    with_feedback(&path);
}

#[test]
fn only_the_catalog_is_ranked_and_num_results_cuts_afterwards() {
    let ranker = learned(&tastes("anna", "ben"));
    let goal = context(&[("MATCH_EVENT", "GOAL")]);
    let some: Vec<Item> = items().into_iter().take(20).collect();
    ranker.set_items(&some);
    let all = ranking(&ranker, query("anna", &goal));
    assert_eq!(all.len(), 20);
    let mut short = query("anna", &goal);
    short.num_results = 3;
    assert_eq!(ranking(&ranker, short), all[..3]);
    ranker.set_items(&[]);
    assert_eq!(ranking(&ranker, query("anna", &goal)), []);
}

#[tokio::test]
async fn a_batch_answers_each_query_in_order_whatever_its_context() {
    let ranker = learned(&tastes("anna", "ben"));
    let contexts = ["GOAL", "PENALTY", "GOAL"].map(|event| context(&[("MATCH_EVENT", event)]));
    let queries: Vec<Query> = (0..30)
        .map(|place| query(["anna", "ben"][place % 2], &contexts[place % 3]))
        .collect();
    let together = ranker.rank(&queries).await;
    assert_eq!(together.len(), queries.len());
    for (query, answer) in queries.into_iter().zip(together) {
        assert_eq!(answer.unwrap().items, ranking(&ranker, query));
    }
}

proptest! {
    #[test]
    fn scores_are_probabilities_that_fall_and_sum_to_1(
        rows in prop::collection::vec((0..4_usize, 0..60_usize, 0..3_usize), 0..50),
        repeats in 1..30_usize,
        consumer in 0..5_usize,
        count in 0..=40_usize,
    ) {
        let names = ["anna", "ben", "carla", "dan", "nobody"];
        let events = ["GOAL", "PENALTY", ""];
        let mut model = Model::default();
        for (consumer, item, event) in rows {
            let tap = tap("", names[consumer], item);
            let context = context(&[("MATCH_EVENT", events[event]), ("TYPE", events[item % 3])]);
            for _ in 0..repeats {
                model.learn(&tap.consumer_id, &tap.item_id, &context, FEEDBACK_WEIGHT);
            }
        }
        let catalog = Catalog::new(&items()[..count], &mut model);
        let scorer = Scorer::new(&model, &catalog);
        let lifts = scorer.lifts(&context(&[("MATCH_EVENT", "GOAL"), ("TYPE", "")]));
        let ranked = scorer.rank(&tap("", names[consumer], 1).consumer_id, &lifts);
        prop_assert_eq!(ranked.len(), count);
        let sum: f64 = ranked.iter().map(|(_, score)| score).sum();
        prop_assert!(count == 0 || (sum - 1.0).abs() < 1e-9, "{}", sum);
        prop_assert!(ranked.iter().all(|(_, score)| (0.0..=1.0).contains(score)));
        prop_assert!(ranked.windows(2).all(|pair| pair[0].1 >= pair[1].1));
    }
}
