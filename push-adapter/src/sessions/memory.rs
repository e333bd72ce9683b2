//! Sessions in this process's memory: who watches what, ready to be fanned out to. They live as long as
//! their connections, so there is nothing to expire and nothing to clean up after a crash.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use indexmap::IndexMap;
use touchline_store::{
    Error, Result,
    ids::{ConnectionId, ConsumerId, ContentId},
    session::{Protocol, Registration, TokenHolder},
};

use super::Sessions;
use crate::connections::{connection::Connection, local::Local};

/// The sessions of the connections of one front.
#[derive(Debug)]
pub struct Memory {
    local: Arc<Local>,
    watching: Mutex<Watching>,
}

#[derive(Debug, Default)]
struct Watching {
    contents: HashMap<ContentId, IndexMap<ConsumerId, Watchers>>,
    registered: HashMap<ConnectionId, (ContentId, ConsumerId)>,
}

/// The connections of one consumer who watches one content. Mostly one.
pub type Watchers = Arc<Vec<Watcher>>;

/// A connection that has registered.
#[derive(Debug, Clone)]
pub struct Watcher {
    /// The connection.
    pub connection: Arc<Connection>,
    /// The messages that the fan understands.
    pub protocol: Protocol,
}

impl Memory {
    /// Nobody has registered yet. Connections are found in `local`.
    pub fn new(local: Arc<Local>) -> Self {
        Self {
            local,
            watching: Mutex::default(),
        }
    }

    /// Whom an event reaches that names these contents: all where it names none, always in the same
    /// order as far as nobody comes or goes.
    pub fn audience(&self, contents: &BTreeSet<ContentId>) -> Vec<(ConsumerId, Watchers)> {
        let watching = self.lock();
        let watched: Vec<_> = match contents.is_empty() {
            true => watching.contents.values().collect(),
            false => contents
                .iter()
                .filter_map(|content| watching.contents.get(content))
                .collect(),
        };
        watched
            .into_iter()
            .flatten()
            .map(|(consumer, watchers)| (consumer.clone(), watchers.clone()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Watching> {
        // No code that holds the lock can panic half-way through a change.
        self.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watching {
    fn add(&mut self, registration: &Registration, connection: Arc<Connection>) {
        self.remove(&connection.id);
        let (content, consumer) = (&registration.content_id, &registration.consumer_id);
        let place = (content.clone(), consumer.clone());
        self.registered.insert(connection.id.clone(), place);
        let watcher = Watcher {
            connection,
            protocol: registration.protocol,
        };
        let consumers = self.contents.entry(content.clone()).or_default();
        let watchers = consumers
            .entry(consumer.clone())
            .or_insert_with(|| Arc::new(Vec::with_capacity(1)));
        // Copied only while a fan-out looks at it.
        Arc::make_mut(watchers).push(watcher);
    }

    fn remove(&mut self, connection: &ConnectionId) {
        let Some((content, consumer)) = self.registered.remove(connection) else {
            return;
        };
        let Some(consumers) = self.contents.get_mut(&content) else {
            return;
        };
        if let Some(watchers) = consumers.get_mut(&consumer) {
            let watchers = Arc::make_mut(watchers);
            watchers.retain(|watcher| watcher.connection.id != *connection);
            if watchers.is_empty() {
                consumers.swap_remove(&consumer);
            }
        }
        if consumers.is_empty() {
            self.contents.remove(&content);
        }
    }
}

#[async_trait]
impl Sessions for Memory {
    async fn open(&self, _: &ConnectionId, _: &str, _: Option<&TokenHolder>) -> Result<()> {
        // The open connection is all there is to it.
        Ok(())
    }

    async fn register(&self, connection: &ConnectionId, registration: &Registration) -> Result<()> {
        let connection = self.local.get(connection).ok_or_else(closed)?;
        self.lock().add(registration, connection);
        Ok(())
    }

    async fn renew(&self, connection: &ConnectionId, holder: &TokenHolder) -> Result<()> {
        let connection = self.local.get(connection).ok_or_else(closed)?;
        let identity = connection.identity();
        let consumer_id = identity.and_then(|identity| identity.consumer_id);
        match consumer_id.as_deref() == Some(holder.consumer_id.as_str()) {
            true => Ok(()),
            false => Err(Error::Conflict("the session is another's".to_owned())),
        }
    }

    async fn close(&self, connection: &ConnectionId) -> Result<()> {
        self.lock().remove(connection);
        Ok(())
    }
}

fn closed() -> Error {
    Error::Conflict("the session is closed".to_owned())
}
