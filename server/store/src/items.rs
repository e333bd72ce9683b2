//! Rows of the item table. Keeps nothing: caching the catalog is its reader's.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use aws_sdk_dynamodb::types::{PutRequest, WriteRequest};
use futures::{StreamExt, TryStreamExt, stream};
use tracing::debug;

use crate::{
    Error, Result,
    item::Item,
    row::{self, Row},
    tables::Store,
};

/// Segments of the table that are read at once.
const SEGMENTS: i32 = 4;
/// Rows a BatchWriteItem takes (API reference, BatchWriteItem: 25).
const BATCH_ROWS_MAX: usize = 25;
/// Batches in flight.
const BATCHES_IN_FLIGHT: usize = 4;
/// Times that the rows which a batch left over are sent again.
const RETRIES_MAX: u32 = 8;
/// First wait before rows that were left over are sent again; doubles each time.
const RETRY_WAIT: Duration = Duration::from_millis(50);

/// The whole catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Items {
    /// Readable rows, in no particular order.
    pub items: Vec<Item>,
    /// Rows that have no item type or cannot be understood.
    pub skipped: usize,
}

impl Store {
    /// Reads the whole item table, paginated and in parallel.
    pub async fn items(&self) -> Result<Items> {
        let segments = stream::iter(0..SEGMENTS).map(|segment| self.item_segment(segment));
        segments
            .buffer_unordered(SEGMENTS as usize)
            .try_fold(Items::default(), async |mut whole, part| {
                whole.items.extend(part.items);
                whole.skipped += part.skipped;
                Ok(whole)
            })
            .await
    }

    async fn item_segment(&self, segment: i32) -> Result<Items> {
        let mut found = Items::default();
        let mut start = None;
        loop {
            let request = self.dynamodb.scan().table_name(&self.names.item);
            let page = request
                .segment(segment)
                .total_segments(SEGMENTS)
                .set_exclusive_start_key(start)
                .send()
                .await;
            let page = page.map_err(|error| Error::from_sdk(&self.names.item, error))?;
            for row in page.items.unwrap_or_default() {
                match row::item::from_row(row) {
                    Ok(item) => found.items.push(item),
                    Err(reason) => {
                        debug!(%reason, "skipped a row of the item table");
                        found.skipped += 1;
                    }
                }
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok(found);
            }
        }
    }

    /// Writes items in batches; each replaces its row, and of two with one id the later counts.
    /// `numeric` names the attributes that are written as numbers (the prototype's `fifa_stats` and
    /// counts). `written` is told how many rows are done so far. Nothing is written when an item
    /// cannot be.
    pub async fn put_items(
        &self,
        items: &[Item],
        numeric: &[&str],
        written: &(dyn Fn(usize) + Send + Sync),
    ) -> Result<()> {
        let mut last = HashMap::with_capacity(items.len());
        for item in items {
            last.insert(&item.item_id, item);
        }
        let rows: Vec<Row> = last
            .into_values()
            .map(|item| row::item::to_row(item, numeric))
            .collect::<Result<_>>()?;
        let done = AtomicUsize::new(0);
        let batches = stream::iter(rows.chunks(BATCH_ROWS_MAX).map(<[Row]>::to_vec));
        batches
            .map(|rows| async {
                let count = rows.len();
                self.put_item_batch(rows).await?;
                written(done.fetch_add(count, Ordering::Relaxed) + count);
                Ok(())
            })
            .buffer_unordered(BATCHES_IN_FLIGHT)
            .try_collect()
            .await
    }

    async fn put_item_batch(&self, rows: Vec<Row>) -> Result<()> {
        let puts = rows.into_iter().map(|row| {
            let put = PutRequest::builder().set_item(Some(row)).build();
            let put = put.expect("an item was set");
            WriteRequest::builder().put_request(put).build()
        });
        let mut left: Vec<_> = puts.collect();
        for retry in 0..=RETRIES_MAX {
            if retry > 0 {
                let wait = RETRY_WAIT * 2u32.pow(retry - 1);
                tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
            }
            let request = self.dynamodb.batch_write_item();
            let answer = request
                .request_items(&self.names.item, left)
                .send()
                .await
                .map_err(|error| Error::from_sdk(&self.names.item, error))?;
            let unprocessed = answer.unprocessed_items.unwrap_or_default();
            left = unprocessed.into_values().flatten().collect();
            if left.is_empty() {
                return Ok(());
            }
        }
        Err(Error::Throttled(
            format!(
                "{} rows of {} were not taken after {RETRIES_MAX} retries",
                left.len(),
                self.names.item
            )
            .into(),
        ))
    }
}
