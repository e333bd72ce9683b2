//! What a fan of protocol 2 is shown at once after registering: the set of the event that changed
//! last, of those that reach it. A later change always wins over this answer.

use std::sync::Arc;

use touchline_store::{change::ChangeKind, session::Protocol};

use super::Gateway;
use crate::{
    connections::{Frame, StateOf, local::Connection},
    fanout::components::Shown,
    messages,
    routes::registration::Registering,
};

/// Answers a registration that is stored.
pub(super) async fn answer(gateway: &Gateway, connection: &Connection, registering: &Registering) {
    let registration = &registering.registration;
    if registration.protocol == Protocol::V1 {
        return;
    }
    let Some(change) = gateway
        .feeds
        .newest()
        .and_then(|feed| feed.newest_reaching(&registration.content_id))
    else {
        return;
    };
    let ChangeKind::Put(state) = &change.kind else {
        return;
    };
    let shown = Arc::new(Shown::new(state.clone(), change.position.clone()));
    let answer = gateway
        .components
        .one(&shown, &registration.consumer_id)
        .await;
    let frame = match answer {
        // What the fan shows still stands.
        Ok((set, _)) if registering.set_id.as_deref() == Some(set.set_id()) => return,
        Ok((set, recommendation_id)) => {
            let of = StateOf {
                event_id: shown.event_id.clone(),
                consumer_id: registration.consumer_id.clone(),
                position: shown.position.clone(),
                answers: true,
            };
            Frame::state(set.message(Protocol::V2, &recommendation_id), of)
        }
        Err(status) => {
            tracing::debug!(%status, "a registration could not be answered with a set");
            let message = "no components can be given at the moment; the next change brings some";
            Frame::reply(messages::error("unavailable", message))
        }
    };
    // Superseded by something newer, full or gone: either way there is nothing left to do.
    let _ = connection.post(frame);
}
