//! How well the embedded ranker ranks: it learns from the earlier part of the demo's history and is
//! judged on the later part, beside two recommenders that do not know the consumer. Tests no
//! formula: that is the ranker's own matter.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{collections::HashMap, fs, sync::Arc, time::Instant};

use touchline_cli::demo;
use touchline_server::recommend::{
    Query, RankedItem, Recommender,
    embedded::{EmbeddedConfig, EmbeddedRecommender},
};
use touchline_store::{
    event::Context,
    ids::{ConsumerId, ItemId},
};

/// The part of the history, by time, that is learned.
const LEARNED_PERCENT: usize = 75;
/// How sure the figures must be: the lead over a baseline, in standard errors of that lead.
const STANDARD_ERRORS_MIN: f64 = 4.0;
/// Items that the server asks for by default, before moderation.
const NUM_RESULTS: usize = 10;

/// One row of the history.
#[derive(Debug, Clone)]
struct Tap {
    line: String,
    consumer_id: ConsumerId,
    item_id: ItemId,
    timestamp_seconds: u64,
    context: Arc<Context>,
}

/// The header line, and the rows, oldest first.
fn history() -> (String, Vec<Tap>) {
    let csv = demo::interactions_csv();
    let (header, rows) = csv.split_once('\n').unwrap();
    let names: Vec<&str> = header.split(',').collect();
    assert_eq!(
        names[..4],
        ["USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE"]
    );
    let mut taps: Vec<Tap> = rows
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            let context = names.iter().zip(&fields).skip(4);
            Tap {
                line: line.to_owned(),
                consumer_id: ConsumerId::new(fields[0]).unwrap(),
                item_id: ItemId::new(fields[1]).unwrap(),
                timestamp_seconds: fields[2].parse().unwrap(),
                context: Arc::new(
                    context
                        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                        .collect(),
                ),
            }
        })
        .collect();
    taps.sort_by_key(|tap| tap.timestamp_seconds);
    (header.to_owned(), taps)
}

/// A ranker that has read these rows from a file.
fn learned_from(header: &str, lines: impl Iterator<Item = String>) -> EmbeddedRecommender {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("interactions.csv");
    let rows: String = lines.map(|line| line + "\n").collect();
    fs::write(&path, format!("{header}\n{rows}")).unwrap();
    let config = EmbeddedConfig {
        interactions: Some(path),
        feedback: None,
    };
    let ranker = EmbeddedRecommender::open(&config).unwrap();
    ranker.set_items(&demo::items());
    ranker
}

async fn rankings(
    ranker: &EmbeddedRecommender,
    asked: impl Iterator<Item = (ConsumerId, Arc<Context>)>,
) -> Vec<Vec<RankedItem>> {
    let queries: Vec<Query> = asked
        .map(|(consumer_id, context)| Query {
            refinement: Arc::default(),
            consumer_id,
            context,
            num_results: 40,
        })
        .collect();
    let mut rankings = Vec::new();
    for batch in queries.chunks(1_000) {
        let answers = ranker.rank(batch).await;
        rankings.extend(answers.into_iter().map(|answer| answer.unwrap().items));
    }
    rankings
}

/// What popularity is counted within.
type Cell = fn(&Context) -> String;

/// Everybody's popularity of each item within a cell of the context, smoothed towards overall
/// popularity as far as the cell is small. No consumer is known.
fn popularity(learned: &[Tap], judged: &[Tap], cell: Cell) -> Vec<Vec<RankedItem>> {
    /// Taps that a cell needs before it speaks for itself.
    const PRIOR: f64 = 30.0;
    let mut overall: HashMap<ItemId, f64> = demo::items()
        .into_iter()
        .map(|item| (item.item_id, 1.0))
        .collect();
    let mut cells: HashMap<String, (HashMap<ItemId, f64>, f64)> = HashMap::new();
    for tap in learned {
        *overall.get_mut(&tap.item_id).unwrap() += 1.0;
        let (counts, total) = cells.entry(cell(&tap.context)).or_default();
        *counts.entry(tap.item_id.clone()).or_default() += 1.0;
        *total += 1.0;
    }
    let sum: f64 = overall.values().sum();
    let nothing = (HashMap::new(), 0.0);
    let rank = |tap: &Tap| {
        let (counts, total) = cells.get(&cell(&tap.context)).unwrap_or(&nothing);
        let mut ranked: Vec<RankedItem> = overall
            .iter()
            .map(|(item_id, weight)| {
                let count = counts.get(item_id).copied().unwrap_or(0.0);
                RankedItem {
                    details: None,
                    item_id: item_id.clone(),
                    score: Some((count + PRIOR * weight / sum) / (total + PRIOR)),
                }
            })
            .collect();
        ranked.sort_by(|left, right| {
            let scores = right.score.unwrap().total_cmp(&left.score.unwrap());
            scores.then_with(|| left.item_id.cmp(&right.item_id))
        });
        ranked
    };
    judged.iter().map(rank).collect()
}

/// How good each ranking was; a larger figure is better in all of them.
#[derive(Debug, Default)]
struct Figures {
    /// Whether the item that was tapped stood among the first three.
    hit_rate_at_3: Vec<f64>,
    /// Whether it would have been shown: the first of its type among the first ten.
    shown: Vec<f64>,
    /// One divided by its rank.
    reciprocal_rank: Vec<f64>,
    /// The logarithm of its score: log-loss with the sign changed.
    log_likelihood: Vec<f64>,
}

impl Figures {
    fn of(rankings: &[Vec<RankedItem>], judged: &[Tap]) -> Self {
        assert_eq!(rankings.len(), judged.len());
        let types: HashMap<ItemId, _> = demo::items()
            .into_iter()
            .map(|item| (item.item_id, item.item_type))
            .collect();
        let mut figures = Self::default();
        for (ranking, tap) in rankings.iter().zip(judged) {
            let place = ranking
                .iter()
                .position(|item| item.item_id == tap.item_id)
                .unwrap();
            let first_of_type = ranking
                .iter()
                .position(|item| types[&item.item_id] == types[&tap.item_id])
                .unwrap();
            let truth = |is: bool| if is { 1.0 } else { 0.0 };
            figures.hit_rate_at_3.push(truth(place < 3));
            figures
                .shown
                .push(truth(place == first_of_type && place < NUM_RESULTS));
            figures.reciprocal_rank.push(1.0 / (place + 1) as f64);
            figures
                .log_likelihood
                .push(ranking[place].score.unwrap().ln());
        }
        figures
    }

    fn all(&self) -> [(&'static str, &[f64]); 4] {
        [
            ("hit rate@3", &self.hit_rate_at_3),
            ("shown", &self.shown),
            ("MRR", &self.reciprocal_rank),
            ("log-likelihood", &self.log_likelihood),
        ]
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The mean lead of one over the other, tap by tap, in standard errors.
fn lead(of: &[f64], over: &[f64]) -> f64 {
    let leads: Vec<f64> = of.iter().zip(over).map(|(of, over)| of - over).collect();
    let mean_lead = mean(&leads);
    let squares: Vec<f64> = leads
        .iter()
        .map(|lead| (lead - mean_lead).powi(2))
        .collect();
    mean_lead / (mean(&squares) / leads.len() as f64).sqrt()
}

fn print(name: &str, figures: &Figures) {
    println!(
        "| {name} | {:.3} | {:.3} | {:.3} | {:.3} |",
        mean(&figures.hit_rate_at_3),
        mean(&figures.shown),
        mean(&figures.reciprocal_rank),
        -mean(&figures.log_likelihood),
    );
}

#[tokio::test]
async fn on_unseen_history_the_ranker_beats_popularity_and_popularity_by_context() {
    let (header, taps) = history();
    let (learned, judged) = taps.split_at(taps.len() * LEARNED_PERCENT / 100);
    let ranker = learned_from(&header, learned.iter().map(|tap| tap.line.clone()));
    let asked = judged
        .iter()
        .map(|tap| (tap.consumer_id.clone(), tap.context.clone()));
    let ranker_figures = Figures::of(&rankings(&ranker, asked).await, judged);

    let nobody = ConsumerId::new("nobody").unwrap();
    let asked = judged
        .iter()
        .map(|tap| (nobody.clone(), tap.context.clone()));
    let without_consumer = Figures::of(&rankings(&ranker, asked).await, judged);
    let nothing = Arc::new(Context::new());
    let asked = judged
        .iter()
        .map(|tap| (tap.consumer_id.clone(), nothing.clone()));
    let without_context = Figures::of(&rankings(&ranker, asked).await, judged);
    let baseline = |cell| Figures::of(&popularity(learned, judged, cell), judged);
    let others = [
        ("popularity", baseline(|_| String::new())),
        (
            "popularity by match event",
            baseline(|context| context["MATCH_EVENT"].clone()),
        ),
        (
            "popularity by whole context",
            baseline(|context| format!("{context:?}")),
        ),
        ("the ranker, consumer unknown", without_consumer),
        ("the ranker, context unknown", without_context),
    ];

    println!("{} taps learned, {} judged", learned.len(), judged.len());
    println!("| | hit rate@3 | shown | MRR | log-loss |\n|---|---|---|---|---|");
    for (name, figures) in &others {
        print(name, figures);
    }
    print("**the ranker**", &ranker_figures);
    println!(
        "{:.1} µs a ranking in this build",
        micros_a_ranking(&ranker, judged).await
    );
    for (name, figures) in &others {
        for ((figure, of), (_, over)) in ranker_figures.all().into_iter().zip(figures.all()) {
            let lead = lead(of, over);
            println!("{figure}: {lead:.1} standard errors before {name}");
            assert!(
                lead > STANDARD_ERRORS_MIN,
                "{figure} against {name}: {lead:.1}"
            );
        }
    }
}

/// The fastest of some batches of 1,000 consumers in one context, as the push adapter asks.
async fn micros_a_ranking(ranker: &EmbeddedRecommender, taps: &[Tap]) -> f64 {
    let context = &taps[0].context;
    let queries: Vec<Query> = taps
        .iter()
        .take(1_000)
        .map(|tap| Query {
            refinement: Arc::default(),
            consumer_id: tap.consumer_id.clone(),
            context: context.clone(),
            num_results: NUM_RESULTS,
        })
        .collect();
    let mut fastest = f64::MAX;
    for _ in 0..20 {
        let started = Instant::now();
        let answers = ranker.rank(&queries).await;
        fastest = fastest.min(started.elapsed().as_secs_f64() * 1e6 / answers.len() as f64);
    }
    fastest
}

/// Every context of the history once.
fn contexts(taps: &[Tap]) -> Vec<Arc<Context>> {
    let mut contexts: Vec<_> = taps.iter().map(|tap| tap.context.clone()).collect();
    contexts.sort();
    contexts.dedup();
    contexts
}

async fn all_of(
    ranker: &EmbeddedRecommender,
    consumer: &str,
    contexts: &[Arc<Context>],
) -> Vec<Vec<RankedItem>> {
    let consumer_id = ConsumerId::new(consumer).unwrap();
    let asked = contexts
        .iter()
        .map(|context| (consumer_id.clone(), context.clone()));
    rankings(ranker, asked).await
}

#[tokio::test]
async fn swapping_two_consumers_in_the_file_swaps_their_rankings_in_every_context() {
    let (header, taps) = history();
    let named = demo::consumers();
    let (first, second) = (&named[0].consumer_id, &named[1].consumer_id);
    let swapped = taps.iter().map(|tap| {
        let (consumer, rest) = tap.line.split_once(',').unwrap();
        let consumer = match consumer {
            consumer if consumer == first => second,
            consumer if consumer == second => first,
            consumer => consumer,
        };
        format!("{consumer},{rest}")
    });
    let swapped = learned_from(&header, swapped);
    let ranker = learned_from(&header, taps.iter().map(|tap| tap.line.clone()));
    let contexts = contexts(&taps);
    let (of_first, of_second) = (
        all_of(&ranker, first, &contexts).await,
        all_of(&ranker, second, &contexts).await,
    );
    assert_eq!(of_first, all_of(&swapped, second, &contexts).await);
    assert_eq!(of_second, all_of(&swapped, first, &contexts).await);
    for (of_first, of_second) in of_first.iter().zip(&of_second) {
        assert_ne!(of_first, of_second);
    }
}

#[tokio::test]
async fn without_history_all_consumers_are_equal_in_every_context() {
    let (header, taps) = history();
    let ranker = learned_from(&header, std::iter::empty());
    let contexts = contexts(&taps);
    let mut of_all = Vec::new();
    for consumer in &demo::consumers()[..6] {
        of_all.push(all_of(&ranker, &consumer.consumer_id, &contexts).await);
    }
    assert!(of_all.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(of_all[0].iter().all(|ranking| ranking.len() == 40));
}

#[tokio::test]
async fn the_named_consumers_are_shown_different_sets_when_a_goal_falls() {
    let (header, taps) = history();
    let ranker = learned_from(&header, taps.iter().map(|tap| tap.line.clone()));
    let goal = taps
        .iter()
        .find(|tap| tap.context["MATCH_EVENT"] == "GOAL")
        .unwrap();
    let goal = [goal.context.clone()];
    let mut first_three = std::collections::BTreeSet::new();
    for consumer in &demo::consumers()[..6] {
        let ranking = all_of(&ranker, &consumer.consumer_id, &goal)
            .await
            .remove(0);
        let ids: Vec<String> = ranking
            .iter()
            .take(3)
            .map(|item| item.item_id.to_string())
            .collect();
        println!("{} ({}): {}", consumer.name, consumer.taste, ids.join(", "));
        first_three.insert(ids);
    }
    assert_eq!(first_three.len(), 6, "one of each taste");
}
