//! A ranking from Amazon Personalize, or from the next best source: cached, then asked for within
//! the budget, then stale, then the consumer's cohort, then whoever needs no network. Decides in
//! which order and until when; asking itself is [`flights`](super::flights)'.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use touchline_store::ids::ConsumerId;

use super::{
    Fallbacks, Freshness, Later, Lookup, RemoteLimits, Served, Source,
    cache::{self, Answer, Key},
    flights::{self, Claim, Flights, Wanted},
    live,
};
use crate::{
    counters::Counters,
    recommend::{
        Origin, Query, Ranking, RecommendError, Recommender,
        breaker::BreakerState,
        budget::{
            Priority,
            queue::{Budget, BudgetState},
        },
    },
};

/// At most this much of what is left until the deadline is kept for the way back.
const WAY_BACK_MAX: Duration = Duration::from_millis(50);

/// What serving from a remote recommender takes.
#[derive(Debug)]
pub struct RemoteParts {
    /// Who is asked.
    pub recommender: Arc<dyn Recommender>,
    /// How often he may be.
    pub budget: Arc<Budget>,
    /// Who stands in for him.
    pub fallbacks: Fallbacks,
    /// How sparingly he is asked.
    pub limits: RemoteLimits,
    /// What happens is counted there.
    pub counters: Arc<Counters>,
    /// Questions under way run there.
    pub tasks: TaskTracker,
    /// Ends them.
    pub shutdown: CancellationToken,
}

/// What the path to the recommender is doing.
#[derive(Debug, Clone, Copy)]
pub struct RemoteState {
    /// Its budget.
    pub budget: BudgetState,
    /// Its circuit breaker.
    pub breaker: BreakerState,
}

/// Serves from a remote recommender.
#[derive(Debug)]
pub struct Remote {
    flights: Arc<Flights>,
    cache: Cache<Key, Answer>,
    fallbacks: Fallbacks,
    limits: RemoteLimits,
    counters: Arc<Counters>,
}

/// What the cache has.
enum Found {
    Fresh(Answer),
    Stale(Answer),
    Nothing,
}

impl Remote {
    /// With an empty cache.
    pub fn new(parts: RemoteParts) -> Self {
        let RemoteParts { limits, .. } = parts;
        let life = limits.time_to_live + limits.stale_for;
        let cache = cache::new(limits.cache_bytes, life);
        let flights = Flights::new(flights::Parts {
            recommender: parts.recommender,
            cache: cache.clone(),
            time_to_live: limits.time_to_live,
            budget: parts.budget,
            popular: parts.fallbacks.popular.clone(),
            counters: parts.counters.clone(),
            tasks: parts.tasks,
            shutdown: parts.shutdown,
        });
        Self {
            flights: Arc::new(flights),
            cache,
            fallbacks: parts.fallbacks,
            limits,
            counters: parts.counters,
        }
    }

    /// What it is doing.
    pub fn state(&self) -> RemoteState {
        RemoteState {
            budget: self.flights.budget.state(),
            breaker: self.flights.breaker_state(),
        }
    }

    /// The best answer that can be had in time.
    pub(super) async fn rank(&self, lookup: Lookup) -> Result<Served, RecommendError> {
        if lookup.priority == Priority::Prefetch {
            // Nobody needs an answer from anybody else.
            return self.prefetch(&lookup).await;
        }
        let asked_at = Instant::now();
        let counters = &self.counters.serving;
        match self.find(&lookup.query).await {
            Found::Fresh(answer) => {
                counters.hits.add(1);
                self.used(&answer);
                return Ok(kept(answer, Freshness::Cached));
            }
            Found::Stale(answer) => {
                counters.stale.add(1);
                self.used(&answer);
                let refresh = self.join(&lookup.query, Priority::Refresh, &lookup);
                let later = refresh.ok().map(|claim| Later(claim.pending()));
                return Ok(Served {
                    later,
                    ..kept(answer, Freshness::Stale)
                });
            }
            Found::Nothing => counters.misses.add(1),
        }
        let claim = self.join(&lookup.query, lookup.priority, &lookup);
        self.rank_in_time(&lookup, claim, asked_at).await
    }

    /// The recommender's own answer, from the cache or with budget that nobody else wants.
    pub(super) async fn prefetch(&self, lookup: &Lookup) -> Result<Served, RecommendError> {
        let asked_at = Instant::now();
        match self.find(&lookup.query).await {
            Found::Fresh(answer) => Ok(kept(answer, Freshness::Cached)),
            Found::Stale(_) | Found::Nothing => {
                let claim = self.join(&lookup.query, Priority::Prefetch, lookup)?;
                own(claim, asked_at, lookup.deadline).await
            }
        }
    }

    /// The consumer's cohort, where cohorts are asked.
    pub(super) fn cohort(&self, consumer_id: &ConsumerId) -> Option<ConsumerId> {
        self.fallbacks.cohort(consumer_id)
    }

    fn used(&self, answer: &Answer) {
        if answer.is_prefetched {
            self.counters.serving.prefetched_used.add(1);
        }
    }

    async fn rank_in_time(
        &self,
        lookup: &Lookup,
        claim: Result<Claim, RecommendError>,
        asked_at: Instant,
    ) -> Result<Served, RecommendError> {
        let cohort = self.fallbacks.cohort(&lookup.query.consumer_id);
        let is_filtered = lookup.query.refinement.filter.is_some();
        let plan = self.fallbacks.plan(cohort.as_ref(), is_filtered);
        let mut claim = match claim {
            Ok(claim) if plan.is_empty() => return own(claim, asked_at, lookup.deadline).await,
            Ok(claim) => Ok(claim),
            Err(error) => Err(error),
        };
        let patient_until = self.patient_until(lookup.deadline, asked_at);
        let mut own_error = None;
        if let Ok(claim) = &mut claim {
            // Who would spend half of his patience in the queue is answered from elsewhere now: the
            // other half is for the answer, or for the cohort's.
            let wait = self.flights.budget.wait(lookup.priority);
            if asked_at + wait * 2 < patient_until {
                match claim.outcome(patient_until).await {
                    Some(Ok(answer)) => return Ok(asked(answer, asked_at)),
                    Some(Err(error)) => own_error = Some(error),
                    None => {}
                }
            }
        }
        // From here on the question goes on behind everybody who waits.
        let (pending, error) = match claim {
            Ok(claim) if own_error.is_none() => (Some(claim.pending()), RecommendError::TimedOut),
            Ok(_) => (None, own_error.unwrap_or(RecommendError::TimedOut)),
            Err(error) => (None, error),
        };
        for source in plan {
            let served = match source {
                Source::Cohort => {
                    self.ask_cohort(lookup, cohort.as_ref(), patient_until)
                        .await
                }
                Source::Embedded => self.fallbacks.embedded(&lookup.query).await.map(live),
                Source::Popular => self.fallbacks.popular(lookup.query.num_results).map(live),
                Source::None => None,
            };
            if let Some(served) = served {
                let later = pending.map(Later);
                return Ok(Served { later, ..served });
            }
        }
        // Nobody has an answer: what is left is to wait for the recommender's.
        let Some(pending) = pending else {
            return Err(error);
        };
        let answer = Later(pending).answer().await;
        answer.ok_or(RecommendError::TimedOut)
    }

    /// What the consumer's cohort is told: many share the answer, so that it is worth a caller's
    /// turn.
    async fn ask_cohort(
        &self,
        lookup: &Lookup,
        cohort: Option<&ConsumerId>,
        until: Instant,
    ) -> Option<Served> {
        let query = Query {
            consumer_id: cohort?.clone(),
            ..lookup.query.clone()
        };
        let served = match self.find(&query).await {
            Found::Fresh(answer) => {
                self.used(&answer);
                kept(answer, Freshness::Cached)
            }
            Found::Stale(answer) => {
                self.used(&answer);
                // Whoever refreshes it does so for all.
                let _ = self.join(&query, Priority::Refresh, lookup);
                kept(answer, Freshness::Stale)
            }
            Found::Nothing => {
                let asked_at = Instant::now();
                let mut claim = self.join(&query, Priority::Caller, lookup).ok()?;
                asked(claim.outcome(until).await?.ok()?, asked_at)
            }
        };
        Some(Served {
            origin: Origin::Cohort,
            ..served
        })
    }

    async fn find(&self, query: &Query) -> Found {
        let generation = self.flights.recommender.generation();
        match self.cache.get(&Key::from(query)).await {
            Some(answer) if answer.is_fresh(self.limits.time_to_live, generation) => {
                Found::Fresh(answer)
            }
            // One that is past its time to live is kept to be served while it is asked for again.
            Some(answer) if !self.limits.stale_for.is_zero() => Found::Stale(answer),
            _ => Found::Nothing,
        }
    }

    fn join(
        &self,
        query: &Query,
        priority: Priority,
        lookup: &Lookup,
    ) -> Result<Claim, RecommendError> {
        let wanted = Wanted {
            priority,
            until: match priority {
                Priority::Prefetch => lookup.deadline,
                _ => lookup.deadline.max(Instant::now() + self.limits.late),
            },
            standing: lookup.standing.clone(),
            trace: lookup.trace.clone(),
        };
        self.flights.join(query, wanted)
    }

    fn patient_until(&self, deadline: Instant, asked_at: Instant) -> Instant {
        let left = deadline.saturating_duration_since(asked_at);
        let way_back = (left / 5).min(WAY_BACK_MAX);
        (asked_at + self.limits.patience).min(deadline - way_back)
    }
}

/// The recommender's own answer, or why there is none.
async fn own(
    mut claim: Claim,
    asked_at: Instant,
    deadline: Instant,
) -> Result<Served, RecommendError> {
    match claim.outcome(deadline).await {
        Some(outcome) => outcome.map(|answer| asked(answer, asked_at)),
        None => Err(RecommendError::TimedOut),
    }
}

/// An answer to a question of this moment; live unless it was given before.
fn asked(answer: Answer, asked_at: Instant) -> Served {
    let is_live = answer.given_at >= asked_at;
    let freshness = match is_live {
        true => Freshness::Live,
        false => Freshness::Cached,
    };
    let served = kept(answer, freshness);
    match is_live {
        true => Served {
            age: Duration::ZERO,
            ..served
        },
        false => served,
    }
}

fn kept(answer: Answer, freshness: Freshness) -> Served {
    let ranking: Arc<Ranking> = answer.ranking;
    Served {
        origin: ranking.origin,
        ranking,
        freshness,
        age: answer.given_at.elapsed(),
        later: None,
        kept: Some(answer.kept),
    }
}
