//! `ComponentService`: one consumer's set, many consumers' sets, and sets as an event changes.

use std::{future::pending, sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Request, Response};
use touchline_proto::{
    serving::{
        BatchGetComponentsResponse, GetComponentsResponse, WatchEventResponse,
        component_service_server::ComponentService,
    },
    v1::{
        BatchGetComponentsRequest, GetComponentsRequest, WatchEventRequest,
        get_components_request::Situation,
    },
};
use touchline_runtime::traces::Span;
use touchline_store::{
    event::Context,
    ids::{ConsumerId, EventId},
};

use super::{Api, convert, explain, place, trace, validate::Violations};
use crate::{
    components::SetId,
    error::Error,
    layers::Deadline,
    moderation::Occasion,
    recommend::{
        Origin, Query, RecommendError,
        budget::Priority,
        refinement::Refinement,
        serving::{Later, Lookup},
        standing,
    },
    sets::Decided,
    status::{Reply, Streamed},
    watch::{Seen, Watcher},
};

/// A watcher whose set could not be decided is tried again after this long, or at the next change.
const WATCH_RETRY: Duration = Duration::from_millis(750);
/// A watcher who is shown another source's set has the recommender asked again this often.
const FOLLOW_UP_RETRY: Duration = Duration::from_secs(3);

#[tonic::async_trait]
impl ComponentService for Api {
    async fn get_components(
        &self,
        request: Request<GetComponentsRequest>,
    ) -> Reply<GetComponentsResponse> {
        let mut span = self.span(&request, "get_components");
        let answer = self.one(request, &mut span).await;
        Ok(Response::new(
            answer.map_err(|error| trace::failed(&mut span, error))?,
        ))
    }

    type BatchGetComponentsStream = Streamed<BatchGetComponentsResponse>;

    async fn batch_get_components(
        &self,
        request: Request<BatchGetComponentsRequest>,
    ) -> Reply<Self::BatchGetComponentsStream> {
        let deadline = self.deadline(&request);
        let mut span = self.span(&request, "batch_get_components");
        let answers = self.batch(request.into_inner(), deadline, &mut span);
        Ok(Response::new(
            answers.map_err(|error| trace::failed(&mut span, error))?,
        ))
    }

    type WatchEventStream = Streamed<WatchEventResponse>;

    async fn watch_event(
        &self,
        request: Request<WatchEventRequest>,
    ) -> Reply<Self::WatchEventStream> {
        let place = place(&self.watches, "the server's limit of watchers")?;
        let deadline = self.deadline(&request);
        let wanted = Wanted::read(request.into_inner())?;
        let mut watcher = self.events.watch(&wanted.event_id);
        let seen = watcher.first().await?;
        let decided = self
            .watched(&wanted, &seen, deadline.at, Priority::Caller)
            .await?;
        let stands = decided
            .as_ref()
            .is_some_and(|decided| wanted.set_id == Some(decided.moderated.set_id));
        let first = (!stands).then(|| watch_response(&seen, decided.as_ref()));
        let mut shown = Shown::new(seen, decided);
        let api = self.clone();
        let stream = async_stream::stream! {
            let _place = place;
            if let Some(first) = first {
                yield Ok(first);
            }
            let end = api.end(deadline);
            tokio::pin!(end);
            loop {
                let next = api.next(&mut watcher, &wanted, &mut shown);
                let next = tokio::select! {
                    error = &mut end => Some(Err(error)),
                    next = next => next,
                };
                match next {
                    Some(Ok(response)) => yield Ok(response),
                    Some(Err(error)) => {
                        yield Err(error.into());
                        return;
                    }
                    None => return,
                }
            }
        };
        Ok(Response::new(stream.boxed()))
    }
}

impl Api {
    /// One consumer's set.
    async fn one(
        &self,
        request: Request<GetComponentsRequest>,
        span: &mut Span,
    ) -> Result<GetComponentsResponse, Error> {
        let (deadline, began) = (self.deadline(&request), Instant::now());
        let refines = self.sets.rankings().recommender().refines();
        let request = request.into_inner();
        let explain = request.explain;
        let asked = Asked::read(request, refines)?;
        let (seen, situation) = match asked.situation {
            Given::Event(event_id) => {
                let seen = self.events.current(&event_id).await?;
                let situation = self.sets.situation(&seen);
                (Some(seen), situation)
            }
            Given::Context(context) => (None, standing::Situation::alone(context)),
        };
        let refinement = self.sets.refinement(asked.refinement);
        let lookup = Lookup {
            query: Query {
                consumer_id: asked.consumer_id,
                context: situation.context,
                num_results: self.sets.num_results(asked.num_results, &refinement),
                refinement,
            },
            deadline: deadline.at,
            priority: Priority::Caller,
            standing: situation.standing,
            trace: span.place(),
        };
        if let Some(seen) = &seen {
            trace::say_state(span, seen);
        }
        let decided = self.sets.decide(lookup, seen.as_deref()).await?;
        span.say("touchline.origin", decided.origin.as_str());
        span.say("touchline.freshness", decided.freshness.as_str());
        Ok(GetComponentsResponse {
            explanation: explain
                .then(|| explain::explanation(&self.sets, &decided, began, deadline.at)),
            component_set: Some(convert::component_set(&decided, seen.as_deref())),
        })
    }

    /// What ends a stream from outside: shutdown, its age, or the deadline that its caller gave.
    async fn end(&self, deadline: Deadline) -> Error {
        let deadline = async {
            match deadline.of_caller {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let age = async {
            // Streams that began together do not end together.
            match self.stream_age_max.mul_f64(rand::random_range(0.9..=1.0)) {
                Duration::ZERO => std::future::pending().await,
                age => tokio::time::sleep(age).await,
            }
        };
        tokio::select! {
            () = self.shutdown.cancelled() => Error::Draining,
            () = age => Error::TooOld,
            () = deadline => Error::DeadlineExceeded,
        }
    }

    /// The next answer for a watcher: of a newer state, or a better one of the same. `None` once the
    /// event ended. A recommender that has no answer is asked again for the newest state, since the
    /// stream is worth more than the moment.
    async fn next(
        &self,
        watcher: &mut Watcher,
        wanted: &Wanted,
        shown: &mut Shown,
    ) -> Option<Result<WatchEventResponse, Error>> {
        let mut seen = tokio::select! {
            seen = watcher.next() => seen?,
            better = self.better(wanted, shown) => return Some(Ok(better)),
        };
        loop {
            let at = Instant::now() + self.default_deadline;
            match self.watched(wanted, &seen, at, Priority::Push).await {
                Ok(decided) => {
                    let response = watch_response(&seen, decided.as_ref());
                    *shown = Shown::new(seen, decided);
                    return Some(Ok(response));
                }
                Err(error) if passes(&error) => {}
                Err(error) => return Some(Err(error)),
            }
            tokio::select! {
                () = sleep(WATCH_RETRY.mul_f64(rand::random_range(0.8..=1.2))) => {}
                newer = watcher.next() => seen = newer?,
            }
        }
    }

    /// Waits for the recommender's own answer where another source's is shown, and gives it if its
    /// set differs. Cancel safe.
    async fn better(&self, wanted: &Wanted, shown: &mut Shown) -> WatchEventResponse {
        loop {
            let is_own = shown
                .origin
                .is_none_or(|origin| origin == Origin::Personalize);
            let better = match &mut shown.later {
                _ if !self.follow_up => pending().await,
                Some(later) => self.later(later, wanted, &shown.seen).await,
                // A recommender in this process has no better answer.
                None if is_own || self.sets.rankings().state().is_none() => pending().await,
                None => {
                    sleep(FOLLOW_UP_RETRY.mul_f64(rand::random_range(0.8..=1.2))).await;
                    let at = Instant::now() + self.default_deadline;
                    let again = self
                        .watched(wanted, &shown.seen, at, Priority::Refresh)
                        .await;
                    again.ok().flatten()
                }
            };
            shown.later = better.as_ref().and_then(|better| better.later.clone());
            let better = better.filter(|better| better.origin == Origin::Personalize);
            let Some(better) = better else {
                continue;
            };
            shown.origin = Some(better.origin);
            if shown.set_id.replace(better.moderated.set_id) != Some(better.moderated.set_id) {
                self.sets.counters().serving.followed_up.add(1);
                return watch_response(&shown.seen, Some(&better));
            }
        }
    }

    async fn later(&self, later: &mut Later, wanted: &Wanted, seen: &Seen) -> Option<Decided> {
        let occasion = Occasion {
            consumer_id: wanted.consumer_id.as_ref()?,
            context: &self.sets.context(seen),
            seen: Some(seen),
        };
        self.sets.later(later, occasion).await
    }

    async fn watched(
        &self,
        wanted: &Wanted,
        seen: &Seen,
        at: Instant,
        priority: Priority,
    ) -> Result<Option<Decided>, Error> {
        let Some(consumer_id) = wanted.consumer_id.clone() else {
            return Ok(None);
        };
        let situation = self.sets.situation(seen);
        self.sets.note(&seen.state.event_id, [&consumer_id]);
        let refinement = self.sets.refinement(None);
        let lookup = Lookup {
            query: Query {
                consumer_id,
                context: situation.context,
                num_results: self.sets.num_results(0, &refinement),
                refinement,
            },
            deadline: at,
            priority,
            standing: situation.standing,
            // A stream is no piece of work that ends.
            trace: Default::default(),
        };
        self.sets.decide(lookup, Some(seen)).await.map(Some)
    }
}

/// What a watcher was given last.
struct Shown {
    seen: Arc<Seen>,
    set_id: Option<SetId>,
    origin: Option<Origin>,
    later: Option<Later>,
}

impl Shown {
    fn new(seen: Arc<Seen>, decided: Option<Decided>) -> Self {
        Self {
            seen,
            set_id: decided.as_ref().map(|decided| decided.moderated.set_id),
            origin: decided.as_ref().map(|decided| decided.origin),
            later: decided.and_then(|decided| decided.later),
        }
    }
}

/// Whether asking again may help.
fn passes(error: &Error) -> bool {
    matches!(
        error,
        Error::NotReady
            | Error::Recommend(
                RecommendError::Throttled { .. }
                    | RecommendError::TimedOut
                    | RecommendError::Unavailable(_)
            )
    )
}

fn watch_response(seen: &Seen, decided: Option<&Decided>) -> WatchEventResponse {
    WatchEventResponse {
        state: Some(convert::shared_event_state(seen)),
        component_set: decided.map(|decided| convert::component_set(decided, Some(seen))),
    }
}

/// A GetComponentsRequest, checked.
struct Asked {
    consumer_id: ConsumerId,
    situation: Given,
    num_results: u32,
    refinement: Option<Refinement>,
}

enum Given {
    Event(EventId),
    Context(Context),
}

impl Asked {
    fn read(request: GetComponentsRequest, refines: bool) -> Result<Self, Error> {
        let mut violations = Violations::default();
        let consumer_id = violations.id("consumer_id", ConsumerId::new(request.consumer_id));
        let situation = match request.situation {
            Some(Situation::EventId(event_id)) => violations
                .id("event_id", EventId::new(event_id))
                .map(Given::Event),
            Some(Situation::Context(context)) => Some(Given::Context(
                violations.context("context.values", context.values),
            )),
            None => {
                violations.add("event_id", "is required, or a context instead");
                None
            }
        };
        let num_results = request.num_results;
        violations.num_results(num_results);
        let refinement = violations.refinement(request.refinement, num_results, refines);
        violations.finish()?;
        Ok(Self {
            consumer_id: consumer_id.expect("a missing id is a violation"),
            situation: situation.expect("a missing situation is a violation"),
            num_results,
            refinement,
        })
    }
}

/// A WatchEventRequest, checked.
struct Wanted {
    event_id: EventId,
    consumer_id: Option<ConsumerId>,
    set_id: Option<SetId>,
}

impl Wanted {
    fn read(request: WatchEventRequest) -> Result<Self, Error> {
        let mut violations = Violations::default();
        let event_id = violations.id("event_id", EventId::new(request.event_id));
        let set_id = SetId::parse(&request.set_id);
        if !request.set_id.is_empty() {
            if set_id.is_none() {
                violations.add("set_id", "must have 16 hexadecimal digits");
            }
            if request.consumer_id.is_empty() {
                violations.add("consumer_id", "is required beside set_id");
            }
        }
        let consumer_id =
            violations.optional_id("consumer_id", request.consumer_id, ConsumerId::new);
        violations.finish()?;
        Ok(Self {
            event_id: event_id.expect("a missing id is a violation"),
            consumer_id,
            set_id,
        })
    }
}
