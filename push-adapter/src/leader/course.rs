//! What a term decides, from one reading of the stream to the next: what is published, what is fanned
//! out, what that supersedes, and what can be recorded. Pure: `term` does what is decided here, and so
//! does the simulation of leaders that die, sleep and lose their lease.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use touchline_store::{
    change::{Change, Conflated},
    event::Version,
    ids::{ContentId, EventId},
    lease::{Applied, LeaseRow, Progress},
    position::{Opening, Position},
    stream::Checkpoint,
};

use super::{
    catch_up::{self, CatchUp, Opened},
    decide::{Known, Worth, applied},
    ledger::{Done, Ending, Ledger, half_served},
};

/// One term's decisions.
#[derive(Debug)]
pub struct Course {
    known: Known,
    ledger: Ledger,
    /// Until the stream is read to its tip after it was opened.
    catch_up: Option<CatchUp>,
    /// The batch of the fan-out that runs, by event.
    running: HashMap<EventId, u64>,
    /// Who says so, in positions.
    by: Opening,
    /// The history of leading.
    epoch: Arc<str>,
}

/// What one reading leads to.
#[derive(Debug, Default)]
pub struct Turn {
    /// To be recorded before anything is fanned out: that fans may see these events.
    pub announced: Vec<(EventId, Applied)>,
    /// For followers of the feed, in this order.
    pub published: Vec<Change>,
    /// To be fanned out.
    pub begun: Vec<Begun>,
    /// Events whose running fan-out is pointless now.
    pub superseded: Vec<EventId>,
    /// Every event that exists has been published.
    pub is_caught_up: bool,
    /// Changes that a newer one of the same event replaced before they were looked at.
    pub conflated: usize,
}

/// A fan-out to begin.
#[derive(Debug)]
pub struct Begun {
    /// Names it when it has finished.
    pub batch: u64,
    /// The change.
    pub change: Change,
    /// What fans are shown.
    pub what: What,
}

/// What fans are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A state.
    State(Version),
    /// That the event is over, for those whom it reached.
    End(BTreeSet<ContentId>),
}

impl Course {
    /// Begins where the last leader stopped.
    pub fn new(progress: &Progress) -> Self {
        Self {
            known: Known::new(progress),
            ledger: Ledger::default(),
            catch_up: None,
            running: HashMap::new(),
            by: Opening {
                counter: 0,
                opening: 0,
            },
            epoch: "".into(),
        }
    }

    /// The stream is open and the rows were read under the lease as it is `held` now. Gives what the
    /// feed shows at once.
    pub fn opened(&mut self, opened: Opened, held: &LeaseRow) -> Vec<Change> {
        for state in opened.rows.values() {
            self.known.reaches(&state.event_id, &state.contents);
        }
        self.by = Opening {
            counter: held.counter,
            opening: self.by.opening + 1,
        };
        self.epoch = held.epoch.as_str().into();
        let rows = catch_up::newest(&self.known, &opened.rows);
        self.catch_up = Some(CatchUp::new(&self.known, opened));
        rows.into_iter().map(|row| self.said(row)).collect()
    }

    /// A change as everybody else is told it: from the record's place, or the row's, to the leader's.
    fn said(&self, change: Change) -> Change {
        let position = Position::said(self.epoch.clone(), self.by, change.position.as_ref());
        Change {
            position: Some(position),
            ..change
        }
    }

    /// The stream was read on, to this checkpoint.
    pub fn read(&mut self, read: Conflated, is_at_tip: bool, checkpoint: Checkpoint) -> Turn {
        let read = match &mut self.catch_up {
            Some(catch_up) => catch_up.take(read, is_at_tip),
            None => read,
        };
        let mut turn = Turn {
            conflated: read.dropped,
            ..Turn::default()
        };
        let mut through = Vec::new();
        let mut begun = Vec::new();
        for change in read.changes {
            let what = match self.known.judge(&change) {
                Worth::Nothing => continue,
                Worth::Feed => None,
                Worth::Push(version) => Some(What::State(version)),
                Worth::End(contents) => Some(What::End(contents)),
            };
            if self.known.announce(&change.event_id) {
                // Without a place: the record that begins it is yet to be served.
                let announced = Applied {
                    position: None,
                    version: Some(half_served()),
                };
                turn.announced.push((change.event_id.clone(), announced));
            }
            through.push(applied(&change));
            let said = self.said(change);
            begun.extend(what.map(|what| (said.clone(), what)));
            turn.published.push(said);
        }
        if is_at_tip && self.catch_up.take().is_some() {
            self.known.settle();
            turn.is_caught_up = true;
        }
        // What is held back until the tip is reached is not through.
        let checkpoint = match &self.catch_up {
            Some(catch_up) => catch_up.began_at().clone(),
            None => checkpoint,
        };
        let in_flight = begun.iter().map(|(change, _)| change.event_id.clone());
        let batch = self.ledger.open(checkpoint, through, in_flight);
        for (change, what) in begun {
            if let Some(older) = self.running.insert(change.event_id.clone(), batch) {
                self.ledger
                    .finish(older, &change.event_id, Ending::Superseded);
                turn.superseded.push(change.event_id.clone());
            }
            turn.begun.push(Begun {
                batch,
                change,
                what,
            });
        }
        turn
    }

    /// A fan-out reached everybody whom it can reach.
    pub fn finished(&mut self, event_id: &EventId, batch: u64) {
        if self.running.get(event_id) == Some(&batch) {
            self.running.remove(event_id);
            self.ledger.finish(batch, event_id, Ending::Complete);
        }
    }

    /// Takes out what can be recorded.
    pub fn take_done(&mut self) -> Option<Done> {
        let mut done = self.ledger.take_done()?;
        for (event_id, applied) in &mut done.applied {
            // It ended and has begun again since: fans may see it.
            if applied.version.is_none() && self.known.is_on(event_id) {
                applied.version = Some(half_served());
            }
        }
        Some(done)
    }

    /// How many things it remembers, for whoever checks that it is bounded.
    #[cfg(test)]
    pub(super) fn remembers(&self) -> usize {
        let held = self.catch_up.as_ref().map_or(0, CatchUp::remembers);
        self.running.len() + self.ledger.batches() + held
    }
}
