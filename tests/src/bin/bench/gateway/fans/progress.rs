//! How far all fans together have come with what they were told. Pure.

use crate::gateway::crowd::{Done, Returned};

/// A change that everybody who reads has to be shown.
#[derive(Debug)]
pub(super) struct Due {
    done: Done,
    left: usize,
}

impl Due {
    /// Nobody of these has it yet.
    pub(super) fn new(change: u32, fans: usize) -> Self {
        Self {
            done: Done {
                change,
                healthy_unix_ns: 0,
                last_unix_ns: 0,
                frames: 0,
            },
            left: fans,
        }
    }

    /// Which change.
    pub(super) fn change(&self) -> u32 {
        self.done.change
    }

    /// A fan has it now.
    pub(super) fn shown(&mut self, unix_ns: u64, is_stalling: bool) {
        self.done.frames += 1;
        self.left -= 1;
        self.done.last_unix_ns = self.done.last_unix_ns.max(unix_ns);
        if !is_stalling {
            self.done.healthy_unix_ns = self.done.healthy_unix_ns.max(unix_ns);
        }
    }

    /// Once everybody has it.
    pub(super) fn done(&self) -> Option<Done> {
        (self.left == 0).then_some(self.done)
    }
}

/// A crowd that comes back.
#[derive(Debug)]
pub(super) struct Returning {
    began_unix_ns: u64,
    /// Whether they say which set they show.
    pub(super) with_set_id: bool,
    /// By fan: whether the newest change was shown since.
    is_back: Vec<bool>,
    returned: Returned,
}

impl Returning {
    /// Everybody is away, since this moment.
    pub(super) fn new(fans: usize, with_set_id: bool, began_unix_ns: u64) -> Self {
        Self {
            began_unix_ns,
            with_set_id,
            is_back: vec![false; fans],
            returned: Returned {
                each_us: Vec::with_capacity(fans),
                refused: 0,
            },
        }
    }

    /// A fan shows the newest change again.
    pub(super) fn shown(&mut self, fan: usize, unix_ns: u64) {
        if !std::mem::replace(&mut self.is_back[fan], true) {
            let since = unix_ns.saturating_sub(self.began_unix_ns);
            self.returned.each_us.push(since / 1_000);
        }
    }

    /// A connection was refused or closed, and is tried again.
    pub(super) fn refused(&mut self) {
        self.returned.refused += 1;
    }

    /// How many are not back yet.
    pub(super) fn left(&self) -> usize {
        self.is_back.len() - self.returned.each_us.len()
    }

    /// Whether a fan is back.
    pub(super) fn is_back(&self, fan: usize) -> bool {
        self.is_back[fan]
    }

    /// How it went.
    pub(super) fn returned(self) -> Returned {
        self.returned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_done_with_the_last_fan_who_reads() {
        let mut due = Due::new(7, 3);
        due.shown(20, false);
        due.shown(50, true);
        assert!(due.done().is_none());
        due.shown(10, false);
        let done = due.done().unwrap();
        assert_eq!((done.change, done.frames), (7, 3));
        assert_eq!((done.healthy_unix_ns, done.last_unix_ns), (20, 50));
    }

    #[test]
    fn a_fan_is_back_once() {
        let mut returning = Returning::new(2, false, 5_000);
        returning.shown(1, 9_000);
        returning.shown(1, 12_000);
        assert_eq!((returning.left(), returning.is_back(0)), (1, false));
        returning.shown(0, 25_000);
        assert_eq!(returning.left(), 0);
        assert_eq!(returning.returned().each_us, [4, 20]);
    }
}
