//! Who answers when the recommender does not: the next best source in the configured order, of those
//! that need nobody's network. What is cached, and what a consumer's cohort is told, is looked up by
//! [`Remote`](super::Remote), since that is where the cache is.

use std::sync::{Arc, Mutex, PoisonError};

use touchline_store::ids::ConsumerId;

use crate::recommend::{Query, Ranking, Recommender, cohort::Cohorts, popular::Popular};

/// A source that stands in for the recommender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Source {
    /// The consumer's cohort, by the users file
    Cohort,
    /// The embedded ranker, where it has something to learn from
    Embedded,
    /// What the recommender's answers show to be popular
    Popular,
    /// Nobody: the caller is told that there is no answer
    None,
}

/// The sources that there are, in the order in which they are asked.
#[derive(Debug, Default)]
pub struct Fallbacks {
    /// The order.
    pub order: Vec<Source>,
    /// Who belongs to which cohort.
    pub cohorts: Option<Cohorts>,
    /// The embedded ranker.
    pub embedded: Option<Arc<dyn Recommender>>,
    /// Whether who knows no filters may answer a question that has one.
    pub is_unfiltered_allowed: bool,
    /// Learned from the recommender's answers.
    pub popular: Arc<Mutex<Popular>>,
}

impl Fallbacks {
    /// The sources that could answer for a consumer, in order. A filter may be what keeps an item from
    /// somebody: who does not know it answers only where that is allowed.
    pub(super) fn plan(&self, cohort: Option<&ConsumerId>, is_filtered: bool) -> Vec<Source> {
        let may_answer = !is_filtered || self.is_unfiltered_allowed;
        let could = |source: &Source| match source {
            Source::Cohort => cohort.is_some(),
            Source::Embedded => may_answer && self.embedded.is_some(),
            Source::Popular => may_answer,
            Source::None => false,
        };
        self.order.iter().copied().filter(could).collect()
    }

    /// The cohort of a consumer, where cohorts are asked.
    pub(super) fn cohort(&self, consumer_id: &ConsumerId) -> Option<ConsumerId> {
        match self.order.contains(&Source::Cohort) {
            true => self.cohorts.as_ref()?.of(consumer_id),
            false => None,
        }
    }

    /// What the embedded ranker says; `None` when that is nothing.
    pub(super) async fn embedded(&self, query: &Query) -> Option<Ranking> {
        let embedded = self.embedded.as_ref()?;
        let answers = embedded.rank(std::slice::from_ref(query)).await;
        let ranking = answers.into_iter().next()?.ok()?;
        (!ranking.items.is_empty()).then_some(ranking)
    }

    /// What is popular; `None` while there is no catalog.
    pub(super) fn popular(&self, num_results: usize) -> Option<Ranking> {
        let popular = self.popular.lock().unwrap_or_else(PoisonError::into_inner);
        let ranking = popular.ranking(num_results);
        (!ranking.items.is_empty()).then_some(ranking)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_asked_in_the_configured_order_where_they_can_answer() {
        let mut fallbacks = Fallbacks {
            order: vec![Source::Cohort, Source::Embedded, Source::Popular],
            ..Fallbacks::default()
        };
        let cohort = ConsumerId::new("cohort:GENDER=F").unwrap();
        assert_eq!(fallbacks.plan(None, false), [Source::Popular]);
        assert_eq!(
            fallbacks.plan(Some(&cohort), false),
            [Source::Cohort, Source::Popular]
        );
        assert_eq!(fallbacks.plan(None, true), []);
        assert_eq!(fallbacks.plan(Some(&cohort), true), [Source::Cohort]);
        fallbacks.is_unfiltered_allowed = true;
        assert_eq!(fallbacks.plan(None, true), [Source::Popular]);
        fallbacks.order = vec![Source::None];
        assert_eq!(fallbacks.plan(Some(&cohort), false), []);
    }
}
