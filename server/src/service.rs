//! The gRPC services: `touchline.v1` to domain and back, and checking what came in. Decides nothing:
//! every handler validates, asks one other module, and translates the answer.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use touchline_runtime::traces::Traces;
use touchline_store::tables::Store;

use crate::{error::Error, layers::Deadline, sets::Sets, watch::Events};

mod batch;
mod components;
pub(crate) mod convert;
mod events;
mod explain;
mod feedback;
pub(crate) mod guard;
mod trace;
mod validate;

/// What the handlers share.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) events: Arc<Events>,
    pub(crate) sets: Arc<Sets>,
    pub(crate) batches: Arc<Semaphore>,
    pub(crate) watches: Arc<Semaphore>,
    pub(crate) default_deadline: Duration,
    pub(crate) follow_up: bool,
    /// Zero: streams may be open for ever.
    pub(crate) stream_age_max: Duration,
    pub(crate) shutdown: CancellationToken,
    pub(crate) traces: Traces,
}

impl Api {
    /// Until when a call has to be answered.
    fn deadline<T>(&self, request: &Request<T>) -> Deadline {
        // The layer that sets it is around every call; tests may call a service without it.
        request.extensions().get().copied().unwrap_or(Deadline {
            at: Instant::now() + self.default_deadline,
            of_caller: None,
        })
    }
}

/// A place among a bounded number of streams; free again when dropped.
fn place(places: &Arc<Semaphore>, limit: &'static str) -> Result<OwnedSemaphorePermit, Error> {
    let place = places.clone().try_acquire_owned();
    place.map_err(|_| Error::Overloaded { limit })
}
