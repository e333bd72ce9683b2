//! How a set came about, for whoever asks: the ranking, what moderation dropped and why, and what
//! the way to the recommender is doing. Decides nothing.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;
use touchline_proto::v1;
use touchline_store::ids::ItemId;

use crate::{
    catalog::Catalog,
    components::policies::Reason,
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
        recommender: sets.rankings().state().map(|state| recommender(&state)),
    }
}

fn ranking(decided: &Decided, catalog: &Catalog) -> Vec<v1::ExplainedItem> {
    let moderated = &decided.moderated;
    let dropped: HashMap<(u32, &ItemId), Reason> = moderated
        .dropped
        .iter()
        .map(|dropped| ((dropped.rank, &dropped.item_id), dropped.reason))
        .collect();
    let explain = |rank: u32, item_id: &ItemId, score: Option<f64>| {
        let item = catalog.get(item_id);
        let shown = moderated
            .components
            .iter()
            .any(|component| component.rank == rank && component.item.item_id == *item_id);
        let dropped_because = match dropped.get(&(rank, item_id)) {
            _ if shown => "",
            Some(reason) => told(*reason),
            None => "it is pinned and stands elsewhere",
        };
        v1::ExplainedItem {
            item_id: item_id.to_string(),
            item_type: item
                .map(|item| item.item_type.to_string())
                .unwrap_or_default(),
            rank,
            score: score.unwrap_or_default(),
            shown,
            dropped_because: dropped_because.to_owned(),
        }
    };
    // What is pinned and was not ranked stands before the ranking.
    let shown = moderated
        .components
        .iter()
        .filter(|component| component.rank == 0);
    let shown = shown.map(|component| explain(0, &component.item.item_id, None));
    let gone = moderated.dropped.iter().filter(|dropped| dropped.rank == 0);
    let gone = gone.map(|dropped| explain(0, &dropped.item_id, None));
    let ranked = decided.ranking.items.iter().enumerate();
    let ranked = ranked.map(|(place, ranked): (usize, &RankedItem)| {
        let rank = u32::try_from(place + 1).unwrap_or(u32::MAX);
        explain(rank, &ranked.item_id, ranked.score)
    });
    shown.chain(gone).chain(ranked).collect()
}

fn told(reason: Reason) -> &'static str {
    match reason {
        Reason::UnknownItem => "the catalog does not know it, or its row has no item_type",
        Reason::Blocked => "policies block it",
        Reason::Age => "the consumer is younger than policies ask for, or of unknown age",
        Reason::Country => "policies do not allow it in the consumer's country, or that is unknown",
        Reason::Schedule => "policies do not allow it at this time or in this situation",
        Reason::Cap => "the consumer was shown it as often as policies allow",
        Reason::SlotFull => {
            "the slots of its type are taken by items that rank higher or are pinned"
        }
    }
}

fn recommender(state: &RemoteState) -> v1::RecommenderState {
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
    }
}
