//! The connections of this process's own front. Posting returns at once: a message waits in the
//! connection's mailbox, never in a queue of states. Does not write to sockets: the gateway does.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::sync::Notify;
use touchline_auth::Identity;
use touchline_store::ids::{ConnectionId, ConsumerId};

use super::{Connections, Frame, Limits, PostError, mailbox::Mailbox};

/// One open connection.
#[derive(Debug)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// When it was opened.
    pub opened_at: SystemTime,
    /// Where the fan connects from.
    pub source_ip: IpAddr,
    /// What the fan's software calls itself.
    pub user_agent: Option<String>,
    /// Whose token it was opened with; the newest one, where it was refreshed.
    identity: Mutex<Option<Identity>>,
    last_active_ms: AtomicU64,
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    mailbox: Mailbox,
    closing: Option<Closing>,
}

/// Why the front closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// WebSocket close code (RFC 6455, 7.4.1).
    pub code: u16,
    /// For a person to read.
    pub reason: &'static str,
}

impl Closing {
    /// The front goes away or has had enough of an idle connection.
    pub const fn going_away(reason: &'static str) -> Self {
        Self { code: 1001, reason }
    }

    /// The fan's token has expired (a code of the application's range: 4401 as in HTTP's 401).
    pub const fn expired() -> Self {
        Self {
            code: 4401,
            reason: "the token has expired",
        }
    }

    /// The fan breaks a rule of the house.
    pub const fn policy(reason: &'static str) -> Self {
        Self { code: 1008, reason }
    }
}

impl Connection {
    /// A connection that has just been opened.
    pub fn new(id: ConnectionId, source_ip: IpAddr, user_agent: Option<String>) -> Self {
        let connection = Self {
            id,
            opened_at: SystemTime::now(),
            source_ip,
            user_agent,
            identity: Mutex::default(),
            last_active_ms: AtomicU64::new(0),
            inner: Mutex::default(),
            wake: Notify::new(),
        };
        connection.active();
        connection
    }

    /// The same, of who presented a token.
    pub fn with_identity(self, identity: Option<Identity>) -> Self {
        self.identify(identity);
        self
    }

    /// The token is another one now, of the same consumer.
    pub fn identify(&self, identity: Option<Identity>) {
        // No code that holds the lock can panic half-way through a change.
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// Whose token it was opened with; `None` where none was asked for.
    pub fn identity(&self) -> Option<Identity> {
        let identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        identity.clone()
    }

    /// Puts a message where the connection's task finds it.
    pub fn post(&self, frame: Frame) -> Result<(), PostError> {
        let mut inner = self.lock();
        if inner.closing.is_some() {
            return Err(PostError::Gone);
        }
        let put = inner.mailbox.put(frame);
        if put == Err(PostError::Full) {
            inner.closing = Some(Closing::policy("too slow"));
        }
        drop(inner);
        if put != Err(PostError::Superseded) {
            self.wake.notify_one();
        }
        put
    }

    /// Asks the connection's task to close it; the first reason stands.
    pub fn close(&self, closing: Closing) {
        self.lock().closing.get_or_insert(closing);
        self.wake.notify_one();
    }

    /// Takes out what waits, or says why the connection is to be closed.
    pub fn take(&self, into: &mut Vec<Frame>) -> Result<(), Closing> {
        let mut inner = self.lock();
        if let Some(closing) = inner.closing {
            return Err(closing);
        }
        inner.mailbox.take(into);
        Ok(())
    }

    /// Waits until there is something to take. Cancel safe.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// A registration is under way.
    pub fn registering(&self) {
        self.lock().mailbox.registering();
    }

    /// The fan is this consumer now.
    pub fn registered(&self, consumer: ConsumerId) {
        self.lock().mailbox.registered(consumer);
    }

    /// A message went in or out.
    pub fn active(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis();
        self.last_active_ms
            .store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When a message last went in or out.
    pub fn last_active_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.last_active_ms.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that holds the lock can panic half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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

#[cfg(test)]
mod tests {
    use super::{super::mailbox::REPLIES_MAX, *};

    fn connection() -> Connection {
        let id = ConnectionId::new("c").unwrap();
        Connection::new(id, IpAddr::from([127, 0, 0, 1]), None)
    }

    #[test]
    fn full_and_gone_are_different_answers() {
        let connection = connection();
        for _ in 0..REPLIES_MAX {
            connection.post(Frame::reply("reply")).unwrap();
        }
        let post = || connection.post(Frame::reply("one more"));
        assert_eq!(post(), Err(PostError::Full));
        assert_eq!(post(), Err(PostError::Gone));
        let closing = connection.take(&mut Vec::new()).unwrap_err();
        assert_eq!(closing, Closing::policy("too slow"));
    }
}
