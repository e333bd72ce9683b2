//! What callers were given: from which source, how fresh, how late. Judges no answer.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use tokio::time::Instant;
use touchline_client::proto::{ComponentSet, Freshness, Origin};

use crate::figures::{Figure, Latencies};

/// From where an answer came, and how fresh it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind(Origin, Freshness);

impl Kind {
    pub(super) fn of(origin: Origin, freshness: Freshness) -> Self {
        Self(origin, freshness)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = |name: &str| {
            let (_, word) = name.split_once('_').unwrap_or(("", name));
            word.to_lowercase()
        };
        let (origin, freshness) = (self.0.as_str_name(), self.1.as_str_name());
        write!(formatter, "{} {}", word(origin), word(freshness))
    }
}

/// Answers, and how many callers had none.
#[derive(Debug)]
pub(super) struct Answers {
    began: Instant,
    each: Vec<(Kind, Duration)>,
    unanswered: usize,
}

impl Answers {
    /// None yet; times count from now.
    pub(super) fn new() -> Self {
        Self::since(Instant::now())
    }

    /// None yet; times count from then.
    pub(super) fn since(began: Instant) -> Self {
        Self {
            began,
            each: Vec::new(),
            unanswered: 0,
        }
    }

    /// Somebody is answered now.
    pub(super) fn answered(&mut self, set: &ComponentSet) {
        let kind = Kind(set.origin(), set.freshness());
        self.each.push((kind, self.began.elapsed()));
    }

    /// Somebody has no answer.
    pub(super) fn failed(&mut self) {
        self.unanswered += 1;
    }

    /// Those of others, too.
    pub(super) fn add(&mut self, others: Self) {
        self.each.extend(others.each);
        self.unanswered += others.unanswered;
    }

    /// How many callers there were.
    pub(super) fn len(&self) -> usize {
        self.each.len() + self.unanswered
    }

    /// How many were answered so.
    pub(super) fn count(&self, kind: Kind) -> usize {
        self.each.iter().filter(|(of, _)| *of == kind).count()
    }

    /// What part of all was answered so.
    pub(super) fn share(&self, kind: Kind) -> f64 {
        self.count(kind) as f64 / self.len().max(1) as f64
    }

    /// Each of so many was counted once.
    pub(super) fn check_whole(&self, callers: usize) -> Result<()> {
        ensure!(
            self.len() == callers,
            "{} answers for {callers} callers",
            self.len()
        );
        Ok(())
    }

    /// Quantiles of all, the share of each source, and who had nothing.
    pub(super) fn figures(&self, name: &str) -> Vec<Figure> {
        let mut latencies = Latencies::new();
        let mut by_kind: BTreeMap<Kind, usize> = BTreeMap::new();
        for (kind, after) in &self.each {
            latencies.record(*after);
            *by_kind.entry(*kind).or_default() += 1;
        }
        let all = self.len() as u64;
        let percent = |count: usize| 100.0 * count as f64 / all.max(1) as f64;
        let mut figures: Vec<_> = [0.5, 0.99, 1.0]
            .map(|quantile| Figure::quantile(name, &latencies, quantile))
            .into();
        figures.extend(
            by_kind.into_iter().map(|(kind, count)| {
                Figure::one(format!("{name}: {kind}"), percent(count), "%", all)
            }),
        );
        let unanswered = percent(self.unanswered);
        figures.push(Figure::one(
            format!("{name}: unanswered"),
            unanswered,
            "%",
            all,
        ));
        figures
    }
}
