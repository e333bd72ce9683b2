//! A stand-in for the server: gives each consumer a set of its own, made of its name and the event's
//! state, and fails, waits or counts as it is told.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};
use touchline_proto::v1::{
    BatchGetComponentsRequest, BatchGetComponentsResponse, Component, ComponentSet, ConsumerAnswer,
    ConsumerError, Freshness, GetComponentsRequest, GetComponentsResponse, Origin,
    WatchEventRequest, WatchEventResponse,
    component_service_server::{ComponentService, ComponentServiceServer},
    consumer_answer::Answer,
};

/// Consumers with these names have no answer.
pub(crate) const UNKNOWN: &str = "unknown-consumer";

/// Consumers with these names have no answer for now while the server is flaky.
pub(crate) const FLAKY: &str = "flaky-consumer";

pub(crate) struct StubServer {
    address: SocketAddr,
    stub: Stub,
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Stub {
    /// Requests to come that fail with UNAVAILABLE.
    failures: Arc<AtomicUsize>,
    flaky: Arc<AtomicBool>,
    /// Answers wait while this says so.
    held: Arc<watch::Sender<bool>>,
    /// The states asked for and how many consumers were in each question.
    asked: Arc<Mutex<Vec<(String, usize)>>>,
}

impl StubServer {
    pub(crate) async fn start() -> Self {
        Self::start_at(super::loopback()).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stub = Stub {
            failures: Arc::default(),
            flaky: Arc::default(),
            held: Arc::new(watch::Sender::new(false)),
            asked: Arc::default(),
        };
        let mut serving = JoinSet::new();
        let service = ComponentServiceServer::new(stub.clone());
        serving.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpIncoming::from(listener))
                .await
                .unwrap();
        });
        Self {
            address,
            stub,
            _serving: serving,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next requests fail.
    pub(crate) fn fail(&self, requests: usize) {
        self.stub.failures.store(requests, Ordering::SeqCst);
    }

    /// Some consumers have no answer for now.
    pub(crate) fn set_flaky(&self, flaky: bool) {
        self.stub.flaky.store(flaky, Ordering::SeqCst);
    }

    /// Answers wait until this is taken back.
    pub(crate) fn hold(&self, held: bool) {
        self.stub.held.send_replace(held);
    }

    /// The states that were asked for, with the number of consumers in each question.
    pub(crate) fn asked(&self) -> Vec<(String, usize)> {
        self.stub.asked.lock().unwrap().clone()
    }
}

fn answer(request: &BatchGetComponentsRequest, flaky: bool) -> BatchGetComponentsResponse {
    let state = request.state.as_ref().unwrap();
    let match_event = state
        .attributes
        .get("match_event")
        .map_or("", String::as_str);
    let mut part = BatchGetComponentsResponse::default();
    let mut sets: HashMap<&str, u32> = HashMap::new();
    let error = |code: tonic::Code| {
        Answer::Error(ConsumerError {
            code: code.into(),
            message: "no answer".to_owned(),
        })
    };
    for (index, consumer) in request.consumer_ids.iter().enumerate() {
        let answer = if consumer.starts_with(UNKNOWN) {
            error(tonic::Code::NotFound)
        } else if consumer.starts_with(FLAKY) && flaky {
            error(tonic::Code::Unavailable)
        } else {
            let set = *sets.entry(consumer).or_insert_with(|| {
                part.component_sets.push(set(consumer, match_event));
                part.component_sets.len() as u32 - 1
            });
            Answer::ComponentSetIndex(set)
        };
        part.answers.push(ConsumerAnswer {
            consumer_index: index as u32,
            answer: Some(answer),
            recommendation_id: format!("recommendation-{consumer}"),
        });
    }
    part
}

fn set(consumer: &str, match_event: &str) -> ComponentSet {
    let component = |item_type: &str, item_id: String, rank| Component {
        item_type: item_type.to_owned(),
        item_id,
        rank,
        score: 0.5,
        ..Component::default()
    };
    ComponentSet {
        set_id: format!("{consumer}:{match_event}"),
        components: vec![
            component("PLAYER", format!("{consumer}:{match_event}"), 1),
            component("GENERAL", format!("all:{match_event}"), 2),
        ],
        origin: Origin::Embedded.into(),
        freshness: Freshness::Live.into(),
        ..ComponentSet::default()
    }
}

#[tonic::async_trait]
impl ComponentService for Stub {
    type BatchGetComponentsStream = ReceiverStream<Result<BatchGetComponentsResponse, Status>>;
    type WatchEventStream = ReceiverStream<Result<WatchEventResponse, Status>>;

    async fn get_components(
        &self,
        _: Request<GetComponentsRequest>,
    ) -> Result<Response<GetComponentsResponse>, Status> {
        Err(Status::unimplemented("the adapter asks in batches"))
    }

    async fn batch_get_components(
        &self,
        request: Request<BatchGetComponentsRequest>,
    ) -> Result<Response<Self::BatchGetComponentsStream>, Status> {
        let request = request.into_inner();
        let state = request.state.as_ref().unwrap();
        let match_event = state.attributes.get("match_event").cloned();
        self.asked
            .lock()
            .unwrap()
            .push((match_event.unwrap_or_default(), request.consumer_ids.len()));
        let fails = |left: usize| left.checked_sub(1);
        let (ordering, failures) = (Ordering::SeqCst, &self.failures);
        if failures.fetch_update(ordering, ordering, fails).is_ok() {
            return Err(Status::unavailable("told to fail"));
        }
        let mut held = self.held.subscribe();
        held.wait_for(|held| !held).await.unwrap();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender
            .try_send(Ok(answer(&request, self.flaky.load(Ordering::SeqCst))))
            .unwrap();
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn watch_event(
        &self,
        _: Request<WatchEventRequest>,
    ) -> Result<Response<Self::WatchEventStream>, Status> {
        Err(Status::unimplemented("the adapter does not watch"))
    }
}
