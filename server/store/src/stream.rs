//! The event table's stream: reads every shard in lineage order, to the tip, and keeps the newest
//! state of each event. Deciding which shard may be read is `lineage`'s.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_sdk_dynamodbstreams::{
    Client,
    error::ProvideErrorMetadata,
    operation::get_records::GetRecordsOutput,
    types::{Record, Shard, ShardIteratorType},
};
use tracing::warn;

use crate::{
    Error, Result,
    change::{Conflated, conflate},
    lineage::{self, Lineage, ReadFrom},
    position::Position,
    row,
    tables::Store,
};

/// Pages that one poll reads of a shard at most, of up to 1,000 records each.
const PAGES_A_SHARD_MAX: usize = 100;
/// How often the shards are listed: DescribeStream may be called 10 times a second.
const LIST_EVERY: Duration = Duration::from_secs(30);
/// How often they are listed while the children of a finished shard are awaited.
const LIST_EVERY_WAITING: Duration = Duration::from_millis(500);
/// What errors call the stream.
const STREAM: &str = "the event table's stream";

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
    client: Client,
    arn: String,
    epoch: Arc<str>,
    is_resumed: bool,
    lineage: Lineage,
    iterators: HashMap<String, String>,
    /// When the shards were listed last; `None` when they should be at once.
    listed_at: Option<Instant>,
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
    pub async fn open(store: &Store, checkpoint: Option<&Checkpoint>) -> Result<Self> {
        let table = &store.names.event;
        let described = store.describe(table).await?;
        let described = described
            .and_then(|table| Some((table.latest_stream_arn?, table.latest_stream_label?)));
        let (arn, label) = described.ok_or_else(|| Error::Misconfigured {
            what: format!("table {table} has no stream: see `touchline tables`"),
            source: None,
        })?;
        let mut stream = Self {
            client: store.streams.clone(),
            arn,
            epoch: label.into(),
            is_resumed: false,
            lineage: Lineage::default(),
            iterators: HashMap::new(),
            listed_at: Some(Instant::now()),
            pending: Polled::default(),
            returned: BTreeMap::new(),
        };
        let listing = stream.list().await?;
        if let Some(checkpoint) = checkpoint.filter(|checkpoint| *checkpoint.epoch == *stream.epoch)
        {
            stream.is_resumed = stream.resume(&checkpoint.shards, &listing).await?;
        }
        if !stream.is_resumed {
            stream.iterators.clear();
            stream.lineage = Lineage::at_tip(&listing.shards);
            stream.take_iterators().await?;
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
        match self.take_iterators().await {
            Ok(()) => Ok(true),
            Err(Failed::Trimmed) => Ok(false),
            Err(Failed::Other(error)) => Err(error),
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
    /// `Error::Conflict`, once, when unread records are gone from the stream: events may have changed
    /// in them, so whoever needs their states reads the table's rows. The next call goes on with what
    /// the stream still holds.
    pub async fn poll(&mut self) -> Result<Polled> {
        let failure = self.read_to_tip().await.err();
        let pending = &mut self.pending;
        let conflated = conflate(mem::take(&mut pending.changes.changes));
        pending.changes.changes = conflated.changes;
        pending.changes.dropped += conflated.dropped;
        match failure {
            Some(Failed::Trimmed) => return Err(Failed::Trimmed.into()),
            Some(Failed::Other(error)) if self.pending == Polled::default() => return Err(error),
            Some(Failed::Other(error)) => warn!(%error, "a shard of the stream could not be read"),
            None => {}
        }
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

    async fn read_to_tip(&mut self) -> Result<(), Failed> {
        let mut failure = None;
        let mut done = HashSet::new();
        loop {
            self.list_when_due(&mut failure).await?;
            let readable = self.lineage.readable();
            let next = readable.iter().find(|(id, _)| !done.contains(*id));
            let Some(id) = next.map(|(id, _)| (*id).to_owned()) else {
                return failure.map_or(Ok(()), Err);
            };
            match self.read_shard(&id).await {
                Ok(()) => {}
                Err(Failed::Trimmed) => return Err(Failed::Trimmed),
                Err(other) => failure = Some(other),
            }
            done.insert(id);
        }
    }

    /// Lists the stream's shards when a finished one awaits its children, and now and then.
    async fn list_when_due(&mut self, failure: &mut Option<Failed>) -> Result<(), Failed> {
        let every = if self.lineage.awaits_children() {
            LIST_EVERY_WAITING
        } else {
            LIST_EVERY
        };
        if self
            .listed_at
            .is_some_and(|listed_at| listed_at.elapsed() < every)
        {
            return Ok(());
        }
        self.listed_at = Some(Instant::now());
        match self.list().await {
            Ok(listing) => {
                let lost = self.lineage.observe(&listing.shards);
                self.iterators
                    .retain(|id, _| self.lineage.from(id).is_some());
                if lost.is_empty() {
                    return Ok(());
                }
                Err(Failed::Trimmed)
            }
            Err(error) => {
                *failure = Some(Failed::Other(error));
                Ok(())
            }
        }
    }

    /// Reads one shard until a page is empty, the shard ends, or it had its share of pages.
    async fn read_shard(&mut self, id: &str) -> Result<(), Failed> {
        for _ in 0..PAGES_A_SHARD_MAX {
            let Some(page) = self.page(id).await? else {
                continue;
            };
            let records = page.records.unwrap_or_default();
            let is_empty = records.is_empty();
            for record in records {
                self.take_record(id, record);
            }
            let Some(next) = page.next_shard_iterator else {
                self.lineage.finish(id);
                self.iterators.remove(id);
                // Its children may already be there.
                self.listed_at = None;
                return Ok(());
            };
            self.iterators.insert(id.to_owned(), next);
            if is_empty {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next page of a shard; `None` when its iterator expired and a new one is needed.
    async fn page(&mut self, id: &str) -> Result<Option<GetRecordsOutput>, Failed> {
        let iterator = match self.iterators.get(id) {
            Some(iterator) => iterator.clone(),
            None => self.take_iterator(id).await?,
        };
        let request = self.client.get_records().shard_iterator(iterator);
        let error = match request.send().await {
            Ok(page) => return Ok(Some(page)),
            Err(error) => error,
        };
        if error.code() == Some("TrimmedDataAccessException") {
            self.iterators.remove(id);
            self.lineage.restart(id);
            return Err(Failed::Trimmed);
        }
        let is_expired = error.code() == Some("ExpiredIteratorException");
        let error = Error::from_sdk(STREAM, error);
        if !is_expired && matches!(error, Error::Unavailable(_) | Error::Throttled(_)) {
            // The iterator is as good as before.
            return Err(Failed::Other(error));
        }
        self.iterators.remove(id);
        if self.lineage.from(id) == Some(&ReadFrom::Tip) {
            // Nothing but the iterator named this place.
            self.lineage.restart(id);
        }
        if is_expired {
            return Ok(None);
        }
        Err(Failed::Other(error))
    }

    fn take_record(&mut self, shard: &str, record: Record) {
        let Some(data) = record.dynamodb else {
            self.pending.poison += 1;
            warn!(shard, "skipped a stream record without content");
            return;
        };
        let sequence = data.sequence_number.clone().unwrap_or_default();
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

    async fn take_iterators(&mut self) -> Result<(), Failed> {
        let readable = self.lineage.readable();
        let ids: Vec<String> = readable.iter().map(|(id, _)| (*id).to_owned()).collect();
        for id in ids {
            self.take_iterator(&id).await?;
        }
        Ok(())
    }

    async fn take_iterator(&mut self, id: &str) -> Result<String, Failed> {
        let (kind, sequence) = match self.lineage.from(id) {
            Some(ReadFrom::Tip) => (ShardIteratorType::Latest, None),
            Some(ReadFrom::After(sequence)) => (
                ShardIteratorType::AfterSequenceNumber,
                Some(sequence.clone()),
            ),
            Some(ReadFrom::Oldest) | None => (ShardIteratorType::TrimHorizon, None),
        };
        let request = self.client.get_shard_iterator().stream_arn(&self.arn);
        let taken = request
            .shard_id(id)
            .shard_iterator_type(kind)
            .set_sequence_number(sequence)
            .send()
            .await;
        let taken = match taken {
            Ok(taken) => taken,
            Err(error) if error.code() == Some("TrimmedDataAccessException") => {
                self.lineage.restart(id);
                return Err(Failed::Trimmed);
            }
            Err(error) => return Err(Failed::Other(Error::from_sdk(STREAM, error))),
        };
        let iterator = taken.shard_iterator.unwrap_or_default();
        self.iterators.insert(id.to_owned(), iterator.clone());
        Ok(iterator)
    }

    /// The whole listing of the stream's shards.
    async fn list(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        let mut start = None;
        loop {
            let request = self.client.describe_stream().stream_arn(&self.arn);
            let page = request.set_exclusive_start_shard_id(start).send().await;
            let page = page.map_err(|error| Error::from_sdk(STREAM, error))?;
            let Some(page) = page.stream_description else {
                return Ok(listing);
            };
            for shard in page.shards.unwrap_or_default() {
                listing.take(shard);
            }
            start = page.last_evaluated_shard_id;
            if start.is_none() {
                return Ok(listing);
            }
        }
    }
}

/// Why reading stopped.
#[derive(Debug)]
enum Failed {
    /// What comes next is no longer in the stream.
    Trimmed,
    Other(Error),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Trimmed => Self::Conflict(
                "unread records are gone from the stream: events may have changed unseen"
                    .to_owned(),
            ),
            Failed::Other(error) => error,
        }
    }
}

/// The stream's shards as it lists them.
#[derive(Debug, Default)]
struct Listing {
    shards: Vec<lineage::Shard>,
    /// Sequence number of the oldest record, by shard.
    oldest: HashMap<String, String>,
}

impl Listing {
    fn take(&mut self, shard: Shard) {
        let Some(id) = shard.shard_id else {
            return;
        };
        let range = shard.sequence_number_range;
        let (oldest, last_sequence) = range.map_or((None, None), |range| {
            (range.starting_sequence_number, range.ending_sequence_number)
        });
        if let Some(oldest) = oldest {
            self.oldest.insert(id.clone(), oldest);
        }
        self.shards.push(lineage::Shard {
            id,
            parent: shard.parent_shard_id,
            last_sequence,
        });
    }

    /// Whether a shard that was partly read starts after the record that was read last. On AWS a
    /// shard's range stays as records are trimmed, and asking for an iterator tells; the embedded
    /// engine moves the range and tells nothing.
    fn is_trimmed_past(&self, progress: &BTreeMap<String, ShardProgress>) -> bool {
        progress.iter().any(|(id, progress)| {
            let (ShardProgress::After(read), Some(oldest)) = (progress, self.oldest.get(id)) else {
                return false;
            };
            let place = |sequence: &str| Position::new("", sequence);
            place(oldest).is_after(&place(read))
        })
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodbstreams::types::SequenceNumberRange;

    use super::*;

    #[test]
    fn a_checkpoint_before_the_oldest_record_that_is_left_cannot_be_resumed() {
        let range = SequenceNumberRange::builder()
            .starting_sequence_number("000000000000000000100")
            .build();
        let shard = Shard::builder()
            .shard_id("a")
            .sequence_number_range(range)
            .build();
        let mut listing = Listing::default();
        listing.take(shard);
        let after = |sequence: &str| {
            let progress = ShardProgress::After(sequence.to_owned());
            BTreeMap::from([("a".to_owned(), progress)])
        };
        assert!(listing.is_trimmed_past(&after("000000000000000000099")));
        assert!(!listing.is_trimmed_past(&after("000000000000000000100")));
        assert!(!listing.is_trimmed_past(&after("1000000000000000000000")));
        let start = BTreeMap::from([("a".to_owned(), ShardProgress::Start)]);
        assert!(!listing.is_trimmed_past(&start));
    }
}
