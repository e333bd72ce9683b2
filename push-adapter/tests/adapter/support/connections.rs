//! A stand-in for API Gateway's `/@connections`: takes posts, answers as it is told, and knows what
//! was posted to whom, and by which of those who were given different stages.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
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

/// What becomes of the posts to one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// This status, each time.
    Status(u16),
    /// Gone, as its front says at first, though it is there.
    GoneOnce,
    /// No answer.
    Hang,
}

/// An account's request quota.
struct Quota {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Quota {
    fn take(&mut self) -> bool {
        let now = Instant::now();
        let filled = self.tokens + now.duration_since(self.at).as_secs_f64() * self.per_second;
        // A burst of a tenth of a second.
        self.tokens = filled.min(self.per_second / 10.0);
        self.at = now;
        let is_left = self.tokens >= 1.0;
        if is_left {
            self.tokens -= 1.0;
        }
        is_left
    }
}

#[derive(Clone)]
struct Told {
    /// Statuses of the next answers; 200 when there are none.
    statuses: Arc<Mutex<VecDeque<StatusCode>>>,
    /// What becomes of the posts to a connection; wins over `statuses`.
    conducts: Arc<Mutex<HashMap<String, Conduct>>>,
    /// Posts a second that it bears, and those that it took or refused so far.
    quota: Arc<Mutex<Option<Quota>>>,
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
            conducts: Arc::default(),
            quota: Arc::default(),
            posted: Arc::default(),
            closed: Arc::default(),
            in_flight: Arc::default(),
            in_flight_max: Arc::default(),
            held: Arc::new(watch::Sender::new(None)),
        };
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route(
                "/{stage}/@connections/{id}",
                post(answer).get(look).delete(close),
            )
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

    /// Posts to this connection become of that from now on.
    pub(crate) fn conduct(&self, connection: &str, conduct: Conduct) {
        let mut conducts = self.told.conducts.lock().unwrap();
        conducts.insert(connection.to_owned(), conduct);
    }

    /// It bears so many posts a second from now on.
    pub(crate) fn limit(&self, per_second: f64) {
        *self.told.quota.lock().unwrap() = Some(Quota {
            per_second,
            tokens: 0.0,
            at: Instant::now(),
        });
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
        connection: connection.clone(),
        text,
    });
    let mut held = told.held.subscribe();
    let answers = held.wait_for(|held| *held != Some(stage.as_str()));
    let answers = answers.await.is_ok();
    assert!(answers, "the stand-in outlives its posts");
    told.in_flight.fetch_sub(1, Ordering::SeqCst);
    if !told.quota.lock().unwrap().as_mut().is_none_or(Quota::take) {
        return StatusCode::TOO_MANY_REQUESTS;
    }
    let conduct = told.conducts.lock().unwrap().get(&connection).copied();
    match conduct {
        Some(Conduct::Status(status)) => return StatusCode::from_u16(status).unwrap(),
        Some(Conduct::GoneOnce) => {
            told.conducts.lock().unwrap().remove(&connection);
            return StatusCode::GONE;
        }
        Some(Conduct::Hang) => std::future::pending().await,
        None => {}
    }
    let status = told.statuses.lock().unwrap().pop_front();
    status.unwrap_or(StatusCode::OK)
}

/// `GetConnection`.
async fn look(State(told): State<Told>, Path((_, connection)): Path<(String, String)>) -> Response {
    match told.conducts.lock().unwrap().get(&connection) {
        Some(Conduct::Status(410)) => StatusCode::GONE.into_response(),
        _ => Json(serde_json::json!({"identity": {"sourceIp": "127.0.0.1", "userAgent": "fan"}}))
            .into_response(),
    }
}
