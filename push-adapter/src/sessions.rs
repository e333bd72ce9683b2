//! Where the sessions of fans are kept: the port, and its two implementations. Rows of the session
//! table, where somebody else may post to a connection; the memory of this process, where nobody does.
//! Holds no socket.

use std::fmt;

use async_trait::async_trait;
use touchline_store::{
    Result,
    ids::ConnectionId,
    session::{Registration, TokenHolder},
    tables::Store,
};

pub mod memory;

/// The sessions of connections. `Error::Conflict` says that a session is closed, or another's.
#[async_trait]
pub trait Sessions: fmt::Debug + Send + Sync {
    /// A connection was opened. `endpoint` is where messages for it are posted, `holder` whose token
    /// was presented, where one was asked for.
    async fn open(
        &self,
        connection: &ConnectionId,
        endpoint: &str,
        holder: Option<&TokenHolder>,
    ) -> Result<()>;

    /// The fan says who it is and what it watches; the last word counts.
    async fn register(&self, connection: &ConnectionId, registration: &Registration) -> Result<()>;

    /// Another token of the same consumer.
    async fn renew(&self, connection: &ConnectionId, holder: &TokenHolder) -> Result<()>;

    /// The connection was closed; one that is unknown is fine.
    async fn close(&self, connection: &ConnectionId) -> Result<()>;
}

/// Rows of the session table.
#[async_trait]
impl Sessions for Store {
    async fn open(
        &self,
        connection: &ConnectionId,
        endpoint: &str,
        holder: Option<&TokenHolder>,
    ) -> Result<()> {
        self.open_session_of(connection, endpoint, holder).await
    }

    async fn register(&self, connection: &ConnectionId, registration: &Registration) -> Result<()> {
        self.register_session(connection, registration).await
    }

    async fn renew(&self, connection: &ConnectionId, holder: &TokenHolder) -> Result<()> {
        self.renew_session(connection, holder).await
    }

    async fn close(&self, connection: &ConnectionId) -> Result<()> {
        self.close_session(connection).await
    }
}
