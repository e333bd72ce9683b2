//! The calls: one method each, with a deadline. Does not convert messages into types of its own;
//! a field that is new in the proto is there for the caller at once.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use async_stream::try_stream;
use futures::{Stream, StreamExt, stream::BoxStream};
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status, codec::CompressionEncoding, transport::Endpoint};
use touchline_auth::caller::{Caller, CallerChannel};
use touchline_proto::v1::{
    self as proto, component_service_client::ComponentServiceClient, consumer_answer::Answer,
    event_service_client::EventServiceClient, feedback_service_client::FeedbackServiceClient,
    get_components_request,
};

use crate::{
    Error, Watched,
    error::{fails_over, never_began},
    replicas::{self, Replica, Replicas, Resolve},
    watch,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the client waits for an answer before the call is given up, here and at the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Every call with one answer; default 5 s.
    pub call: Duration,
    /// The whole of a batch; default 30 s.
    pub batch: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(5),
            batch: Duration::from_secs(30),
        }
    }
}

/// What the recommender is asked with, apart from the consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Situation {
    /// The newest state of this event.
    Event(String),
    /// A context, by context key, such as `MATCH_EVENT`: `GOAL`.
    Context(BTreeMap<String, String>),
}

/// The answer for one consumer of a batch.
#[derive(Debug)]
pub struct BatchAnswer {
    /// Place of the consumer in the call's `consumer_ids`.
    pub consumer_index: usize,
    /// What the consumer is shown (equal sets are one), or why there is nothing to show.
    pub component_set: Result<Arc<proto::ComponentSet>, Error>,
    /// To be named with interactions; empty when the recommender gave none.
    pub recommendation_id: String,
}

/// The consumers of many that one replica is asked for, and how it asks its recommender.
#[derive(Debug, Clone)]
pub struct Share {
    /// How many of the consumers belong to it.
    pub consumers: usize,
    /// Its way to the recommender, the budget among the rest; `None` when that runs in its own
    /// process.
    pub recommender: Option<proto::RecommenderState>,
}

/// Connections to Touchline's server, made when the first call needs them and again when they broke:
/// one to each replica behind the name. What concerns a consumer is asked of the replica that the
/// consumer belongs to, and of the next one when that is not there. Cheap to clone: clones share the
/// connections.
#[derive(Debug, Clone)]
pub struct Client {
    replicas: Replicas,
    events: EventServiceClient<CallerChannel>,
    deadlines: Deadlines,
}

impl Client {
    /// A client of the server at `endpoint`, such as `http://127.0.0.1:50051`; `https://` trusts the
    /// roots of the operating system. Must be called in a tokio runtime; makes no connection yet.
    /// [`Error::Endpoint`] if it is no address.
    pub fn connect(endpoint: &str) -> Result<Self, Error> {
        Self::connect_as(endpoint, Caller::default())
    }

    /// The same, whose calls present a token or a certificate.
    pub fn connect_as(endpoint: &str, caller: Caller) -> Result<Self, Error> {
        let replicas = Replicas::new(endpoint, configure, caller);
        replicas.map(Self::of).map_err(|source| Error::Endpoint {
            endpoint: endpoint.to_owned(),
            source,
        })
    }

    /// A client of the replicas that `resolve` names, which are called by the name in `endpoint`: for
    /// who knows them by other means than their host name.
    pub fn connect_resolving(endpoint: &str, resolve: Resolve) -> Result<Self, Error> {
        let replicas = Replicas::resolving(endpoint, configure, Caller::default(), resolve);
        replicas.map(Self::of).map_err(|source| Error::Endpoint {
            endpoint: endpoint.to_owned(),
            source,
        })
    }

    fn of(replicas: Replicas) -> Self {
        Self {
            events: EventServiceClient::new(replicas.any())
                .accept_compressed(CompressionEncoding::Gzip),
            replicas,
            deadlines: Deadlines::default(),
        }
    }

    /// The same client with other deadlines.
    #[must_use]
    pub fn with_deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// What a consumer is shown. [`Error::NotFound`] when the event has no row.
    pub async fn get_components(
        &self,
        consumer_id: &str,
        situation: Situation,
    ) -> Result<proto::ComponentSet, Error> {
        use get_components_request::Situation as Asked;
        let request = proto::GetComponentsRequest {
            consumer_id: consumer_id.to_owned(),
            situation: Some(match situation {
                Situation::Event(event_id) => Asked::EventId(event_id),
                Situation::Context(values) => Asked::Context(proto::Context { values }),
            }),
            ..proto::GetComponentsRequest::default()
        };
        let answer = self.call_replica(consumer_id, request, fails_over, |channel, request| {
            let mut components = components(channel);
            async move { components.get_components(request).await }
        });
        let set = answer.await?.component_set;
        set.ok_or_else(|| Error::unreadable("no component set"))
    }

    /// How many consumers, of these, belong to which replica, and what that replica's way to the
    /// recommender is doing. Each replica is asked for the set of one of its consumers in this
    /// context, by context key: a question that its cache may answer and that counts against no cap.
    /// Replicas that none of the consumers belongs to are not asked.
    pub async fn shares(
        &self,
        context: BTreeMap<String, String>,
        consumer_ids: &[&str],
    ) -> Result<Vec<Share>, Error> {
        use get_components_request::Situation::Context;
        let ask = async |replica: &Replica, consumer_id: &str| {
            let message = proto::GetComponentsRequest {
                consumer_id: consumer_id.to_owned(),
                situation: Some(Context(proto::Context {
                    values: context.clone(),
                })),
                explain: true,
                ..proto::GetComponentsRequest::default()
            };
            let mut components = components(replica.channel());
            timed(self.deadlines.call, message, async |request| {
                components.get_components(request).await
            })
            .await
        };
        let mut tried: Vec<Replica> = Vec::new();
        let mut failed = Status::unavailable("no replica is known");
        // Each round but the last finds a replica gone, whose consumers others have then.
        loop {
            let everybody = (0..).zip(consumer_ids.iter().copied());
            let groups = self.replicas.split(everybody, &tried).await;
            if groups.is_empty() && !consumer_ids.is_empty() {
                return Err(failed.into());
            }
            let (mut shares, known) = (Vec::new(), tried.len());
            for (replica, places) in groups {
                match ask(&replica, consumer_ids[places[0] as usize]).await {
                    Ok(answer) => shares.push(Share {
                        consumers: places.len(),
                        recommender: answer.explanation.and_then(|it| it.recommender),
                    }),
                    Err(status) if fails_over(&status) => {
                        replica.failed();
                        tried.push(replica);
                        failed = status;
                    }
                    Err(status) => return Err(status.into()),
                }
            }
            if tried.len() == known {
                return Ok(shares);
            }
        }
    }

    /// What each of many consumers (at most 1,000) is shown in a state of an event, as the answers
    /// come in. One consumer's error is its own answer; an error of the stream ends it.
    pub fn batch(
        &self,
        state: proto::EventState,
        consumer_ids: Vec<String>,
    ) -> impl Stream<Item = Result<BatchAnswer, Error>> + Send + use<> {
        self.batch_for(proto::Purpose::Unspecified, state, consumer_ids)
    }

    /// The same, for another purpose than a live push: it decides who is served first when the
    /// recommender's budget is short.
    pub fn batch_for(
        &self,
        purpose: proto::Purpose,
        state: proto::EventState,
        consumer_ids: Vec<String>,
    ) -> impl Stream<Item = Result<BatchAnswer, Error>> + Send + use<> {
        let deadline = self.deadlines.batch;
        let request = proto::BatchGetComponentsRequest {
            state: Some(state),
            consumer_ids,
            purpose: purpose.into(),
            ..proto::BatchGetComponentsRequest::default()
        };
        let end = Instant::now() + deadline;
        let compressed: replicas::ConfigureCall =
            |call| call.accept_compressed(CompressionEncoding::Gzip);
        let mut parts = replicas::batch::<proto::BatchGetComponentsResponse>(
            self.replicas.clone(),
            compressed,
            request,
            end,
            None,
        );
        let answers = try_stream! {
            let mut sets: Vec<Arc<proto::ComponentSet>> = Vec::new();
            while let Some(part) = parts.next().await {
                let part = part?;
                sets.extend(part.component_sets.into_iter().map(Arc::new));
                for answer in part.answers {
                    yield batch_answer(answer, &sets)?;
                }
            }
        };
        until(answers, deadline)
    }

    /// The newest state of an event and, with a consumer, what that consumer is shown: the current
    /// ones at once, then each change, until the event's row is deleted: then the stream ends. When
    /// the connection breaks the stream says so and goes on with a new one; what was shown already
    /// is not sent again. An error is the last item: asking again would not help.
    pub fn watch(
        &self,
        event_id: &str,
        consumer_id: Option<&str>,
    ) -> BoxStream<'static, Result<Watched, Error>> {
        watch::watch(
            self.replicas.clone(),
            event_id.to_owned(),
            consumer_id.unwrap_or_default().to_owned(),
        )
        .boxed()
    }

    /// Writes an event's row: replaces it, or with `merge` sets the attributes given and keeps the
    /// others. Returns the state after the write.
    pub async fn put_event(
        &self,
        event: proto::EventState,
        merge: bool,
    ) -> Result<proto::EventState, Error> {
        let request = proto::PutEventRequest {
            event: Some(event),
            merge,
        };
        let mut events = self.events.clone();
        let answer = self.call(request, async |request| events.put_event(request).await);
        let state = answer.await?.state;
        state.ok_or_else(|| Error::unreadable("no event state"))
    }

    /// The newest state of an event. [`Error::NotFound`] when it has no row.
    pub async fn get_event(&self, event_id: &str) -> Result<proto::EventState, Error> {
        let request = proto::GetEventRequest {
            event_id: event_id.to_owned(),
        };
        let mut events = self.events.clone();
        let answer = self.call(request, async |request| events.get_event(request).await);
        let state = answer.await?.state;
        state.ok_or_else(|| Error::unreadable("no event state"))
    }

    /// All events, page by page as the stream is read, in no particular order.
    pub fn list_events(&self) -> BoxStream<'static, Result<proto::EventState, Error>> {
        let client = self.clone();
        let states = try_stream! {
            let mut page_token = String::new();
            loop {
                let request = proto::ListEventsRequest { page_size: 0, page_token };
                let mut events = client.events.clone();
                let page = client
                    .call(request, async |request| events.list_events(request).await)
                    .await?;
                for state in page.states {
                    yield state;
                }
                if page.next_page_token.is_empty() {
                    break;
                }
                page_token = page.next_page_token;
            }
        };
        states.boxed()
    }

    /// Deletes an event's row and so ends the event. [`Error::NotFound`] when it has no row.
    pub async fn delete_event(&self, event_id: &str) -> Result<(), Error> {
        let request = proto::DeleteEventRequest {
            event_id: event_id.to_owned(),
        };
        let mut events = self.events.clone();
        self.call(request, async |request| events.delete_event(request).await)
            .await?;
        Ok(())
    }

    /// Records what consumers did, 1 to 500 interactions. On [`Error::Invalid`] none was recorded.
    /// They go to the replica of the first one's consumer; a call for each consumer reaches each
    /// one's own.
    pub async fn record_interactions(
        &self,
        interactions: Vec<proto::Interaction>,
    ) -> Result<proto::RecordInteractionsResponse, Error> {
        let first = interactions.first();
        let consumer_id = first
            .map_or("", |first| first.consumer_id.as_str())
            .to_owned();
        let request = proto::RecordInteractionsRequest { interactions };
        self.call_replica(&consumer_id, request, never_began, |channel, request| {
            let mut feedback = FeedbackServiceClient::new(channel);
            async move { feedback.record_interactions(request).await }
        })
        .await
    }

    /// One call to a consumer's replica, and to the next ones when `passes_on` says so of what an
    /// earlier one answered, all under one deadline.
    async fn call_replica<Q: Clone, A, F>(
        &self,
        consumer_id: &str,
        message: Q,
        passes_on: fn(&Status) -> bool,
        ask: impl Fn(CallerChannel, Request<Q>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let end = Instant::now() + self.deadlines.call;
        let asking = async {
            let mut failed = Status::unavailable("no replica is known");
            for replica in self.replicas.of(consumer_id).await {
                let mut request = Request::new(message.clone());
                request.set_timeout(end.saturating_duration_since(Instant::now()));
                match ask(replica.channel(), request).await {
                    Err(status) if passes_on(&status) => {
                        replica.failed();
                        failed = status;
                    }
                    answer => return answer,
                }
            }
            Err(failed)
        };
        match timeout_at(end, asking).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(timed_out()),
        }
    }

    /// One call with one answer, under the deadline.
    async fn call<Q, A, F>(&self, message: Q, ask: impl FnOnce(Request<Q>) -> F) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        Ok(timed(self.deadlines.call, message, ask).await?)
    }
}

/// Makes a call. The deadline travels with the request, and is also kept here, for a server that never
/// answers.
pub(crate) async fn timed<Q, A, F>(
    deadline: Duration,
    message: Q,
    ask: impl FnOnce(Request<Q>) -> F,
) -> Result<A, Status>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    match tokio::time::timeout(deadline, ask(request)).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(too_late()),
    }
}

pub(crate) fn configure(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .tcp_nodelay(true)
}

pub(crate) fn components(channel: CallerChannel) -> ComponentServiceClient<CallerChannel> {
    ComponentServiceClient::new(channel).accept_compressed(CompressionEncoding::Gzip)
}

fn batch_answer(
    answer: proto::ConsumerAnswer,
    sets: &[Arc<proto::ComponentSet>],
) -> Result<BatchAnswer, Error> {
    let component_set = match answer.answer {
        Some(Answer::ComponentSetIndex(index)) => Ok(sets
            .get(index as usize)
            .ok_or_else(|| Error::unreadable("a component set that was not sent"))?
            .clone()),
        Some(Answer::Error(error)) => {
            Err(Status::new(tonic::Code::from_i32(error.code), error.message).into())
        }
        None => return Err(Error::unreadable("a consumer without an answer")),
    };
    Ok(BatchAnswer {
        consumer_index: answer.consumer_index as usize,
        component_set,
        recommendation_id: answer.recommendation_id,
    })
}

/// Ends a stream with [`Error::TimedOut`] when it takes longer than `deadline` altogether.
fn until<T: Send>(
    stream: impl Stream<Item = Result<T, Error>> + Send,
    deadline: Duration,
) -> impl Stream<Item = Result<T, Error>> + Send {
    try_stream! {
        let end = tokio::time::Instant::now() + deadline;
        futures::pin_mut!(stream);
        while let Some(item) = tokio::time::timeout_at(end, stream.next())
            .await
            .map_err(|_| timed_out())?
        {
            yield item?;
        }
    }
}

fn timed_out() -> Error {
    Error::TimedOut(too_late())
}

fn too_late() -> Status {
    Status::deadline_exceeded("the client's deadline")
}
