//! Posts of one connection are made one after another; those of two never wait for each other. Keeps
//! nothing of a connection that nobody posts to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex as Queue, OwnedMutexGuard};
use touchline_store::ids::ConnectionId;

/// The turns of all connections.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<ConnectionId, Arc<Queue<()>>>>);

/// The turn of one connection; the next one has it once this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    // Dropped before the place is looked at.
    held: Option<OwnedMutexGuard<()>>,
    _place: Place<'a>,
}

/// Somebody who waits for a turn, or has it.
#[derive(Debug)]
struct Place<'a> {
    turns: &'a Turns,
    connection: ConnectionId,
    queue: Option<Arc<Queue<()>>>,
}

impl Turns {
    /// Waits for the turn, behind those who came before.
    pub(super) async fn take(&self, connection: &ConnectionId) -> Turn<'_> {
        let queue = self.lock().entry(connection.clone()).or_default().clone();
        let place = Place {
            turns: self,
            connection: connection.clone(),
            queue: Some(queue.clone()),
        };
        Turn {
            held: Some(queue.lock_owned().await),
            _place: place,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Arc<Queue<()>>>> {
        // No code that holds the lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.held = None;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut turns = self.turns.lock();
        self.queue = None;
        // Whoever else waits holds one more.
        let is_last = turns
            .get(&self.connection)
            .is_some_and(|queue| Arc::strong_count(queue) == 1);
        if is_last {
            turns.remove(&self.connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_connection_waits_for_itself_alone_and_nothing_is_kept() {
        let turns = Turns::default();
        let [one, two] = ["one", "two"].map(|id| ConnectionId::new(id).unwrap());
        let first = turns.take(&one).await;
        assert!(turns.take(&two).now_or_never().is_some());
        let mut second = Box::pin(turns.take(&one));
        assert!(second.as_mut().now_or_never().is_none());
        // Whoever gives up waiting leaves the others their turn.
        assert!(turns.take(&one).now_or_never().is_none());
        drop(first);
        drop(second.await);
        assert!(turns.lock().is_empty());
    }
}
