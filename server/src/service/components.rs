//! `ComponentService`: one consumer's set, many consumers' sets, and sets as an event changes.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Request, Response};
use touchline_proto::v1::{
    BatchGetComponentsRequest, BatchGetComponentsResponse, GetComponentsRequest,
    GetComponentsResponse, WatchEventRequest, WatchEventResponse,
    component_service_server::ComponentService, get_components_request::Situation,
};
use touchline_store::{
    event::Context,
    ids::{ConsumerId, EventId},
};

use super::{Api, convert, place, validate::Violations};
use crate::{
    components::SetId,
    error::Error,
    layers::Deadline,
    recommend::{Query, RecommendError, refinement::Refinement},
    sets::Decided,
    status::{Reply, Streamed},
    watch::{Seen, Watcher},
};

/// A watcher whose set could not be decided is tried again after this long, or at the next change.
const WATCH_RETRY: Duration = Duration::from_millis(750);

#[tonic::async_trait]
impl ComponentService for Api {
    async fn get_components(
        &self,
        request: Request<GetComponentsRequest>,
    ) -> Reply<GetComponentsResponse> {
        let deadline = self.deadline(&request);
        let refines = self.sets.rankings().recommender().refines();
        let asked = Asked::read(request.into_inner(), refines)?;
        let (seen, context) = match asked.situation {
            Given::Event(event_id) => {
                let seen = self.events.current(&event_id).await?;
                let context = self.sets.context(&seen.state);
                (Some(seen), context)
            }
            Given::Context(context) => (None, context),
        };
        let query = Query {
            consumer_id: asked.consumer_id,
            context: Arc::new(context),
            num_results: self.sets.num_results(asked.num_results),
            refinement: self.sets.refinement(asked.refinement),
        };
        let decided = self.sets.decide(query, deadline.at).await?;
        Ok(Response::new(GetComponentsResponse {
            component_set: Some(convert::component_set(&decided, seen.as_deref())),
        }))
    }

    type BatchGetComponentsStream = Streamed<BatchGetComponentsResponse>;

    async fn batch_get_components(
        &self,
        request: Request<BatchGetComponentsRequest>,
    ) -> Reply<Self::BatchGetComponentsStream> {
        let deadline = self.deadline(&request);
        Ok(Response::new(self.batch(request.into_inner(), deadline)?))
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
        let first = watcher.first().await?;
        let decided = self.watched(&wanted, &first, deadline.at).await?;
        let stands = decided
            .as_ref()
            .is_some_and(|decided| wanted.set_id == Some(decided.moderated.set_id));
        let first = (!stands).then(|| watch_response(&first, decided.as_ref()));
        let api = self.clone();
        let stream = async_stream::stream! {
            let _place = place;
            if let Some(first) = first {
                yield Ok(first);
            }
            loop {
                let end = api.end(deadline);
                let next = api.next(&mut watcher, &wanted);
                let next = tokio::select! {
                    error = end => Some(Err(error)),
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
    /// What ends a stream from outside: shutdown, or the deadline that its caller gave.
    async fn end(&self, deadline: Deadline) -> Error {
        let deadline = async {
            match deadline.of_caller {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shutdown.cancelled() => Error::Draining,
            () = deadline => Error::DeadlineExceeded,
        }
    }

    /// The next answer for a watcher; `None` once the event ended. A recommender that has no answer
    /// is asked again for the newest state, since the stream is worth more than the moment.
    async fn next(
        &self,
        watcher: &mut Watcher,
        wanted: &Wanted,
    ) -> Option<Result<WatchEventResponse, Error>> {
        let mut seen = watcher.next().await?;
        loop {
            let at = Instant::now() + self.default_deadline;
            match self.watched(wanted, &seen, at).await {
                Ok(decided) => return Some(Ok(watch_response(&seen, decided.as_ref()))),
                Err(error) if passes(&error) => {}
                Err(error) => return Some(Err(error)),
            }
            tokio::select! {
                () = sleep(WATCH_RETRY.mul_f64(rand::random_range(0.8..=1.2))) => {}
                newer = watcher.next() => seen = newer?,
            }
        }
    }

    async fn watched(
        &self,
        wanted: &Wanted,
        seen: &Seen,
        at: Instant,
    ) -> Result<Option<Decided>, Error> {
        let Some(consumer_id) = wanted.consumer_id.clone() else {
            return Ok(None);
        };
        let query = Query {
            consumer_id,
            context: Arc::new(self.sets.context(&seen.state)),
            num_results: self.sets.num_results(0),
            refinement: self.sets.refinement(None),
        };
        self.sets.decide(query, at).await.map(Some)
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
        state: Some(convert::event_state(seen)),
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
