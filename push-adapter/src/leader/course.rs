//! What a term decides, from one reading of the stream to the next: what is published, what is fanned
//! out, what that supersedes, and what can be recorded. Pure: `term` does what is decided here, and so
//! does the simulation of leaders that die, sleep and lose their lease.

use std::collections::{BTreeSet, HashMap};

use touchline_store::{
    change::{Change, Conflated},
    event::Version,
    ids::{ContentId, EventId},
    lease::Progress,
    stream::Checkpoint,
};

use super::{
    catch_up::{self, CatchUp, Opened},
    decide::{Known, Worth, applied},
    ledger::{Done, Ending, Ledger},
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
    /// How often the stream was opened.
    openings: u32,
}

/// What one reading leads to.
#[derive(Debug, Default)]
pub struct Turn {
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
            openings: 0,
        }
    }

    /// The stream is open and the rows were read, by the holder of the lease at this `counter`. Gives
    /// what the feed shows at once.
    pub fn opened(&mut self, opened: Opened, counter: u64) -> Vec<Change> {
        for state in opened.rows.values() {
            self.known.reaches(&state.event_id, &state.contents);
        }
        self.openings += 1;
        let read = (counter, self.openings);
        let rows = catch_up::newest(&self.known, &opened, read);
        self.catch_up = Some(CatchUp::new(&self.known, opened, read));
        rows
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
            through.push(applied(&change));
            begun.extend(what.map(|what| (change.clone(), what)));
            turn.published.push(change);
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
        self.ledger.take_done()
    }
}
