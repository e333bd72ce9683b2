//! Questions that are under way: each is asked once, however many wait for it, and goes on when they
//! stop waiting, for as long as its answer is worth something. Does not know what those are told who
//! cannot wait.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use touchline_runtime::traces;

use super::cache::{Answer, Key};
use crate::{
    counters::Counters,
    recommend::{
        Query, RecommendError, Recommender,
        breaker::{Breaker, BreakerState},
        budget::{
            Priority,
            queue::{Budget, Denied, Place, Rank},
        },
        popular::Popular,
        standing::Standing,
    },
};

/// Questions under way at most; each costs some kilobytes.
const FLIGHTS_MAX: usize = 50_000;
/// When a question that could not even be queued may be asked again.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// The pause before a question that failed is asked a second time.
const RETRY_PAUSE: Duration = Duration::from_millis(30);
/// Refusals are logged at most this often.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// Of a question that waits for its turn: whoever is asked by then is the right one.
const NOT_ASKED_YET: u64 = u64::MAX;

type Outcome = Result<Answer, RecommendError>;

/// What a question needs beside itself.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) priority: Priority,
    /// Until when its answer is worth something.
    pub(super) until: Instant,
    /// What it is worth it for.
    pub(super) standing: Option<Standing>,
    /// Where in a trace it is asked first.
    pub(super) trace: traces::Place,
}

/// All questions that are under way.
#[derive(Debug)]
pub(super) struct Flights {
    pub(super) recommender: Arc<dyn Recommender>,
    pub(super) cache: Cache<Key, Answer>,
    pub(super) time_to_live: Duration,
    pub(super) budget: Arc<Budget>,
    pub(super) popular: Arc<Mutex<Popular>>,
    pub(super) counters: Arc<Counters>,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
    breaker: Mutex<Breaker>,
    under_way: Mutex<HashMap<Key, Arc<Flight>>>,
    logged_at: Mutex<Option<Instant>>,
}

/// What [`Flights`] are made of.
pub(super) struct Parts {
    pub(super) recommender: Arc<dyn Recommender>,
    pub(super) cache: Cache<Key, Answer>,
    pub(super) time_to_live: Duration,
    pub(super) budget: Arc<Budget>,
    pub(super) popular: Arc<Mutex<Popular>>,
    pub(super) counters: Arc<Counters>,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
}

/// One question under way.
#[derive(Debug)]
struct Flight {
    rank: Rank,
    /// The recommender's generation when it was asked.
    generation: AtomicU64,
    claims: Mutex<Claims>,
    outcome: watch::Sender<Option<Outcome>>,
    trace: traces::Place,
}

#[derive(Debug)]
struct Claims {
    /// Who waits, by priority.
    waiting: [usize; 4],
    until: Instant,
    /// Empty: whatever stands, the answer is wanted.
    standings: Vec<Standing>,
    is_bound: bool,
}

/// Somebody who waits for a flight's outcome. Dropped, he no longer does.
#[derive(Debug)]
pub(super) struct Claim {
    flight: Arc<Flight>,
    priority: Priority,
    receiver: watch::Receiver<Option<Outcome>>,
}

/// An answer that may come later, for whoever was given another one meanwhile.
#[derive(Debug, Clone)]
pub(super) struct Pending(watch::Receiver<Option<Outcome>>);

impl Flights {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            recommender: parts.recommender,
            cache: parts.cache,
            time_to_live: parts.time_to_live,
            budget: parts.budget,
            popular: parts.popular,
            counters: parts.counters,
            tasks: parts.tasks,
            shutdown: parts.shutdown,
            breaker: Mutex::new(Breaker::new(Instant::now())),
            under_way: Mutex::default(),
            logged_at: Mutex::default(),
        }
    }

    /// What the circuit breaker does.
    pub(super) fn breaker_state(&self) -> BreakerState {
        lock(&self.breaker).state()
    }

    /// Joins the flight of an equal question, or starts one. An error says at once that there is no
    /// point in waiting.
    pub(super) fn join(
        self: &Arc<Self>,
        query: &Query,
        wanted: Wanted,
    ) -> Result<Claim, RecommendError> {
        if wanted
            .standing
            .as_ref()
            .is_some_and(Standing::is_superseded)
        {
            return Err(superseded());
        }
        let key = Key::from(query);
        let generation = self.recommender.generation();
        let mut under_way = lock(&self.under_way);
        // What another campaign was asked is another question.
        if let Some(flight) = under_way.get(&key)
            && flight.generation() >= generation
        {
            self.counters.serving.coalesced.add(1);
            return Ok(flight.claim(wanted));
        }
        if !lock(&self.breaker).may_queue(Instant::now()) {
            return Err(RecommendError::Unavailable(
                "it failed several times in a row and is given a pause".to_owned(),
            ));
        }
        if under_way.len() >= FLIGHTS_MAX {
            return Err(RecommendError::Throttled {
                retry_after: RETRY_AFTER,
            });
        }
        // Taken here, so that whoever comes next knows how many are before him.
        let place = self.budget.enter(wanted.priority).map_err(denied)?;
        let flight = Arc::new(Flight::new(&wanted));
        let claim = flight.claim(wanted);
        under_way.insert(key.clone(), flight.clone());
        drop(under_way);
        let landing = Landing {
            flights: self.clone(),
            flight,
            key,
        };
        self.tasks.spawn(landing.fly(query.clone(), place));
        Ok(claim)
    }

    /// Asks, and once more where that may help.
    async fn ask(&self, flight: &Flight, query: &Query, key: &Key, place: Place) -> Outcome {
        // An equal question may have been answered between a look at the cache and this flight.
        let generation = self.recommender.generation();
        if let Some(answer) = self.cache.get(key).await
            && answer.is_fresh(self.time_to_live, generation)
        {
            return Ok(answer);
        }
        let pause = match self.ask_once(flight, query, Some(place)).await {
            Err((error, Some(pause))) if Instant::now() + pause < flight.until() => {
                tracing::debug!(%error, "asking once more");
                pause
            }
            outcome => return outcome.map_err(|(error, _)| error),
        };
        sleep(pause.mul_f64(rand::random_range(1.0..=1.5))).await;
        self.counters.serving.retries.add(1);
        let outcome = self.ask_once(flight, query, None).await;
        outcome.map_err(|(error, _)| error)
    }

    /// Waits for its turn and asks. A failure says after which pause asking again may help.
    async fn ask_once(
        &self,
        flight: &Flight,
        query: &Query,
        mut place: Option<Place>,
    ) -> Result<Answer, (RecommendError, Option<Duration>)> {
        let mut token = loop {
            let until = flight.until();
            let token = match place.take() {
                Some(place) => self.budget.token_at(place, &flight.rank, until).await,
                None => self.budget.token(&flight.rank, until).await,
            };
            match token {
                Ok(token) => break token,
                // Somebody who can wait for longer joined meanwhile.
                Err(Denied::TooLate) if flight.until() > until => {}
                Err(reason) => return Err((denied(reason), None)),
            }
        };
        if !lock(&self.breaker).admit(Instant::now()) {
            let paused = "it is given a pause after failures".to_owned();
            return Err((RecommendError::Unavailable(paused), None));
        }
        token.spend();
        let is_prefetched = flight.rank.get() == Priority::Prefetch;
        let generation = self.recommender.generation();
        flight.generation.store(generation, Ordering::Release);
        let asking = self.counters.recommender.asking(1);
        let mut span = flight.trace.begin("personalize", traces::Kind::Client);
        let answers = self.recommender.rank(std::slice::from_ref(query)).await;
        asking.answered(&answers);
        if let Some(Err(error)) = answers.first() {
            span.fail(error.as_str());
        }
        drop(span);
        let answer = answers.into_iter().next().unwrap_or_else(|| {
            let nothing = "no answer was given".to_owned();
            Err(RecommendError::Unavailable(nothing))
        });
        let answer = answer.map(|ranking| Answer {
            ranking: Arc::new(ranking),
            given_at: Instant::now(),
            generation,
            kept: Arc::default(),
            is_prefetched,
        });
        answer.map_err(|error| self.failed(error)).inspect(|_| {
            self.somebody_is_there();
        })
    }

    fn failed(&self, error: RecommendError) -> (RecommendError, Option<Duration>) {
        let pause = match &error {
            RecommendError::TimedOut | RecommendError::Unavailable(_) => {
                if lock(&self.breaker).failed(Instant::now()) {
                    self.counters.serving.breaker_opened.add(1);
                    self.counters.serving.is_breaker_open.set(1);
                    tracing::warn!(%error, "the recommender fails; it is given a pause");
                }
                // One that took all its time is not given it twice.
                matches!(error, RecommendError::Unavailable(_)).then_some(RETRY_PAUSE)
            }
            RecommendError::Throttled { retry_after } => {
                self.somebody_is_there();
                self.budget.throttled();
                Some(*retry_after)
            }
            RecommendError::Invalid(_) | RecommendError::Unsupported(_) => {
                self.somebody_is_there();
                self.log_refusal(&error);
                None
            }
        };
        (error, pause)
    }

    fn somebody_is_there(&self) {
        lock(&self.breaker).succeeded();
        self.counters.serving.is_breaker_open.set(0);
    }

    fn log_refusal(&self, error: &RecommendError) {
        let mut logged_at = lock(&self.logged_at);
        if logged_at.is_none_or(|at| at.elapsed() > LOG_PAUSE) {
            *logged_at = Some(Instant::now());
            tracing::warn!(%error, "the recommender refuses a question");
        }
    }
}

/// A flight and its end: whatever happens, it is under way no longer and its claims are answered.
struct Landing {
    flights: Arc<Flights>,
    flight: Arc<Flight>,
    key: Key,
}

impl Landing {
    async fn fly(self, query: Query, place: Place) {
        let flights = &self.flights;
        let outcome = tokio::select! {
            outcome = flights.ask(&self.flight, &query, &self.key, place) => outcome,
            () = self.flight.superseded() => {
                flights.counters.serving.superseded.add(1);
                Err(superseded())
            }
            () = flights.shutdown.cancelled() => {
                Err(RecommendError::Unavailable("this server is shutting down".to_owned()))
            }
        };
        if let Ok(answer) = &outcome {
            lock(&flights.popular).learn(&answer.ranking);
            let is_current = answer.generation == flights.recommender.generation();
            // The answer of a campaign that is asked no longer takes no newer one's place.
            if is_current || flights.cache.get(&self.key).await.is_none() {
                // Before it lands, so that whoever comes next finds the one or the other.
                flights.cache.insert(self.key.clone(), answer.clone()).await;
            }
        }
        self.land(outcome);
    }

    fn land(&self, outcome: Outcome) {
        let mut under_way = lock(&self.flights.under_way);
        if let Some(flight) = under_way.get(&self.key)
            && Arc::ptr_eq(flight, &self.flight)
        {
            under_way.remove(&self.key);
        }
        drop(under_way);
        self.flight.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let has_landed = self.flight.outcome.borrow().is_some();
        if !has_landed {
            let lost = "the question was lost".to_owned();
            self.land(Err(RecommendError::Unavailable(lost)));
        }
    }
}

impl Flight {
    fn new(wanted: &Wanted) -> Self {
        Self {
            rank: Rank::new(wanted.priority),
            generation: AtomicU64::new(NOT_ASKED_YET),
            claims: Mutex::new(Claims {
                waiting: [0; 4],
                until: wanted.until,
                standings: Vec::new(),
                is_bound: true,
            }),
            outcome: watch::Sender::new(None),
            trace: wanted.trace.clone(),
        }
    }

    fn claim(self: &Arc<Self>, wanted: Wanted) -> Claim {
        let mut claims = lock(&self.claims);
        claims.waiting[wanted.priority as usize] += 1;
        claims.until = claims.until.max(wanted.until);
        match wanted.standing {
            Some(standing) => {
                claims
                    .standings
                    .retain(|standing| !standing.is_superseded());
                // Equal contexts of one event share a standing; a few events may share a context.
                if claims.standings.len() < 16 {
                    claims.standings.push(standing);
                }
            }
            None => claims.is_bound = false,
        }
        self.rank.set(claims.rank(self.rank.get()));
        Claim {
            flight: self.clone(),
            priority: wanted.priority,
            receiver: self.outcome.subscribe(),
        }
    }

    fn until(&self) -> Instant {
        lock(&self.claims).until
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Waits until everything that the answer was wanted for was superseded.
    async fn superseded(&self) {
        loop {
            let standing = {
                let claims = lock(&self.claims);
                match claims.is_bound {
                    true => claims
                        .standings
                        .iter()
                        .find(|it| !it.is_superseded())
                        .cloned(),
                    false => Some(Standing::default()),
                }
            };
            match standing {
                Some(standing) => standing.superseded().await,
                None => return,
            }
        }
    }
}

impl Claims {
    /// The priority of the first who waits; where nobody does, at best a refresh.
    fn rank(&self, before: Priority) -> Priority {
        let mut all = Priority::ALL.into_iter();
        all.find(|priority| self.waiting[*priority as usize] > 0)
            .unwrap_or(before.max(Priority::Refresh))
    }
}

impl Claim {
    /// Waits for the outcome, until the given moment; `None` when it does not come in time.
    pub(super) async fn outcome(&mut self, until: Instant) -> Option<Outcome> {
        // The sender lives in the flight, which this claim holds.
        let outcome = timeout_at(until, self.receiver.wait_for(Option::is_some)).await;
        outcome.ok()?.ok()?.clone()
    }

    /// Stops waiting, and keeps an eye on what comes later.
    pub(super) fn pending(&self) -> Pending {
        Pending(self.receiver.clone())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = lock(&self.flight.claims);
        claims.waiting[self.priority as usize] -= 1;
        self.flight.rank.set(claims.rank(self.flight.rank.get()));
    }
}

impl Pending {
    /// Waits for the outcome; `None` when there is no answer.
    pub(super) async fn answer(&mut self) -> Option<Answer> {
        let outcome = self.0.wait_for(Option::is_some).await.ok()?.clone();
        outcome?.ok()
    }
}

fn denied(reason: Denied) -> RecommendError {
    match reason {
        Denied::TooLate => RecommendError::TimedOut,
        Denied::Full => RecommendError::Throttled {
            retry_after: RETRY_AFTER,
        },
    }
}

fn superseded() -> RecommendError {
    RecommendError::Unavailable("a newer state superseded the question".to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds one of these locks can panic half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
