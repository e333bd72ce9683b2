//! Posting to API Gateway through the real SDK, against a stand-in that throttles, refuses and waits.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use touchline_push::routes::registration;
use touchline_store::ids::ConnectionId;

use crate::support::{DEADLINE, World, eventually, fan, loopback, round};

/// Answers posts to one connection as it is told.
struct StandIn {
    told: Told,
    endpoint: String,
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Told {
    /// Statuses of the next answers; 200 when there are none.
    statuses: Arc<Mutex<VecDeque<StatusCode>>>,
    posted: Arc<Mutex<Vec<String>>>,
    in_flight: Arc<AtomicUsize>,
    in_flight_max: Arc<AtomicUsize>,
    held: Arc<watch::Sender<bool>>,
}

impl StandIn {
    async fn start(statuses: &[u16]) -> Self {
        let statuses = statuses
            .iter()
            .map(|status| StatusCode::from_u16(*status).unwrap());
        let told = Told {
            statuses: Arc::new(Mutex::new(statuses.collect())),
            posted: Arc::default(),
            in_flight: Arc::default(),
            in_flight_max: Arc::default(),
            held: Arc::new(watch::Sender::new(false)),
        };
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let endpoint = format!("http://{}/prod", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/prod/@connections/{id}", post(answer))
            .with_state(told.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            told,
            endpoint,
            _serving: serving,
        }
    }

    fn posted(&self) -> Vec<String> {
        self.told.posted.lock().unwrap().clone()
    }

    /// Gives `world` a session whose connection this stand-in holds.
    async fn session(&self, world: &World) {
        let id = ConnectionId::new("L0SM9cOFvHcCIhw=").unwrap();
        world.store.open_session(&id, &self.endpoint).await.unwrap();
        let body = fan::registration("ann", "final").to_string();
        let registering = registration::parse(&body).unwrap();
        world
            .store
            .register_session(&id, &registering.registration)
            .await
            .unwrap();
    }
}

async fn answer(State(told): State<Told>, body: String) -> StatusCode {
    let in_flight = told.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
    told.in_flight_max.fetch_max(in_flight, Ordering::SeqCst);
    told.posted.lock().unwrap().push(body);
    let mut held = told.held.subscribe();
    held.wait_for(|held| !held).await.unwrap();
    told.in_flight.fetch_sub(1, Ordering::SeqCst);
    let status = told.statuses.lock().unwrap().pop_front();
    status.unwrap_or(StatusCode::OK)
}

#[tokio::test]
async fn a_throttled_post_is_backed_off_within_the_pushs_deadline() {
    let world = World::start().await;
    let stand_in = StandIn::start(&[429, 429, 503]).await;
    stand_in.session(&world).await;
    let mut rounds = world.adapter.running.rounds();
    world.put("1", "GOAL").await;
    let served = round(&mut rounds, |_| true).await;
    assert_eq!((served.pushed, served.failed), (1, 0));
    let message = r#"{"PLAYER":"ann:GOAL","GENERAL":"all:GOAL"}"#;
    assert_eq!(stand_in.posted(), [message; 4]);
}

#[tokio::test]
async fn a_refused_post_is_reported_and_never_tried_again() {
    for status in [400, 403, 413] {
        let world = World::start().await;
        let stand_in = StandIn::start(&[status]).await;
        stand_in.session(&world).await;
        let mut rounds = world.adapter.running.rounds();
        world.put("1", "GOAL").await;
        let served = round(&mut rounds, |_| true).await;
        assert_eq!((served.pushed, served.failed), (0, 1), "{status}");
        assert_eq!(stand_in.posted().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_connection_has_one_post_in_flight_and_the_newest_state_last() {
    let world = World::with(|args| {
        args.post_timeout = DEADLINE;
        args.lease_duration = DEADLINE * 3;
    })
    .await;
    let stand_in = StandIn::start(&[]).await;
    stand_in.session(&world).await;
    let mut rounds = world.adapter.running.rounds();
    stand_in.told.held.send_replace(true);
    world.put("1", "GOAL").await;
    eventually(|| async { stand_in.posted().len() == 1 }).await;
    for later in ["THROW", "PENALTY"] {
        world.put("1", later).await;
        // The server was asked, so the post for it waits its turn.
        eventually(|| async { world.server.asked().iter().any(|(asked, _)| asked == later) }).await;
    }
    stand_in.told.held.send_replace(false);
    round(&mut rounds, |round| !round.superseded && round.pushed == 1).await;
    let posted = stand_in.posted();
    assert_eq!(
        posted.len(),
        2,
        "what was superseded was never posted: {posted:?}"
    );
    assert!(posted[0].contains("GOAL") && posted[1].contains("PENALTY"));
    assert_eq!(stand_in.told.in_flight_max.load(Ordering::SeqCst), 1);
}
