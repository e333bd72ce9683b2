//! Rows of the event table.

use crate::{Result, event::EventState, ids::EventId, tables::Store};

/// A page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// Readable rows.
    pub states: Vec<EventState>,
    /// Where the next page starts; `None` on the last.
    pub next: Option<EventId>,
}

impl Store {
    /// Replaces the event's row, or with `merge` sets the attributes (and the contents, unless
    /// empty) that are given and keeps the others. Returns the state after the write.
    pub async fn put_event(&self, state: &EventState, merge: bool) -> Result<EventState> {
        let _ = (state, merge);
        todo!()
    }

    /// The newest state, read consistently.
    pub async fn event(&self, event_id: &EventId) -> Result<Option<EventState>> {
        let _ = event_id;
        todo!()
    }

    /// A page of at most `limit` events, after `after`. Rows that cannot be understood are skipped,
    /// logged and counted.
    pub async fn events(&self, limit: u32, after: Option<&EventId>) -> Result<EventPage> {
        let _ = (limit, after);
        todo!()
    }

    /// Deletes the event's row; says whether there was one.
    pub async fn delete_event(&self, event_id: &EventId) -> Result<bool> {
        let _ = event_id;
        todo!()
    }
}
