//! The event table's stream: reads every shard in lineage order, to the tip, and keeps the newest
//! state of each event. Deciding which shard may be read is `lineage`'s; one shard's pages are read
//! in `shard`, the listing of shards in `listing`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use aws_sdk_dynamodbstreams::types::Record;
use futures::{StreamExt, stream};
use tracing::warn;

use crate::{
    Error, Result,
    change::{Conflated, conflate},
    lineage::Lineage,
    position::Position,
    row,
    tables::Store,
};

mod listing;
mod shard;

use listing::Listing;
use shard::{Cursor, Ended, Source};

/// Shards that are read at once.
const SHARDS_AT_ONCE: usize = 8;
/// Rounds of pages that one poll reads at most; the next poll goes on.
const ROUNDS_MAX: usize = 100;
/// How often the shards are listed whole.
const LIST_EVERY: Duration = Duration::from_secs(30);
/// How often the children of a finished shard are asked for.
const CHILDREN_EVERY: Duration = Duration::from_millis(500);
/// How often the table is asked whether this still is its stream.
const TABLE_EVERY: Duration = Duration::from_secs(5);
/// Empty pages in a row that mean the tip while it has not been reached before: a page in the middle
/// of a shard may be empty too (API reference, GetRecords).
const EMPTY_PAGES: u32 = 3;

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
    /// Records that were read, those included.
    pub records: usize,
    /// Whether the store refused to be read of a shard because that was too much; the next poll goes on.
    pub is_throttled: bool,
    /// Whether every shard that can be read was read to its tip.
    pub is_at_tip: bool,
    /// Whether a shard could not be read; the next poll tries it again.
    pub is_hindered: bool,
    /// When the newest record of this round was written, to the second, by the store's clock.
    pub written_at: Option<SystemTime>,
}

/// Why a poll gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// Records that were not read are gone, or the place in the stream is: events may have changed
    /// unseen. Open the stream anew, at its tip, and read the rows after that.
    #[error("unread records are gone from the stream: events may have changed unseen")]
    Gap,
    /// The stream was disabled and another enabled, or the table was made anew. Open it again.
    #[error("the table has another stream now")]
    Replaced,
    /// Nothing could be read now; the next poll goes on where this one began.
    #[error(transparent)]
    Store(#[from] Error),
}

/// How fast a stream may be read.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    /// Pages a second and shard; as many may be read at once after a pause.
    pub pages_per_second: NonZeroU32,
}

impl Quota {
    /// For a store that sets no limit.
    pub const UNLIMITED: Self = Self {
        pages_per_second: NonZeroU32::MAX,
    };
}

/// A reader of the event table's stream.
#[derive(Debug)]
pub struct ChangeStream {
    store: Store,
    source: Arc<Source>,
    epoch: Arc<str>,
    is_resumed: bool,
    lineage: Lineage,
    cursors: HashMap<String, Cursor>,
    /// When the shards were listed whole; `None` when they should be at once.
    listed_at: Option<Instant>,
    /// When children were asked for; `None` when they should be at once.
    children_asked_at: Option<Instant>,
    /// When the table was asked for its stream.
    table_asked_at: Instant,
    /// Whether the tip was reached since it was opened.
    has_been_at_tip: bool,
    /// What was read and not returned yet, because reading failed after it.
    pending: Polled,
    /// The progress that the last successful poll returned.
    returned: BTreeMap<String, ShardProgress>,
}

impl ChangeStream {
    /// Opens the stream where `checkpoint` stopped. Without one, or with one of another epoch, it
    /// starts at the tip as it is before this returns: whoever then reads the table's rows misses
    /// nothing. Says which it was by `resumed`.
    ///
    /// A checkpoint whose next record the stream no longer holds (AWS keeps 24 hours) counts as one
    /// of another epoch.
    pub async fn open(
        store: &Store,
        checkpoint: Option<&Checkpoint>,
        quota: Quota,
    ) -> Result<Self> {
        let table = &store.names.event;
        let (arn, label) = store.stream_of_events().await?.ok_or_else(|| {
            let what = format!("table {table} has no stream: see `touchline tables`");
            Error::Misconfigured { what, source: None }
        })?;
        let now = Instant::now();
        let mut stream = Self {
            store: store.clone(),
            source: Arc::new(Source::new(store.streams.clone(), arn, quota)),
            epoch: label.into(),
            is_resumed: false,
            lineage: Lineage::default(),
            cursors: HashMap::new(),
            listed_at: Some(now),
            children_asked_at: None,
            table_asked_at: now,
            has_been_at_tip: false,
            pending: Polled::default(),
            returned: BTreeMap::new(),
        };
        let listing = Listing::whole(&stream.source).await?;
        if let Some(checkpoint) = checkpoint.filter(|checkpoint| *checkpoint.epoch == *stream.epoch)
        {
            stream.is_resumed = stream.resume(&checkpoint.shards, &listing).await?;
        }
        if !stream.is_resumed {
            stream.cursors.clear();
            stream.lineage = Lineage::at_tip(&listing.shards);
            // Where a listing names the last record and that is gone already, its shard cannot be
            // opened so; the caller tries again with a newer listing.
            stream.take_cursors().await?;
        }
        stream.returned = stream.lineage.progress();
        Ok(stream)
    }

    /// Continues from a checkpoint; `false` when the stream no longer holds what comes next.
    async fn resume(
        &mut self,
        progress: &BTreeMap<String, ShardProgress>,
        listing: &Listing,
    ) -> Result<bool> {
        if listing.is_trimmed_past(progress) {
            return Ok(false);
        }
        self.lineage = Lineage::resume(progress);
        if !self.lineage.observe(&listing.shards).is_empty() {
            return Ok(false);
        }
        match self.take_cursors().await {
            Ok(()) => Ok(true),
            Err(Ended::Trimmed) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }

    /// The stream's identity.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Whether it continues where the given checkpoint stopped.
    pub fn resumed(&self) -> bool {
        self.is_resumed
    }

    /// Reads on to the tip. On an error what was read before it is not lost: the next call starts
    /// after what the last successful call returned.
    ///
    /// Reads a bounded number of pages, so under a flood a call ends before the tip and the next
    /// one goes on. A shard that fails stops only itself; the call fails when nothing else was read.
    pub async fn poll(&mut self) -> Result<Polled, PollError> {
        let failure = match self.read_to_tip().await {
            Ok(()) => None,
            Err(PollError::Store(error)) => Some(error),
            Err(lost) => return Err(lost),
        };
        match failure {
            Some(error) if self.pending.is_empty() => return Err(error.into()),
            Some(error) => {
                warn!(%error, "a shard of the stream could not be read");
                self.pending.is_throttled = matches!(error, Error::Throttled(_));
                self.pending.is_hindered = true;
            }
            None => {}
        }
        self.has_been_at_tip |= self.pending.is_at_tip;
        self.returned = self.lineage.progress();
        Ok(mem::take(&mut self.pending))
    }

    /// How far the stream has been read: by what the last call of `poll` returned.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            epoch: self.epoch.to_string(),
            shards: self.returned.clone(),
        }
    }

    async fn read_to_tip(&mut self) -> Result<(), PollError> {
        let mut failure = None;
        let mut done = HashSet::new();
        self.pending.is_at_tip = false;
        for _ in 0..ROUNDS_MAX {
            self.look_around(&mut failure).await?;
            let readable = self.lineage.readable().into_iter();
            let next: Vec<_> = readable
                .filter(|(id, _)| !done.contains(*id))
                .map(|(id, from)| (id.to_owned(), from.clone()))
                .collect();
            if next.is_empty() {
                // A shard that fails may hold what is newer than all that was read.
                self.pending.is_at_tip = failure.is_none();
                break;
            }
            let empty_pages = if self.has_been_at_tip { 1 } else { EMPTY_PAGES };
            let reads: Vec<_> = next
                .into_iter()
                .map(|(id, from)| {
                    let cursor = self.cursors.remove(&id);
                    let source = self.source.clone();
                    async move { source.read(id, from, cursor, empty_pages).await }
                })
                .collect();
            let mut reads = stream::iter(reads).buffer_unordered(SHARDS_AT_ONCE);
            while let Some(read) = reads.next().await {
                self.take_records(&read.id, read.records);
                if let Some(cursor) = read.cursor {
                    self.cursors.insert(read.id.clone(), cursor);
                }
                match read.ended {
                    Ended::More => continue,
                    Ended::AtTip => {}
                    Ended::Finished => {
                        self.lineage.finish(&read.id);
                        // Its children are there as soon as it is closed.
                        self.children_asked_at = None;
                    }
                    Ended::Trimmed => return Err(PollError::Gap),
                    Ended::Unknown(error) => {
                        self.look_at_table().await?;
                        // It is the shard that is gone.
                        self.listed_at = None;
                        failure = Some(error);
                    }
                    Ended::Failed(error) => failure = Some(error),
                }
                done.insert(read.id);
            }
            self.pending.conflate();
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Looks for children of finished shards, now and then for every shard, and whether the table
    /// still has this stream. What fails is tried again: reading goes on with what is known.
    async fn look_around(&mut self, failure: &mut Option<Error>) -> Result<(), PollError> {
        if self.table_asked_at.elapsed() >= TABLE_EVERY {
            self.look_at_table().await?;
        }
        let listed = if self
            .listed_at
            .is_none_or(|listed_at| listed_at.elapsed() >= LIST_EVERY)
        {
            self.listed_at = Some(Instant::now());
            Listing::whole(&self.source).await.map(|listing| {
                let lost = self.lineage.observe(&listing.shards);
                self.cursors.retain(|id, _| self.lineage.from(id).is_some());
                lost.is_empty()
            })
        } else if self
            .children_asked_at
            .is_none_or(|asked_at| asked_at.elapsed() >= CHILDREN_EVERY)
        {
            self.children_asked_at = Some(Instant::now());
            self.find_children().await.map(|()| true)
        } else {
            return Ok(());
        };
        match listed {
            Ok(true) => Ok(()),
            Ok(false) => Err(PollError::Gap),
            Err(error) => {
                *failure = Some(error);
                Ok(())
            }
        }
    }

    async fn find_children(&mut self) -> Result<()> {
        let childless: Vec<_> = self
            .lineage
            .childless()
            .into_iter()
            .map(str::to_owned)
            .collect();
        for id in childless {
            let children = Listing::children(&self.source, &id).await?;
            self.lineage.discover(&children.shards);
        }
        Ok(())
    }

    /// Asks the table for its stream; an answer that cannot be had says nothing.
    async fn look_at_table(&mut self) -> Result<(), PollError> {
        self.table_asked_at = Instant::now();
        match self.store.stream_of_events().await {
            Ok(Some((arn, _))) if arn != self.source.arn => Err(PollError::Replaced),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn take_records(&mut self, shard: &str, records: Vec<Record>) {
        self.pending.records += records.len();
        for record in records {
            let Some(data) = record.dynamodb else {
                self.pending.poison += 1;
                warn!(shard, "skipped a stream record without content");
                continue;
            };
            let sequence = data.sequence_number.clone().unwrap_or_default();
            let written_at = data.approximate_creation_date_time;
            let written_at = written_at.and_then(|at| SystemTime::try_from(at).ok());
            self.pending.written_at = self.pending.written_at.max(written_at);
            let position = Position::new(self.epoch.clone(), &sequence);
            match row::stream::change(record.event_name.as_ref(), data, position) {
                Ok(change) => self.pending.changes.changes.push(change),
                Err(reason) => {
                    self.pending.poison += 1;
                    warn!(shard, sequence, %reason, "skipped a stream record");
                }
            }
            if !sequence.is_empty() {
                self.lineage.read_to(shard, &sequence);
            }
        }
    }

    /// Takes a place in every shard that can be read, so that nothing written from now on is missed.
    async fn take_cursors(&mut self) -> Result<(), Ended> {
        let readable = self.lineage.readable().into_iter();
        let readable: Vec<_> = readable
            .map(|(id, from)| (id.to_owned(), from.clone()))
            .collect();
        for (id, from) in readable {
            let cursor = self.source.cursor(&id, &from, None).await?;
            self.cursors.insert(id, cursor);
        }
        Ok(())
    }
}

impl Polled {
    fn is_empty(&self) -> bool {
        self.changes == Conflated::default() && self.poison == 0
    }

    fn conflate(&mut self) {
        let conflated = conflate(mem::take(&mut self.changes.changes));
        self.changes.changes = conflated.changes;
        self.changes.dropped += conflated.dropped;
    }
}

impl Store {
    /// ARN and label of the event table's stream, if it has one.
    async fn stream_of_events(&self) -> Result<Option<(String, String)>> {
        let described = self.describe(&self.names.event).await?;
        Ok(described.and_then(|table| {
            let is_enabled = table
                .stream_specification
                .is_none_or(|stream| stream.stream_enabled);
            let identity = (table.latest_stream_arn?, table.latest_stream_label?);
            is_enabled.then_some(identity)
        }))
    }
}
