//! Closes connections that another front holds and whose token has expired. This process's own front
//! closes its own at the moment of expiry; here it is late by one sweep at most, and no component set
//! is posted meanwhile, since such a row is no audience.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::StreamExt;
use touchline_store::{session::ExpiredSession, tables::Store};

use crate::{
    connections::{Connections, PostError},
    leader::lease::Tenure,
};

/// Connections that are closed at once.
const CLOSED_AT_ONCE: usize = 16;

/// Sweeps for ever, while this process leads. Drop it to stop.
pub async fn sweep(
    store: Store,
    connections: Arc<dyn Connections>,
    tenure: Tenure,
    pause: Duration,
) {
    loop {
        tokio::time::sleep(pause).await;
        if tenure.holds() {
            sweep_once(&store, connections.as_ref()).await;
        }
    }
}

/// Closes every connection whose token has expired, and removes its row.
pub async fn sweep_once(store: &Store, connections: &dyn Connections) {
    let mut pages = store.expired_sessions(SystemTime::now());
    while let Some(page) = pages.next().await {
        match page {
            Ok(expired) => {
                futures::stream::iter(expired)
                    .for_each_concurrent(CLOSED_AT_ONCE, |session| async move {
                        close(store, connections, &session).await;
                    })
                    .await;
            }
            Err(error) => tracing::warn!(%error, "expired sessions could not be looked for"),
        }
    }
}

async fn close(store: &Store, connections: &dyn Connections, session: &ExpiredSession) {
    let id = &session.connection_id;
    match connections.close(id, session.endpoint.as_deref()).await {
        Ok(()) | Err(PostError::Gone) => {}
        Err(error) => {
            // The next sweep tries again, for as long as the row stays.
            tracing::debug!(%error, "an expired connection could not be closed");
            return;
        }
    }
    if let Err(error) = store.close_session(id).await {
        tracing::debug!(%error, "an expired session could not be removed");
    }
}
