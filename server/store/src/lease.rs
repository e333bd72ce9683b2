//! The push adapter's lease row and its checkpoint. Never compares two machines' clocks: a lease is
//! judged by whether its counter moves.

use std::collections::HashMap;

use crate::{
    Result, event::Version, ids::EventId, position::Position, stream::Checkpoint, tables::Store,
};

/// The lease row as anybody can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// Who holds it; empty when it was released.
    pub owner: String,
    /// The owner's change feed, such as `http://10.0.0.7:50052`.
    pub address: String,
    /// Raised by each renewal.
    pub counter: u64,
}

/// What was last applied of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Where.
    pub position: Position,
    /// Which version; `None` when the event ended.
    pub version: Option<Version>,
}

/// Everything that the last leader left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Where the stream was read to; `None` when nobody ever led.
    pub checkpoint: Option<Checkpoint>,
    /// What was last applied of each event.
    pub applied: HashMap<EventId, Applied>,
}

impl Store {
    /// The lease as it is now.
    pub async fn lease(&self) -> Result<Option<LeaseRow>> {
        todo!()
    }

    /// Takes the lease if its row still is as it was `seen`. `Error::Conflict` when it is not.
    pub async fn take_lease(
        &self,
        owner: &str,
        address: &str,
        seen: Option<&LeaseRow>,
    ) -> Result<LeaseRow> {
        let _ = (owner, address, seen);
        todo!()
    }

    /// Raises the counter of a held lease. `Error::Conflict` when it is no longer held.
    pub async fn renew_lease(&self, held: &LeaseRow) -> Result<LeaseRow> {
        let _ = held;
        todo!()
    }

    /// Gives a held lease back: the row stays, without owner. `Error::Conflict` when it is no longer
    /// held.
    pub async fn release_lease(&self, held: &LeaseRow) -> Result<()> {
        let _ = held;
        todo!()
    }

    /// What the last leader left.
    pub async fn progress(&self) -> Result<Progress> {
        todo!()
    }

    /// Records progress on condition that `owner` still holds the lease (`Error::Conflict`
    /// otherwise). `applied` are the events that were applied since the last call.
    pub async fn record_progress(
        &self,
        owner: &str,
        checkpoint: &Checkpoint,
        applied: &[(EventId, Applied)],
    ) -> Result<()> {
        let _ = (owner, checkpoint, applied);
        todo!()
    }
}
