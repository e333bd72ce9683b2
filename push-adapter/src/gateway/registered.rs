//! What a fan of protocol 2 is shown at once after registering: the set of the event that changed
//! last, of those that reach it. A later change always wins over this answer.

use std::{sync::Arc, time::Duration};

use tonic::Status;
use touchline_runtime::backoff::Backoff;
use touchline_store::{change::ChangeKind, session::Protocol};

use super::Gateway;
use crate::{
    connections::{Frame, StateOf, local::Connection},
    fanout::components::Shown,
    messages,
    routes::registration::Registering,
};

/// Pauses before a set that could not be given is asked for again.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Answers a registration that is stored, for as long as it takes: while nobody leads or the server
/// cannot answer, the fan is told once and it is tried again, or the fan would stay behind until
/// the next change.
pub(super) async fn answer(gateway: &Gateway, connection: &Connection, registering: &Registering) {
    if registering.registration.protocol == Protocol::V1 {
        return;
    }
    let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
    let mut is_told = false;
    loop {
        match frame(gateway, registering).await {
            Ok(frame) => {
                // Superseded by something newer, full or gone: either way nothing is left to do.
                let _ = frame.map(|frame| connection.post(frame));
                return;
            }
            Err(Unanswered::Leaderless) => {}
            Err(Unanswered::Server(status)) => {
                tracing::debug!(%status, "a registration could not be answered with a set");
                if !is_told {
                    let message = "no components can be given at the moment; they follow";
                    let _ = connection.post(Frame::reply(messages::error("unavailable", message)));
                    is_told = true;
                }
            }
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// Why there is no answer yet.
enum Unanswered {
    /// No leader was heard of, so the newest states are not known.
    Leaderless,
    Server(Status),
}

/// What the fan is sent; `None` when no event reaches it or what it shows still stands.
async fn frame(gateway: &Gateway, registering: &Registering) -> Result<Option<Frame>, Unanswered> {
    let registration = &registering.registration;
    let feed = gateway.feeds.newest().ok_or(Unanswered::Leaderless)?;
    let Some(change) = feed.newest_reaching(&registration.content_id) else {
        return Ok(None);
    };
    let ChangeKind::Put(state) = &change.kind else {
        return Ok(None);
    };
    let shown = Arc::new(Shown::new(state.clone(), change.position.clone()));
    let (set, recommendation_id) = gateway
        .components
        .one(&shown, &registration.consumer_id)
        .await
        .map_err(Unanswered::Server)?;
    if registering.set_id.as_deref() == Some(set.set_id()) {
        return Ok(None);
    }
    let of = StateOf {
        event_id: shown.event_id.clone(),
        consumer_id: registration.consumer_id.clone(),
        position: shown.position.clone(),
        answers: true,
    };
    let message = set.message(Protocol::V2, &recommendation_id);
    Ok(Some(Frame::state(message, of)))
}
