//! Asks the server for component sets over gRPC. Does not retry: who asks knows how long the answer
//! is wanted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};
use touchline_proto::v1::{
    BatchGetComponentsRequest, BatchGetComponentsResponse, EventState as ProtoState, Purpose,
    component_service_client::ComponentServiceClient, consumer_answer,
};
use touchline_store::{
    event::{EventState, Version},
    ids::{ConsumerId, EventId},
    position::Position,
};

use crate::{config::ConfigError, convert::state_to_proto, messages::EncodedSet};

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
}

impl Shown {
    /// Takes a state and computes what belongs to it.
    pub fn new(state: EventState, position: Option<Position>) -> Self {
        let version = state.version();
        Self {
            event_id: state.event_id.clone(),
            request: state_to_proto(&state, version.as_str(), position.as_ref()),
            version,
            position,
            state,
        }
    }
}

/// The server, as it answers for many consumers at once.
#[derive(Debug, Clone)]
pub struct Components {
    client: ComponentServiceClient<Channel>,
    timeout: Duration,
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
#[derive(Debug)]
pub struct Answers {
    parts: Streaming<BatchGetComponentsResponse>,
    sets: Vec<Arc<EncodedSet>>,
    shown: Arc<Shown>,
    deadline: Instant,
}

impl Components {
    /// A client that connects when it is first needed, and again whenever the connection is lost.
    pub fn new(server: &str, timeout: Duration) -> Result<Self, ConfigError> {
        let endpoint =
            Endpoint::from_shared(server.to_owned()).map_err(|error| ConfigError::Flag {
                flag: "--server",
                value: server.to_owned(),
                accepted: error.to_string(),
            })?;
        let channel = endpoint
            .connect_timeout(Duration::from_secs(1))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .connect_lazy();
        // A thousand sets with the catalog's attributes stay well below this.
        let client = ComponentServiceClient::new(channel).max_decoding_message_size(16 << 20);
        Ok(Self { client, timeout })
    }

    /// Asks for the sets of these consumers in this state.
    pub async fn ask(
        &self,
        shown: &Arc<Shown>,
        consumers: &[ConsumerId],
        deadline: Instant,
    ) -> Result<Answers, Status> {
        let deadline = deadline.min(Instant::now() + self.timeout);
        let mut request = tonic::Request::new(BatchGetComponentsRequest {
            state: Some(shown.request.clone()),
            consumer_ids: consumers
                .iter()
                .map(|consumer| consumer.as_str().to_owned())
                .collect(),
            purpose: Purpose::Push.into(),
            ..BatchGetComponentsRequest::default()
        });
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        let mut client = self.client.clone();
        let response = until(deadline, client.batch_get_components(request)).await?;
        Ok(Answers {
            parts: response.into_inner(),
            sets: Vec::new(),
            shown: shown.clone(),
            deadline,
        })
    }

    /// The set of one consumer in this state.
    pub async fn one(
        &self,
        shown: &Arc<Shown>,
        consumer: &ConsumerId,
    ) -> Result<(Arc<EncodedSet>, String), Status> {
        let deadline = Instant::now() + self.timeout;
        let consumers = std::slice::from_ref(consumer);
        let mut answers = self.ask(shown, consumers, deadline).await?;
        while let Some(part) = answers.next().await? {
            if let Some(answer) = part.into_iter().find(|answer| answer.index == 0) {
                return answer.set;
            }
        }
        Err(Status::unavailable("the server gave no answer"))
    }
}

impl Answers {
    /// The next answers; `None` when the server has said all.
    pub async fn next(&mut self) -> Result<Option<Vec<Answer>>, Status> {
        let Some(part) = until(self.deadline, self.parts.message()).await? else {
            return Ok(None);
        };
        for set in part.component_sets {
            let shown = &self.shown;
            let set = EncodedSet::new(
                set,
                &shown.event_id,
                &shown.version,
                shown.position.as_ref(),
            );
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

async fn until<T>(
    deadline: Instant,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout_at(deadline.into(), call).await {
        Ok(result) => result,
        Err(_) => Err(Status::deadline_exceeded(
            "the server did not answer in time",
        )),
    }
}
