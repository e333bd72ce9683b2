//! The client against a real gRPC server on loopback that plays a script.

#![expect(clippy::unwrap_used, reason = "what surprises a test ends it")]

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use touchline_client::{Client, Deadlines, Error, Watched, proto};
use touchline_proto::v1::{
    component_service_server::{ComponentService, ComponentServiceServer},
    consumer_answer::Answer,
    event_service_server::{EventService, EventServiceServer},
};

type WatchMessages = Vec<Result<proto::WatchEventResponse, Status>>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Plays one list of messages for each watch, in turn.
#[derive(Clone, Default)]
struct Script {
    watches: Arc<Mutex<Vec<WatchMessages>>>,
    batch: Arc<Vec<proto::BatchGetComponentsResponse>>,
    /// Whether a watch stays open after its messages.
    endless: Arc<Mutex<bool>>,
}

#[tonic::async_trait]
impl ComponentService for Script {
    async fn get_components(
        &self,
        _: Request<proto::GetComponentsRequest>,
    ) -> Result<Response<proto::GetComponentsResponse>, Status> {
        std::future::pending().await
    }

    type BatchGetComponentsStream = Answers<proto::BatchGetComponentsResponse>;

    async fn batch_get_components(
        &self,
        _: Request<proto::BatchGetComponentsRequest>,
    ) -> Result<Response<Self::BatchGetComponentsStream>, Status> {
        let parts: Vec<_> = self.batch.iter().cloned().map(Ok).collect();
        let then = match self.batch.is_empty() {
            true => stream::pending().boxed(),
            false => stream::empty().boxed(),
        };
        Ok(Response::new(stream::iter(parts).chain(then).boxed()))
    }

    type WatchEventStream = Answers<proto::WatchEventResponse>;

    async fn watch_event(
        &self,
        _: Request<proto::WatchEventRequest>,
    ) -> Result<Response<Self::WatchEventStream>, Status> {
        let messages = self.watches.lock().unwrap().remove(0);
        let then = match *self.endless.lock().unwrap() {
            true => stream::pending().boxed(),
            false => stream::empty().boxed(),
        };
        Ok(Response::new(stream::iter(messages).chain(then).boxed()))
    }
}

#[tonic::async_trait]
impl EventService for Script {
    async fn put_event(
        &self,
        _: Request<proto::PutEventRequest>,
    ) -> Result<Response<proto::PutEventResponse>, Status> {
        Ok(Response::new(proto::PutEventResponse { state: None }))
    }

    async fn get_event(
        &self,
        _: Request<proto::GetEventRequest>,
    ) -> Result<Response<proto::GetEventResponse>, Status> {
        Err(Status::not_found("event 1 has no row"))
    }

    async fn list_events(
        &self,
        request: Request<proto::ListEventsRequest>,
    ) -> Result<Response<proto::ListEventsResponse>, Status> {
        let token = request.into_inner().page_token;
        let (event_id, next) = match token.as_str() {
            "" => ("1", "second"),
            _ => ("2", ""),
        };
        Ok(Response::new(proto::ListEventsResponse {
            states: vec![proto::EventState {
                event_id: event_id.to_owned(),
                ..Default::default()
            }],
            next_page_token: next.to_owned(),
        }))
    }

    async fn delete_event(
        &self,
        _: Request<proto::DeleteEventRequest>,
    ) -> Result<Response<proto::DeleteEventResponse>, Status> {
        Err(Status::unimplemented("not in this script"))
    }
}

/// Serves a script as long as the returned tasks live.
async fn serve(script: Script) -> (Client, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        Server::builder()
            .add_service(ComponentServiceServer::new(script.clone()))
            .add_service(EventServiceServer::new(script))
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    (client(address), tasks)
}

/// Serves a script behind a proxy. Dropping the first tasks cuts the connections as a crash does: in
/// the middle, without a word.
async fn serve_through_proxy(script: Script) -> (JoinSet<()>, SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let behind = listener.local_addr().unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move {
        Server::builder()
            .add_service(ComponentServiceServer::new(script))
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = front.local_addr().unwrap();
    let mut proxy = JoinSet::new();
    proxy.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = front.accept().await {
            connections.spawn(async move {
                let mut server = TcpStream::connect(behind).await.unwrap();
                // How it ends is the test's business.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (proxy, address, server)
}

fn client(address: SocketAddr) -> Client {
    Client::connect(&format!("http://{address}")).unwrap()
}

fn watched(sequence: &str, set_id: &str) -> proto::WatchEventResponse {
    proto::WatchEventResponse {
        state: Some(proto::EventState {
            event_id: "1".to_owned(),
            version: sequence.to_owned(),
            position: Some(proto::Position {
                epoch: "e".to_owned(),
                sequence: sequence.to_owned(),
            }),
            ..Default::default()
        }),
        component_set: Some(proto::ComponentSet {
            set_id: set_id.to_owned(),
            ..Default::default()
        }),
    }
}

#[tokio::test]
async fn a_call_that_is_never_answered_ends_at_the_deadline() {
    let (client, _tasks) = serve(Script::default()).await;
    let client = client.with_deadlines(Deadlines {
        call: Duration::from_millis(50),
        batch: Duration::from_millis(50),
    });
    let situation = touchline_client::Situation::Event("1".to_owned());
    let error = client.get_components("c", situation).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut(_)), "{error:?}");

    let answers = client.batch(proto::EventState::default(), vec!["c".to_owned()]);
    let error = answers.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(matches!(error, Error::TimedOut(_)), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable_and_worth_another_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = client(address).get_event("1").await.unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
    assert!(error.is_transient());
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn what_is_no_address_is_said_before_any_call() {
    let error = Client::connect("not an address").unwrap_err();
    assert!(error.to_string().contains("not an address"), "{error}");
}

#[tokio::test]
async fn an_event_without_a_row_is_not_found() {
    let (client, _tasks) = serve(Script::default()).await;
    let error = client.get_event("1").await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)));
    assert_eq!(error.to_string(), "event 1 has no row");
}

#[tokio::test]
async fn all_pages_of_events_are_listed() {
    let (client, _tasks) = serve(Script::default()).await;
    let states: Vec<_> = client.list_events().try_collect().await.unwrap();
    let ids: Vec<_> = states.iter().map(|state| state.event_id.as_str()).collect();
    assert_eq!(ids, ["1", "2"]);
}

#[tokio::test]
async fn a_watch_that_is_cut_off_comes_back_and_shows_nothing_twice_and_nothing_older() {
    let script = Script::default();
    *script.watches.lock().unwrap() = vec![
        vec![
            Ok(watched("1", "first")),
            Err(Status::unavailable("draining")),
        ],
        // The other replica is behind at first.
        vec![
            Ok(watched("0", "older")),
            Ok(watched("1", "first")),
            Ok(watched("2", "second")),
        ],
    ];
    let (client, _tasks) = serve(script).await;

    let seen: Vec<_> = client.watch("1", Some("c")).try_collect().await.unwrap();

    let seen: Vec<_> = seen
        .iter()
        .map(|watched| match watched {
            Watched::State { component_set, .. } => component_set.as_ref().unwrap().set_id.as_str(),
            Watched::Interrupted { .. } => "interrupted",
        })
        .collect();
    assert_eq!(seen, ["first", "interrupted", "second"]);
}

#[tokio::test]
async fn a_watch_ends_when_the_row_was_deleted_while_it_was_cut_off() {
    let script = Script::default();
    *script.watches.lock().unwrap() = vec![
        vec![
            Ok(watched("1", "first")),
            Err(Status::unavailable("draining")),
        ],
        vec![Err(Status::not_found("event 1 has no row"))],
    ];
    let (client, _tasks) = serve(script).await;
    let seen: Vec<_> = client.watch("1", Some("c")).try_collect().await.unwrap();
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[tokio::test]
async fn a_watch_outlives_the_server_that_it_was_on() {
    let script = Script::default();
    *script.watches.lock().unwrap() = vec![vec![Ok(watched("1", "first"))]];
    *script.endless.lock().unwrap() = true;
    let (proxy, address, tasks) = serve_through_proxy(script).await;
    let mut watch = client(address).watch("1", Some("c"));
    let first = watch.next().await.unwrap().unwrap();
    assert!(matches!(first, Watched::State { .. }), "{first:?}");

    drop(proxy);
    drop(tasks);
    let next = watch.next().await.unwrap().unwrap();
    assert!(matches!(next, Watched::Interrupted { .. }), "{next:?}");
}

#[tokio::test]
async fn a_watch_ends_with_an_error_that_no_other_attempt_would_mend() {
    let script = Script::default();
    *script.watches.lock().unwrap() = vec![vec![Err(Status::not_found("event 1 has no row"))]];
    let (client, _tasks) = serve(script).await;
    let seen: Vec<_> = client.watch("1", None).collect().await;
    assert!(matches!(seen[..], [Err(Error::NotFound(_))]), "{seen:?}");
}

#[tokio::test]
async fn equal_sets_of_a_batch_are_shared_and_one_consumers_error_is_its_own() {
    let set = |set_id: &str| proto::ComponentSet {
        set_id: set_id.to_owned(),
        ..Default::default()
    };
    let answer = |consumer_index, answer| proto::ConsumerAnswer {
        consumer_index,
        answer: Some(answer),
        recommendation_id: String::new(),
    };
    let script = Script {
        batch: Arc::new(vec![
            proto::BatchGetComponentsResponse {
                component_sets: vec![set("a")],
                answers: vec![answer(2, Answer::ComponentSetIndex(0))],
            },
            proto::BatchGetComponentsResponse {
                component_sets: vec![set("b")],
                answers: vec![
                    answer(0, Answer::ComponentSetIndex(0)),
                    answer(
                        1,
                        Answer::Error(proto::ConsumerError {
                            code: tonic::Code::ResourceExhausted as i32,
                            message: "no budget".to_owned(),
                        }),
                    ),
                    answer(3, Answer::ComponentSetIndex(1)),
                ],
            },
        ]),
        ..Script::default()
    };
    let (client, _tasks) = serve(script).await;

    let consumers = ["c0", "c1", "c2", "c3"].map(str::to_owned).to_vec();
    let answers = client.batch(proto::EventState::default(), consumers);
    let mut answers: Vec<_> = answers.try_collect().await.unwrap();

    answers.sort_by_key(|answer| answer.consumer_index);
    let texts: Vec<_> = answers
        .iter()
        .map(|answer| match &answer.component_set {
            Ok(set) => set.set_id.clone(),
            Err(error) => error.to_string(),
        })
        .collect();
    assert_eq!(texts, ["a", "no budget", "a", "b"]);
}
