//! Fans and the posts on their way to them.

use std::sync::Arc;

use touchline_store::{
    change::{Change, ChangeKind},
    position::Position,
};

use super::world::{EVENTS, truth, value};

/// One fan, registered for everything.
#[derive(Debug)]
pub(super) struct Fan {
    /// Whether it drops what is older than what it shows, as protocol 2 does.
    pub(super) drops_older: bool,
    /// When its row was written, by the clock of whoever wrote it.
    pub(super) registered_at: i64,
    /// From when on the index shows its row.
    pub(super) visible_at: u64,
    /// What it shows of each event.
    pub(super) shows: [Seen; EVENTS],
    /// What it was sent last, by event.
    pub(super) last_sent: [Option<Option<u32>>; EVENTS],
    /// Whether it must end on the newest state, by event.
    pub(super) is_owed: [bool; EVENTS],
}

/// What a fan shows of one event.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    position: Option<Position>,
    /// `None`: nothing, or the event has ended.
    pub(super) value: Option<u32>,
    /// How new the state is in truth.
    truth: u64,
}

/// A post on its way.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) lands_at: u64,
    /// Who sent it.
    pub(super) by: String,
    pub(super) fan: usize,
    pub(super) event: usize,
    pub(super) change: Arc<Change>,
    /// Its process slept between its last look at the lease and the sending.
    pub(super) was_late: bool,
}

impl Fan {
    /// Takes a message. An error says that it went back to an older state.
    pub(super) fn receive(&mut self, event: usize, shown: &Change) -> Result<(), String> {
        let seen = &mut self.shows[event];
        let new_value = match &shown.kind {
            ChangeKind::Put(state) => Some(value(state)),
            ChangeKind::Removed => None,
        };
        self.last_sent[event] = Some(new_value);
        let is_newer = match (&shown.position, &seen.position) {
            (Some(new), Some(old)) if new.epoch() == old.epoch() => new.is_after(old),
            _ => true,
        };
        if self.drops_older && !is_newer {
            return Ok(());
        }
        let is_same_epoch = match (&shown.position, &seen.position) {
            (Some(new), Some(old)) => new.epoch() == old.epoch(),
            _ => false,
        };
        let new_truth = match &shown.kind {
            ChangeKind::Put(state) => truth(state),
            ChangeKind::Removed => seen.truth,
        };
        if self.drops_older && is_same_epoch && new_truth < seen.truth {
            return Err(format!(
                "a fan went back from state {} to {new_truth} of event {event}",
                seen.truth
            ));
        }
        *seen = Seen {
            position: shown.position.clone(),
            value: new_value,
            truth: new_truth,
        };
        Ok(())
    }
}
