//! The stream's shards as DescribeStream lists them. Knows nothing of how far they were read.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use aws_sdk_dynamodbstreams::types::{Shard, ShardFilter, ShardFilterType};

use super::{
    ShardProgress,
    shard::{STREAM, Source},
};
use crate::{Error, Result, lineage, position::Position};

/// Between two pages of a listing: DescribeStream may be called 10 times a second (developer guide,
/// quotas of Streams).
const PAGE_PAUSE: Duration = Duration::from_millis(100);

/// Shards of a stream.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) shards: Vec<lineage::Shard>,
    /// Sequence number of the oldest record, by shard.
    oldest: HashMap<String, String>,
}

impl Listing {
    /// Every shard that the stream still has.
    pub(super) async fn whole(source: &Source) -> Result<Self> {
        Self::read(source, None).await
    }

    /// The children of a shard, and whatever else an endpoint lists that does not know the filter.
    pub(super) async fn children(source: &Source, id: &str) -> Result<Self> {
        let filter = ShardFilter::builder()
            .r#type(ShardFilterType::ChildShards)
            .shard_id(id);
        Self::read(source, Some(filter.build())).await
    }

    async fn read(source: &Source, filter: Option<ShardFilter>) -> Result<Self> {
        let mut listing = Self::default();
        let mut start = None;
        loop {
            let request = source.client.describe_stream().stream_arn(&source.arn);
            let page = request
                .set_exclusive_start_shard_id(start)
                .set_shard_filter(filter.clone())
                .send()
                .await;
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
            tokio::time::sleep(PAGE_PAUSE).await;
        }
    }

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
    pub(super) fn is_trimmed_past(&self, progress: &BTreeMap<String, ShardProgress>) -> bool {
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
