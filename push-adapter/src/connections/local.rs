//! The connections of this process's own front, by id. Posting returns at once: a message waits in the
//! connection's mailbox, never in a queue of states.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use touchline_store::ids::ConnectionId;

use super::{Connections, Frame, Limits, PostError, closing::Closing, connection::Connection};

/// The open connections of this process's front.
#[derive(Debug, Default)]
pub struct Local {
    connections: RwLock<HashMap<ConnectionId, Arc<Connection>>>,
}

impl Local {
    /// Makes a connection known, so that messages reach it.
    pub fn insert(&self, connection: Arc<Connection>) {
        let mut connections = self
            .connections
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        connections.insert(connection.id.clone(), connection);
    }

    /// Forgets a connection: from now on it is gone.
    pub fn remove(&self, connection: &ConnectionId) {
        let mut connections = self
            .connections
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        connections.remove(connection);
    }

    /// An open connection.
    pub fn get(&self, connection: &ConnectionId) -> Option<Arc<Connection>> {
        let connections = self
            .connections
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        connections.get(connection).cloned()
    }

    /// All that are open.
    pub fn all(&self) -> Vec<Arc<Connection>> {
        let connections = self.connections.read();
        let connections = connections.unwrap_or_else(PoisonError::into_inner);
        connections.values().cloned().collect()
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        let connections = self.connections.read();
        connections.unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[async_trait]
impl Connections for Local {
    async fn post(
        &self,
        connection: &ConnectionId,
        _endpoint: Option<&str>,
        frame: Frame,
        limits: &Limits,
    ) -> Result<(), PostError> {
        limits.allow()?;
        self.get(connection).ok_or(PostError::Gone)?.post(frame)
    }

    async fn close(
        &self,
        connection: &ConnectionId,
        _endpoint: Option<&str>,
    ) -> Result<(), PostError> {
        let connection = self.get(connection).ok_or(PostError::Gone)?;
        connection.close(Closing::going_away("closed by the server"));
        Ok(())
    }
}
