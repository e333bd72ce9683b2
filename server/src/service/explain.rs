//! How a set came about, for whoever asks: the ranking, what moderation dropped and why, and what
//! the way to the recommender is doing. Decides nothing.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;
use touchline_proto::v1;
use touchline_store::ids::{ItemId, ItemType};

use crate::{
    catalog::Catalog,
    recommend::{RankedItem, breaker::BreakerState, budget::Priority, serving::RemoteState},
    sets::{Decided, Sets},
};

/// Explains a set that was decided just now.
pub(super) fn explanation(
    sets: &Sets,
    decided: &Decided,
    began: Instant,
    deadline: Instant,
) -> v1::Explanation {
    let now = Instant::now();
    // Without a catalog nothing was decided.
    let catalog = sets.catalog().current().ok();
    let duration = |duration: Duration| prost_types::Duration::try_from(duration).ok();
    v1::Explanation {
        ranking: catalog
            .map(|catalog| ranking(decided, &catalog))
            .unwrap_or_default(),
        took: duration(now - began),
        deadline_left: duration(deadline.saturating_duration_since(now)),
        recommender: sets
            .rankings()
            .state()
            .map(|state| recommender(sets, &state)),
    }
}

fn ranking(decided: &Decided, catalog: &Catalog) -> Vec<v1::ExplainedItem> {
    let components = &decided.moderated.components;
    let shown: HashMap<&ItemType, &ItemId> = components
        .iter()
        .map(|component| (&component.item.item_type, &component.item.item_id))
        .collect();
    let explain = |(place, ranked): (usize, &RankedItem)| {
        let item = catalog.get(&ranked.item_id);
        let rank = u32::try_from(place + 1).unwrap_or(u32::MAX);
        let is_shown = components.iter().any(|component| component.rank == rank);
        let dropped_because = match item.map(|item| (item, shown.get(&item.item_type))) {
            _ if is_shown => String::new(),
            None => "the catalog does not know it, or its row has no item_type".to_owned(),
            Some((item, Some(better))) => {
                format!(
                    "{} is filled by {better}, which ranks higher",
                    item.item_type
                )
            }
            Some(_) => "moderation leaves it out".to_owned(),
        };
        v1::ExplainedItem {
            item_id: ranked.item_id.to_string(),
            item_type: item
                .map(|item| item.item_type.to_string())
                .unwrap_or_default(),
            rank,
            score: ranked.score.unwrap_or_default(),
            shown: is_shown,
            dropped_because,
        }
    };
    decided
        .ranking
        .items
        .iter()
        .enumerate()
        .map(explain)
        .collect()
}

fn recommender(sets: &Sets, state: &RemoteState) -> v1::RecommenderState {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let budget = &state.budget;
    let waiting = Priority::ALL.iter().zip(budget.waiting);
    v1::RecommenderState {
        limit_per_second: budget.limit,
        rate_per_second: budget.rate,
        tokens: budget.tokens,
        waiting: waiting
            .map(|(priority, waiting)| (priority.as_str().to_owned(), count(waiting)))
            .collect(),
        in_flight: count(budget.in_flight),
        paused: state.breaker != BreakerState::Closed,
        counts: sets.counters().serving.all().into_iter().collect(),
    }
}
