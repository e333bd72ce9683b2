//! Asks the server for component sets over gRPC: each consumer's of the replica that the consumer
//! belongs to, so that caches and caps hold across replicas. Does not retry: who asks knows how long
//! the answer is wanted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::BoxStream};
use tonic::{Code, Status, transport::Endpoint};
use touchline_auth::caller::Caller;
use touchline_client::replicas::{self, Replicas};
use touchline_proto::{
    received::BatchGetComponentsResponse,
    v1::{BatchGetComponentsRequest, EventState as ProtoState, Purpose, consumer_answer},
};
use touchline_runtime::traces::{Kind, Place, Span};
use touchline_store::{
    event::{EventState, Version},
    ids::{ConsumerId, EventId},
    position::Position,
};

use crate::{
    config::{ConfigError, LookupArgs},
    convert::state_to_proto,
    messages::{EncodedSet, Fragments, StateText},
};

/// One state of one event, to be shown.
#[derive(Debug)]
pub struct Shown {
    /// The event.
    pub event_id: EventId,
    /// Its version.
    pub version: Version,
    /// Where it stands in the event's history.
    pub position: Option<Position>,
    /// Whom it reaches, and what the server is asked with.
    pub state: EventState,
    request: ProtoState,
    text: Arc<StateText>,
}

impl Shown {
    /// Takes a state and computes what belongs to it.
    pub fn new(state: EventState, position: Option<Position>) -> Self {
        let version = state.version();
        Self {
            event_id: state.event_id.clone(),
            request: state_to_proto(&state, version.as_str(), position.as_ref()),
            text: Arc::new(StateText::new(&state.event_id, &version, position.as_ref())),
            version,
            position,
            state,
        }
    }
}

/// The server and its replicas, as they answer for many consumers at once.
#[derive(Debug, Clone)]
pub struct Components {
    replicas: Replicas,
    timeout: Duration,
    fragments: Arc<Fragments>,
}

/// One consumer's answer.
#[derive(Debug)]
pub struct Answer {
    /// Place of the consumer in the question.
    pub index: usize,
    /// The set and the recommendation id, or why there is none.
    pub set: Result<(Arc<EncodedSet>, String), Status>,
}

/// The answers to one question as they come.
pub struct Answers {
    parts: BoxStream<'static, Result<BatchGetComponentsResponse, Status>>,
    sets: Vec<Arc<EncodedSet>>,
    fragments: Arc<Fragments>,
    shown: Arc<Shown>,
    deadline: Instant,
    /// From the question to the last answer.
    span: Span,
    answered: usize,
}

impl Components {
    /// Connects when it is first needed, and again whenever a connection is lost.
    pub fn new(lookup: &LookupArgs, caller: Caller) -> Result<Self, ConfigError> {
        let server = &lookup.server;
        let replicas =
            Replicas::new(server, configure, caller).map_err(|error| ConfigError::Flag {
                flag: "--server",
                value: server.clone(),
                accepted: error.to_string(),
            })?;
        Ok(Self::of(replicas, lookup.server_timeout))
    }

    /// Asks these replicas, however they were found.
    pub fn of(replicas: Replicas, timeout: Duration) -> Self {
        Self {
            replicas,
            timeout,
            fragments: Arc::default(),
        }
    }

    /// Asks for the sets of these consumers in this state. Nothing is asked before the answers are
    /// read. The server is told `place`, so that what it does is part of the same trace.
    pub fn ask(
        &self,
        shown: &Arc<Shown>,
        consumers: &[ConsumerId],
        deadline: Instant,
        place: &Place,
    ) -> Answers {
        let mut span = place.begin("lookup", Kind::Client);
        span.count("touchline.consumers", consumers.len());
        let deadline = deadline.min(Instant::now() + self.timeout);
        let request = BatchGetComponentsRequest {
            state: Some(shown.request.clone()),
            consumer_ids: consumers
                .iter()
                .map(|consumer| consumer.as_str().to_owned())
                .collect(),
            purpose: Purpose::Push.into(),
            ..BatchGetComponentsRequest::default()
        };
        let replicas = self.replicas.clone();
        Answers {
            // Uncompressed: the server is near, and each byte would be looked at once more.
            parts: replicas::batch(
                replicas,
                |call| call,
                request,
                deadline.into(),
                span.place().traceparent(),
            ),
            fragments: self.fragments.clone(),
            sets: Vec::new(),
            shown: shown.clone(),
            deadline,
            span,
            answered: 0,
        }
    }

    /// One request's time.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

impl Answers {
    /// The next answers; `None` when the server has said all.
    pub async fn next(&mut self) -> Result<Option<Vec<Answer>>, Status> {
        let part = self.part().await;
        match &part {
            Ok(Some(part)) => self.answered += part.len(),
            Ok(None) => {}
            Err(status) => self.span.fail(status.code().description()),
        }
        part
    }

    async fn part(&mut self) -> Result<Option<Vec<Answer>>, Status> {
        let part = tokio::time::timeout_at(self.deadline.into(), self.parts.next()).await;
        let part =
            part.map_err(|_| Status::deadline_exceeded("the server did not answer in time"))?;
        let Some(part) = part.transpose()? else {
            return Ok(None);
        };
        for set in part.component_sets {
            let set = EncodedSet::new(set, &self.shown.text, &self.fragments);
            let set = set.map_err(|error| Status::internal(error.to_string()))?;
            self.sets.push(Arc::new(set));
        }
        let answers = part.answers.into_iter().map(|answer| {
            let set = match answer.answer {
                Some(consumer_answer::Answer::ComponentSetIndex(index)) => self
                    .sets
                    .get(index as usize)
                    .map(|set| (set.clone(), answer.recommendation_id))
                    .ok_or_else(|| Status::internal("the server names a set that it never sent")),
                Some(consumer_answer::Answer::Error(error)) => {
                    Err(Status::new(Code::from(error.code), error.message))
                }
                None => Err(Status::internal("the server sent an empty answer")),
            };
            Answer {
                index: answer.consumer_index as usize,
                set,
            }
        });
        Ok(Some(answers.collect()))
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.span.count("touchline.answered", self.answered);
        self.span.count("touchline.sets", self.sets.len());
    }
}

/// Whether asking again can help.
pub fn passes(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
    )
}

fn configure(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(Duration::from_secs(1))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
}
