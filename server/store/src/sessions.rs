//! Rows of the session table: opening, registering, closing, and finding an audience.

use std::collections::BTreeSet;

use futures::stream::BoxStream;

use crate::{
    Result,
    ids::{ConnectionId, ContentId},
    session::{Registration, Session},
    tables::Store,
};

/// A page of an audience.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AudiencePage {
    /// Sessions to reach.
    pub sessions: Vec<Session>,
    /// Rows that are no audience: not registered, expired, or not to be understood.
    pub skipped: usize,
}

impl Store {
    /// `$connect`: writes the session's row, replacing one of the same id.
    pub async fn open_session(&self, connection: &ConnectionId, endpoint: &str) -> Result<()> {
        let _ = (connection, endpoint);
        todo!()
    }

    /// `sendmessage`: sets what the fan says on the row and makes it part of the audience.
    /// `Error::Conflict` when the session is closed: a late message never brings it back.
    pub async fn register_session(
        &self,
        connection: &ConnectionId,
        registration: &Registration,
    ) -> Result<()> {
        let _ = (connection, registration);
        todo!()
    }

    /// `$disconnect`, and a connection found gone: deletes the row; an unknown id is fine.
    pub async fn close_session(&self, connection: &ConnectionId) -> Result<()> {
        let _ = connection;
        todo!()
    }

    /// The row of one connection, if it has registered.
    pub async fn session(&self, connection: &ConnectionId) -> Result<Option<Session>> {
        let _ = connection;
        todo!()
    }

    /// The sessions that an event with these contents reaches (none: every session), page by page,
    /// several shards at once. A page that fails is an `Err`; the others still come.
    pub fn audience(
        &self,
        contents: &BTreeSet<ContentId>,
    ) -> BoxStream<'static, Result<AudiencePage>> {
        let _ = contents;
        todo!()
    }
}
