//! What this server tells its operators of itself, read off what its parts count anyway. Decides
//! nothing and moves nothing but the policies, which it has looked at again.

use std::sync::Arc;

use touchline_admin::{Reload, Role, RoleStatus, span};
use touchline_proto::v1::{AnswerCount, BudgetStatus, ServerStatus};
use touchline_runtime::metrics::Gauge;

use crate::{
    counters::{Counters, ServingCounters},
    policies::PolicyFile,
    recommend::{Origin, serving::Freshness},
    watch::Events,
};

/// A server, to whom it is administered by.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) counters: Arc<Counters>,
    pub(crate) events: Arc<Events>,
    pub(crate) policies: Arc<PolicyFile>,
    /// Whether Personalize is asked.
    pub(crate) is_budgeted: bool,
}

impl Role for Server {
    async fn status(&self) -> RoleStatus {
        let counters = &self.counters;
        let serving = &counters.serving;
        RoleStatus::Server(ServerStatus {
            calls_in_flight: counters.calls_in_flight.get(),
            watchers: counters.watchers.get(),
            following: self.events.following(),
            events: i64::try_from(self.events.known()).unwrap_or(i64::MAX),
            catalog_items: counters.catalog_items.get(),
            catalog_age: counters.catalog_age.elapsed().map(span),
            budget: self.is_budgeted.then(|| budget(serving)),
            rankings_cached: serving.hits.get() + serving.stale.get(),
            rankings_missed: serving.misses.get(),
            answers: answers(serving),
            policies_reloads: counters.policies_reloads.get(),
        })
    }

    async fn reload_policies(&self) -> Result<bool, Reload> {
        match self.policies.look_now().await {
            None => Err(Reload::Absent),
            Some(looked) => looked.map_err(Reload::Invalid),
        }
    }
}

fn budget(serving: &ServingCounters) -> BudgetStatus {
    let budget = &serving.budget;
    BudgetStatus {
        limit: budget.limit.get(),
        rate: budget.rate.get(),
        in_flight: budget.in_flight.get(),
        waiting: budget.waiting.iter().map(Gauge::get).sum(),
        breaker_open: serving.is_breaker_open.get() != 0,
    }
}

/// Those that there are any of.
fn answers(serving: &ServingCounters) -> Vec<AnswerCount> {
    let kinds = Origin::ALL.into_iter().flat_map(|origin| {
        let with = move |freshness| (origin, freshness);
        Freshness::ALL.into_iter().map(with)
    });
    let counts = kinds.map(|(origin, freshness)| AnswerCount {
        origin: origin.as_str().to_owned(),
        freshness: freshness.as_str().to_owned(),
        count: serving.answers(origin, freshness).get(),
    });
    counts.filter(|answers| answers.count > 0).collect()
}
