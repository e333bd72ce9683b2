//! One shard of a stream: a place in it, and reading on from there. Decides nothing about other
//! shards.

use std::sync::Arc;

use aws_sdk_dynamodbstreams::{
    Client,
    error::ProvideErrorMetadata,
    types::{Record, ShardIteratorType},
};
use governor::{DefaultDirectRateLimiter, RateLimiter};

use super::Quota;
use crate::{Error, lineage::ReadFrom};

/// Pages that are read of a shard before what they hold is looked at, of up to 1,000 records and
/// 1 MB each.
const PAGES_MAX: usize = 8;
/// What errors call the stream.
pub(super) const STREAM: &str = "the event table's stream";

/// A stream's shards as they are read.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) client: Client,
    pub(super) arn: String,
    quota: Quota,
}

/// A place in a shard, and how soon it may be read again.
#[derive(Debug)]
pub(super) struct Cursor {
    iterator: String,
    pace: Arc<DefaultDirectRateLimiter>,
}

/// What was read of a shard.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) id: String,
    pub(super) records: Vec<Record>,
    /// Where reading goes on; `None` when the place must be taken anew.
    pub(super) cursor: Option<Cursor>,
    pub(super) ended: Ended,
}

/// Why reading a shard ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// It had its share of pages.
    More,
    /// There is nothing more at the moment.
    AtTip,
    /// The shard is closed and all of it was read.
    Finished,
    /// What comes next is no longer in the shard, or nobody knows where next is.
    Trimmed,
    /// The stream or the shard is not known any more.
    Unknown(Error),
    /// Anything else; the next attempt goes on from here.
    Failed(Error),
}

impl From<Ended> for Error {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Unknown(error) | Ended::Failed(error) => error,
            Ended::More | Ended::AtTip | Ended::Finished | Ended::Trimmed => {
                Self::Unavailable("the stream moved while it was opened".into())
            }
        }
    }
}

impl Source {
    pub(super) fn new(client: Client, arn: String, quota: Quota) -> Self {
        Self { client, arn, quota }
    }

    /// Reads on until `empty_pages` in a row hold nothing, the shard ends, or it had its share.
    pub(super) async fn read(
        &self,
        id: String,
        from: ReadFrom,
        cursor: Option<Cursor>,
        empty_pages: u32,
    ) -> Read {
        let mut read = Read {
            id,
            records: Vec::new(),
            cursor,
            ended: Ended::More,
        };
        let mut empty = 0;
        for _ in 0..PAGES_MAX {
            let page = match self.page(&mut read, &from).await {
                Ok(page) => page,
                Err(ended) => {
                    read.ended = ended;
                    break;
                }
            };
            empty = if page.is_empty() { empty + 1 } else { 0 };
            read.records.extend(page);
            if read.cursor.is_none() {
                read.ended = Ended::Finished;
                break;
            }
            if empty >= empty_pages {
                read.ended = Ended::AtTip;
                break;
            }
        }
        read
    }

    /// One page. An iterator that expired is taken again after the last record.
    async fn page(&self, read: &mut Read, from: &ReadFrom) -> Result<Vec<Record>, Ended> {
        let mut cursor = match read.cursor.take() {
            Some(cursor) => cursor,
            None => self.cursor(&read.id, &read.from(from), None).await?,
        };
        loop {
            cursor.pace.until_ready().await;
            let request = self.client.get_records().shard_iterator(&cursor.iterator);
            let error = match request.send().await {
                Ok(page) => {
                    read.cursor = page.next_shard_iterator.map(|iterator| Cursor {
                        iterator,
                        pace: cursor.pace,
                    });
                    return Ok(page.records.unwrap_or_default());
                }
                Err(error) => error,
            };
            match error.code() {
                Some("ExpiredIteratorException") => {
                    let from = read.from(from);
                    if from == ReadFrom::Tip {
                        // Nothing but the iterator named this place.
                        return Err(Ended::Trimmed);
                    }
                    cursor = self.cursor(&read.id, &from, Some(cursor.pace)).await?;
                }
                Some("TrimmedDataAccessException") => return Err(Ended::Trimmed),
                Some("ResourceNotFoundException") => {
                    return Err(Ended::Unknown(Error::from_sdk(STREAM, error)));
                }
                _ => {
                    // The iterator is as good as before.
                    read.cursor = Some(cursor);
                    return Err(Ended::Failed(Error::from_sdk(STREAM, error)));
                }
            }
        }
    }

    /// Takes a place in a shard.
    pub(super) async fn cursor(
        &self,
        id: &str,
        from: &ReadFrom,
        pace: Option<Arc<DefaultDirectRateLimiter>>,
    ) -> Result<Cursor, Ended> {
        let (kind, sequence) = match from {
            ReadFrom::Oldest => (ShardIteratorType::TrimHorizon, None),
            ReadFrom::Tip => (ShardIteratorType::Latest, None),
            ReadFrom::After(sequence) => (
                ShardIteratorType::AfterSequenceNumber,
                Some(sequence.clone()),
            ),
        };
        let request = self.client.get_shard_iterator().stream_arn(&self.arn);
        let taken = request
            .shard_id(id)
            .shard_iterator_type(kind)
            .set_sequence_number(sequence)
            .send()
            .await;
        let taken = taken.map_err(|error| match error.code() {
            Some("TrimmedDataAccessException") => Ended::Trimmed,
            Some("ResourceNotFoundException") => Ended::Unknown(Error::from_sdk(STREAM, error)),
            _ => Ended::Failed(Error::from_sdk(STREAM, error)),
        })?;
        let pages = governor::Quota::per_second(self.quota.pages_per_second);
        Ok(Cursor {
            iterator: taken.shard_iterator.unwrap_or_default(),
            pace: pace.unwrap_or_else(|| Arc::new(RateLimiter::direct(pages))),
        })
    }
}

impl Read {
    /// Where reading goes on: after what was read, which began at `from`.
    fn from(&self, from: &ReadFrom) -> ReadFrom {
        let last = self.records.iter().rev().find_map(|record| {
            let data = record.dynamodb.as_ref()?;
            data.sequence_number.clone()
        });
        last.map_or_else(|| from.clone(), ReadFrom::After)
    }
}
