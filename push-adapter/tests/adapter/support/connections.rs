//! A stand-in for API Gateway's `/@connections`: takes posts, answers as it is told, and knows what
//! was posted to whom, and by which of those who were given different stages.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::post,
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use touchline_push::routes::registration;
use touchline_store::{ids::ConnectionId, tables::Store};

use super::{fan, loopback};

/// Holds connections.
pub(crate) struct StandIn {
    told: Told,
    url: String,
    _serving: JoinSet<()>,
}

/// A message that was posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Posted {
    pub(crate) stage: String,
    pub(crate) connection: String,
    pub(crate) text: String,
}

#[derive(Clone)]
struct Told {
    /// Statuses of the next answers; 200 when there are none.
    statuses: Arc<Mutex<VecDeque<StatusCode>>>,
    posted: Arc<Mutex<Vec<Posted>>>,
    closed: Arc<Mutex<Vec<String>>>,
    in_flight: Arc<AtomicUsize>,
    in_flight_max: Arc<AtomicUsize>,
    /// The stage whose answers wait.
    held: Arc<watch::Sender<Option<&'static str>>>,
}

impl StandIn {
    /// The next answers have these statuses.
    pub(crate) async fn start(statuses: &[u16]) -> Self {
        let statuses = statuses
            .iter()
            .map(|status| StatusCode::from_u16(*status).unwrap());
        let told = Told {
            statuses: Arc::new(Mutex::new(statuses.collect())),
            posted: Arc::default(),
            closed: Arc::default(),
            in_flight: Arc::default(),
            in_flight_max: Arc::default(),
            held: Arc::new(watch::Sender::new(None)),
        };
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/{stage}/@connections/{id}", post(answer).delete(close))
            .with_state(told.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            told,
            url,
            _serving: serving,
        }
    }

    /// Where whoever is given this stage posts to.
    pub(crate) fn endpoint(&self, stage: &str) -> String {
        format!("{}/{stage}", self.url)
    }

    pub(crate) fn posted(&self) -> Vec<Posted> {
        self.told.posted.lock().unwrap().clone()
    }

    /// What was posted to one connection.
    pub(crate) fn posted_to(&self, connection: &str) -> Vec<String> {
        let posted = self.posted().into_iter();
        posted
            .filter(|posted| posted.connection == connection)
            .map(|posted| posted.text)
            .collect()
    }

    /// The connections that were closed.
    pub(crate) fn closed(&self) -> Vec<String> {
        self.told.closed.lock().unwrap().clone()
    }

    /// Posts by this stage.
    pub(crate) fn posts_by(&self, stage: &str) -> usize {
        let posted = self.posted();
        posted.iter().filter(|posted| posted.stage == stage).count()
    }

    /// Answers to this stage wait until another is given, or none.
    pub(crate) fn hold(&self, stage: Option<&'static str>) {
        self.told.held.send_replace(stage);
    }

    /// How many posts were ever in flight at once.
    pub(crate) fn in_flight_max(&self) -> usize {
        self.told.in_flight_max.load(Ordering::SeqCst)
    }
}

/// Gives the table a registered session of protocol 1; its row names `endpoint`, if it is not empty.
pub(crate) async fn session(store: &Store, connection: &str, consumer: &str, endpoint: &str) {
    let id = ConnectionId::new(connection).unwrap();
    store.open_session(&id, endpoint).await.unwrap();
    let body = fan::registration(consumer, "final").to_string();
    let registering = registration::parse(&body, None).unwrap();
    store
        .register_session(&id, &registering.registration)
        .await
        .unwrap();
}

async fn close(
    State(told): State<Told>,
    Path((_, connection)): Path<(String, String)>,
) -> StatusCode {
    told.closed.lock().unwrap().push(connection);
    StatusCode::NO_CONTENT
}

async fn answer(
    State(told): State<Told>,
    Path((stage, connection)): Path<(String, String)>,
    text: String,
) -> StatusCode {
    let in_flight = told.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
    told.in_flight_max.fetch_max(in_flight, Ordering::SeqCst);
    told.posted.lock().unwrap().push(Posted {
        stage: stage.clone(),
        connection,
        text,
    });
    let mut held = told.held.subscribe();
    let answers = held.wait_for(|held| *held != Some(stage.as_str())).await;
    assert!(answers.is_ok(), "the stand-in outlives its posts");
    told.in_flight.fetch_sub(1, Ordering::SeqCst);
    let status = told.statuses.lock().unwrap().pop_front();
    status.unwrap_or(StatusCode::OK)
}
