//! One post in flight a connection: whoever comes next for the same connection waits for its turn, and
//! nobody waits for another connection's. Keeps nothing of a connection that nobody posts to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OwnedMutexGuard;
use touchline_store::ids::ConnectionId;

type Line = Arc<tokio::sync::Mutex<()>>;

/// The connections that are posted to at the moment.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<ConnectionId, Line>>);

/// A turn, given back when dropped; so is a place in line.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    connection: &'a ConnectionId,
    line: Option<Line>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits until nobody else posts to the connection. Cancel safe.
    pub(super) async fn take<'a>(&'a self, connection: &'a ConnectionId) -> Turn<'a> {
        let line = self.lock().entry(connection.clone()).or_default().clone();
        let mut turn = Turn {
            turns: self,
            connection,
            line: Some(line.clone()),
            guard: None,
        };
        turn.guard = Some(line.lock_owned().await);
        turn
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Line>> {
        // No code that holds the lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut lines = self.turns.lock();
        drop(self.guard.take());
        drop(self.line.take());
        // The map's own is the last one: nobody waits.
        if lines
            .get(self.connection)
            .is_some_and(|line| Arc::strong_count(line) == 1)
        {
            lines.remove(self.connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, poll};

    use super::*;

    #[tokio::test]
    async fn turns_are_taken_one_after_another_and_leave_nothing() {
        let [one, other] = ["one", "other"].map(|id| ConnectionId::new(id).unwrap());
        let turns = Turns::default();
        let first = turns.take(&one).await;
        let mut second = turns.take(&one).boxed();
        assert!(poll!(&mut second).is_pending());
        drop(turns.take(&other).await);
        drop(first);
        drop(second.await);
        let held = turns.take(&one).await;
        let mut cancelled = turns.take(&one).boxed();
        assert!(poll!(&mut cancelled).is_pending());
        drop((cancelled, held));
        assert!(turns.lock().is_empty());
    }
}
