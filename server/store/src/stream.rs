//! The event table's stream: reads every shard in lineage order, to the tip, and keeps the newest
//! state of each event.

use std::collections::BTreeMap;

use crate::{Result, change::Conflated, tables::Store};

/// How far one shard has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardProgress {
    /// To be read from its oldest record.
    Start,
    /// Read up to and including this sequence number.
    After(String),
    /// Read to its end.
    Finished,
}

/// How far a stream has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The stream's identity: its label, the time at which it was enabled.
    pub epoch: String,
    /// Progress by shard id.
    pub shards: BTreeMap<String, ShardProgress>,
}

/// One round of reading.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// The newest change of each event that changed, with positions.
    pub changes: Conflated,
    /// Records that could not be understood: logged with their sequence number and skipped.
    pub poison: usize,
}

/// A reader of the event table's stream.
#[derive(Debug)]
pub struct ChangeStream {
    // to be written
}

impl ChangeStream {
    /// Opens the stream where `checkpoint` stopped. Without one, or with one of another epoch, it
    /// starts at the tip as it is before this returns: whoever then reads the table's rows misses
    /// nothing. Says which it was by `resumed`.
    pub async fn open(store: &Store, checkpoint: Option<&Checkpoint>) -> Result<Self> {
        let _ = (store, checkpoint);
        todo!()
    }

    /// The stream's identity.
    pub fn epoch(&self) -> &str {
        todo!()
    }

    /// Whether it continues where the given checkpoint stopped.
    pub fn resumed(&self) -> bool {
        todo!()
    }

    /// Reads on to the tip. On an error what was read before it is not lost: the next call starts
    /// after what the last successful call returned.
    pub async fn poll(&mut self) -> Result<Polled> {
        todo!()
    }

    /// How far the stream has been read: by what the last call of `poll` returned.
    pub fn checkpoint(&self) -> Checkpoint {
        todo!()
    }
}
