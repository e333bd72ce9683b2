//! What a fan of protocol 2 is shown at once after registering: the set of the event that changed last,
//! of those that reach it. A later change always wins over this answer.
//!
//! Fans who register at the same moment are asked for together, so that a crowd that comes back at once
//! costs the server few calls, and a bounded number of them at a time.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use touchline_runtime::backoff::Backoff;
use touchline_store::{
    change::ChangeKind,
    ids::{ConsumerId, EventId},
    session::Protocol,
};

use super::Gateway;
use crate::{
    connections::{Frame, StateOf, connection::Connection},
    fanout::{components::Shown, question::Question},
    messages,
    routes::registration::Registering,
};

/// Registrations that wait to be answered; beyond, a fan's next message waits.
const WAITING_MAX: usize = 1_024;

/// Registrations that are answered together.
const TOGETHER_MAX: usize = 500;

/// Groups that are answered at once.
const GROUPS_MAX: usize = 4;

/// Pauses before a set that could not be given is asked for again.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A fan who registered.
#[derive(Debug)]
pub(super) struct Arrival {
    connection: Arc<Connection>,
    registering: Registering,
    /// How often it was registered before on this connection: the newest is the one that counts.
    number: u32,
}

/// Where registrations are handed in.
#[derive(Debug, Clone)]
pub struct Welcome(mpsc::Sender<Arrival>);

/// Where they come out.
#[derive(Debug)]
pub struct Arrivals(mpsc::Receiver<Arrival>);

/// The two ends.
pub fn welcome() -> (Welcome, Arrivals) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Welcome(sender), Arrivals(receiver))
}

impl Welcome {
    /// Has a registration that is stored answered, for as long as it takes: while nobody leads or the
    /// server cannot answer, the fan is told once and it is tried again, or it would stay behind until
    /// the next change.
    pub(super) async fn answer(&self, connection: &Arc<Connection>, registering: Registering) {
        if registering.registration.protocol == Protocol::V1 {
            return;
        }
        let arrival = Arrival {
            number: connection.times.registrations(),
            connection: connection.clone(),
            registering,
        };
        // Whoever answers ends after the last connection.
        let _ = self.0.send(arrival).await;
    }
}

impl Arrival {
    fn consumer_id(&self) -> &ConsumerId {
        &self.registering.registration.consumer_id
    }

    /// Nobody waits for the answer any more: the fan is gone, or has registered anew.
    fn is_over(&self) -> bool {
        self.connection.ending().is_some() || self.connection.times.registrations() != self.number
    }
}

/// Answers registrations until nobody can hand in any.
pub(super) async fn answer_all(gateway: Arc<Gateway>, mut arrivals: Arrivals) {
    let mut groups = JoinSet::new();
    // Who waits longer waits beside the others, not before them.
    let mut later = JoinSet::new();
    loop {
        while groups.len() >= GROUPS_MAX {
            if let Some(Ok(left)) = groups.join_next().await {
                later.spawn(answer_later(gateway.clone(), left));
            }
        }
        let mut together = Vec::new();
        let arrived = tokio::select! {
            arrived = arrivals.0.recv_many(&mut together, TOGETHER_MAX) => arrived,
            Some(Ok(left)) = groups.join_next() => {
                later.spawn(answer_later(gateway.clone(), left));
                continue;
            }
            Some(_) = later.join_next() => continue,
        };
        if arrived == 0 {
            return;
        }
        let gateway = gateway.clone();
        groups.spawn(async move { attempt(&gateway, together).await });
    }
}

async fn answer_later(gateway: Arc<Gateway>, left: Left) {
    let Left {
        arrivals: mut left,
        is_leaderless,
    } = left;
    // While nobody leads there may be nothing to show at all; a leader may be known by now.
    if !is_leaderless {
        for arrival in &left {
            let message = "no components can be given at the moment; they follow";
            let error = messages::error("unavailable", message);
            // A full mailbox closes the connection by itself.
            let _ = arrival.connection.post(Frame::reply(error));
        }
    }
    let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
    while !left.is_empty() {
        tokio::time::sleep(backoff.pause()).await;
        left.retain(|arrival| !arrival.is_over());
        left = attempt(&gateway, left).await.arrivals;
    }
}

/// Who has no answer yet.
struct Left {
    arrivals: Vec<Arrival>,
    /// Because no leader was known: the server was not asked.
    is_leaderless: bool,
}

/// Asks once for each.
async fn attempt(gateway: &Gateway, together: Vec<Arrival>) -> Left {
    let Some(feed) = gateway.feeds.newest() else {
        return Left {
            arrivals: together,
            is_leaderless: true,
        };
    };
    let mut by_event: HashMap<EventId, (Arc<Shown>, Vec<Arrival>)> = HashMap::new();
    for arrival in together {
        let content = &arrival.registering.registration.content_id;
        let Some(change) = feed.newest_reaching(content) else {
            continue;
        };
        let ChangeKind::Put(state) = &change.kind else {
            continue;
        };
        let (_, arrivals) = by_event.entry(change.event_id.clone()).or_insert_with(|| {
            let shown = Shown::new(state.clone(), change.position.clone());
            (Arc::new(shown), Vec::new())
        });
        arrivals.push(arrival);
    }
    let asking = by_event
        .into_values()
        .map(|(shown, arrivals)| ask(gateway, shown, arrivals));
    Left {
        arrivals: join_all(asking).await.into_iter().flatten().collect(),
        is_leaderless: false,
    }
}

async fn ask(gateway: &Gateway, shown: Arc<Shown>, arrivals: Vec<Arrival>) -> Vec<Arrival> {
    let deadline = Instant::now() + gateway.components.timeout();
    let never = CancellationToken::new();
    let batch = arrivals
        .into_iter()
        .map(|arrival| (arrival.consumer_id().clone(), arrival));
    let question = Question::new(&gateway.components, &shown, deadline, &never, batch);
    let mut question = question.once();
    let mut left = Vec::new();
    while let Some(answers) = question.next().await {
        for (arrival, set) in answers {
            match set {
                Ok((set, recommendation_id)) => {
                    if arrival.registering.set_id.as_deref() == Some(set.set_id()) {
                        continue;
                    }
                    let of = StateOf {
                        event_id: shown.event_id.clone(),
                        consumer_id: arrival.consumer_id().clone(),
                        position: shown.position.clone(),
                        answers: true,
                    };
                    let message = set.message(Protocol::V2, &recommendation_id);
                    // Superseded by something newer, full or gone: nothing is left to do.
                    let _ = arrival.connection.post(Frame::state(message, of));
                }
                Err(status) => {
                    tracing::debug!(%status, "a registration could not be answered with a set");
                    left.push(arrival);
                }
            }
        }
    }
    left.extend(question.left());
    left
}
