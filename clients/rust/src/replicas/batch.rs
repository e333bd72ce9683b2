//! One batch, asked of several replicas: each consumer of the one that they belong to, and of the
//! next when that one is not there. What comes back reads as one server's answer. How long it may
//! take is the caller's business: dropping the stream ends it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use async_stream::stream;
use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll},
};
use tokio::time::Instant;
use tonic::{
    GrpcMethod, Request, Response, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    metadata::{Ascii, MetadataValue},
};
use tonic_prost::{ProstCodec, prost::Message};
use touchline_auth::caller::CallerChannel;
use touchline_proto::{
    received,
    v1::{self, BatchGetComponentsRequest, ConsumerAnswer, consumer_answer::Answer},
};

use super::{Replica, Replicas};
use crate::error::fails_over;

/// Largest message of an answer: a thousand sets with the catalog's attributes stay well below.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A part of the answers: the messages that are read as such, decoded more or less.
pub trait Answers: Message + Default + Send + 'static {
    /// The consumers answered by this part.
    fn answers(&mut self) -> &mut Vec<ConsumerAnswer>;
    /// How many component sets came with it.
    fn sets(&self) -> usize;
}

impl Answers for v1::BatchGetComponentsResponse {
    fn answers(&mut self) -> &mut Vec<ConsumerAnswer> {
        &mut self.answers
    }

    fn sets(&self) -> usize {
        self.component_sets.len()
    }
}

impl Answers for received::BatchGetComponentsResponse {
    fn answers(&mut self) -> &mut Vec<ConsumerAnswer> {
        &mut self.answers
    }

    fn sets(&self) -> usize {
        self.component_sets.len()
    }
}

/// A part, as one replica gave it.
struct Part<M> {
    call: Arc<Call>,
    message: M,
}

/// One call to one replica, by the places of its consumers in the batch.
struct Call {
    number: u32,
    consumers: Vec<u32>,
}

/// Sets limits and compression of a call.
pub type Configure = fn(Grpc<CallerChannel>) -> Grpc<CallerChannel>;

/// What is asked.
struct Question {
    replicas: Replicas,
    configure: Configure,
    consumer_ids: Vec<String>,
    /// The request, without consumers.
    request: BatchGetComponentsRequest,
    deadline: Instant,
    traceparent: Option<MetadataValue<Ascii>>,
    /// How many calls were made.
    calls: AtomicU32,
}

/// Asks for a batch. The answers name consumers and sets as if one server had given them; each
/// consumer is answered at most once. An error is the last item, and comes after all that other
/// replicas have to say: who was not answered by then can be asked for again. Without consumers
/// nothing is asked. `traceparent` is where in a trace the question belongs, as W3C Trace Context writes
/// it; the replicas are told.
pub fn batch<M: Answers>(
    replicas: Replicas,
    configure: Configure,
    mut request: BatchGetComponentsRequest,
    deadline: Instant,
    traceparent: Option<String>,
) -> BoxStream<'static, Result<M, Status>> {
    let consumer_ids = std::mem::take(&mut request.consumer_ids);
    let everybody = (0..u32::try_from(consumer_ids.len()).unwrap_or(u32::MAX)).collect();
    let question = Arc::new(Question {
        replicas,
        configure,
        consumer_ids,
        request,
        deadline,
        traceparent: traceparent.and_then(|place| place.parse().ok()),
        calls: AtomicU32::new(0),
    });
    stream! {
        let mut numbers = Numbers::default();
        let mut failed = None;
        let mut parts = ask(question, everybody, Vec::new(), None);
        while let Some(part) = parts.next().await {
            match part {
                Ok(part) => yield Ok(numbers.of(part)),
                Err(status) => {
                    failed.get_or_insert(status);
                }
            }
        }
        if let Some(status) = failed {
            yield Err(status);
        }
    }
    .boxed()
}

/// Asks for these consumers, of the replicas that were not tried; `failed` is why those are.
fn ask<M: Answers>(
    question: Arc<Question>,
    consumers: Vec<u32>,
    tried: Vec<Replica>,
    failed: Option<Status>,
) -> BoxStream<'static, Result<Part<M>, Status>> {
    stream! {
        let ids = &question.consumer_ids;
        let named = consumers.iter().map(|place| (*place, ids[*place as usize].as_str()));
        let groups = question.replicas.split(named, &tried).await;
        if groups.is_empty() && let Some(failed) = failed {
            yield Err(failed);
        }
        let mut calls: SelectAll<_> = groups
            .into_iter()
            .map(|(replica, consumers)| call(question.clone(), replica, consumers, tried.clone()))
            .collect();
        while let Some(part) = calls.next().await {
            yield part;
        }
    }
    .boxed()
}

/// Asks one replica, and others for whom it does not answer.
fn call<M: Answers>(
    question: Arc<Question>,
    replica: Replica,
    consumers: Vec<u32>,
    mut tried: Vec<Replica>,
) -> BoxStream<'static, Result<Part<M>, Status>> {
    stream! {
        let number = question.calls.fetch_add(1, Relaxed);
        let call = Arc::new(Call { number, consumers });
        let mut open: Vec<bool> = vec![true; call.consumers.len()];
        let answered = stream_of::<M>(question.configure, &replica, question.request_of(&call));
        let failed = match answered.await {
            Err(status) => status,
            Ok(answer) => {
                let mut messages = answer.into_inner();
                loop {
                    match messages.message().await {
                        Ok(Some(mut message)) => {
                            for answer in message.answers() {
                                if let Some(open) = open.get_mut(answer.consumer_index as usize) {
                                    *open = false;
                                }
                            }
                            let call = call.clone();
                            yield Ok(Part { call, message });
                        }
                        Ok(None) => return,
                        Err(status) => break status,
                    }
                }
            }
        };
        if !fails_over(&failed) {
            yield Err(failed);
            return;
        }
        replica.failed();
        tried.push(replica);
        let left = call.consumers.iter().zip(open);
        let left: Vec<u32> = left.filter(|(_, open)| *open).map(|(place, _)| *place).collect();
        let mut elsewhere = ask(question, left, tried, Some(failed));
        while let Some(part) = elsewhere.next().await {
            yield part;
        }
    }
    .boxed()
}

/// The call as the generated client makes it, with answers of another type.
async fn stream_of<M: Answers>(
    configure: Configure,
    replica: &Replica,
    mut request: Request<BatchGetComponentsRequest>,
) -> Result<Response<Streaming<M>>, Status> {
    let mut client = Grpc::new(replica.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    client = configure(client);
    client.ready().await.map_err(|error| {
        let error: Box<dyn std::error::Error + Send + Sync> = error.into();
        Status::from_error(error)
    })?;
    let (service, method) = ("touchline.v1.ComponentService", "BatchGetComponents");
    request
        .extensions_mut()
        .insert(GrpcMethod::new(service, method));
    let path = PathAndQuery::from_static("/touchline.v1.ComponentService/BatchGetComponents");
    let codec: ProstCodec<BatchGetComponentsRequest, M> = ProstCodec::default();
    client.server_streaming(request, path, codec).await
}

impl Question {
    fn request_of(&self, call: &Call) -> Request<BatchGetComponentsRequest> {
        let ids = &self.consumer_ids;
        let mut request = Request::new(BatchGetComponentsRequest {
            consumer_ids: call
                .consumers
                .iter()
                .map(|place| ids[*place as usize].clone())
                .collect(),
            ..self.request.clone()
        });
        request.set_timeout(self.deadline.saturating_duration_since(Instant::now()));
        if let Some(traceparent) = &self.traceparent {
            let metadata = request.metadata_mut();
            metadata.insert("traceparent", traceparent.clone());
        }
        request
    }
}

/// The indexes of the sets of all calls, as one sequence.
#[derive(Default)]
struct Numbers {
    /// By call and its own index.
    by_call: HashMap<u32, Vec<u32>>,
    next: u32,
}

impl Numbers {
    /// The message, with consumers and sets named as in the whole batch.
    fn of<M: Answers>(&mut self, part: Part<M>) -> M {
        let Part { call, mut message } = part;
        let sets = self.by_call.entry(call.number).or_default();
        for _ in 0..message.sets() {
            sets.push(self.next);
            self.next += 1;
        }
        for answer in message.answers() {
            // What was never asked or never sent stays so: it is for the reader to say.
            let place = call.consumers.get(answer.consumer_index as usize);
            answer.consumer_index = place.copied().unwrap_or(u32::MAX);
            if let Some(Answer::ComponentSetIndex(index)) = &mut answer.answer {
                *index = sets.get(*index as usize).copied().unwrap_or(u32::MAX);
            }
        }
        message
    }
}
