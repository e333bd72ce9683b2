//! The push adapter's lease row and its checkpoint. Never compares two machines' clocks: a lease is
//! judged by whether its counter moves.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use aws_sdk_dynamodb::{
    error::{ProvideErrorMetadata, SdkError},
    types::{ConditionCheck, Put, TransactWriteItem},
};
use aws_smithy_types::date_time::{DateTime, Format};
use tracing::warn;

use crate::{
    Error, Result,
    event::Version,
    ids::EventId,
    position::Position,
    row::{
        self, LEASE_KEY, Row,
        lease::{ADDRESS, COUNTER, EPOCH, Entry, LASTS_MS, LEADER, OWNER, UNTIL},
        number, text,
    },
    stream::Checkpoint,
    tables::Store,
};

/// Rows a transaction, beside the lease's own (API reference, TransactWriteItems: 100 actions).
const TRANSACTION_ROWS_MAX: usize = 90;
/// Times that a write is repeated which met a transaction on the same row.
const CONFLICT_RETRIES_MAX: u32 = 5;
/// Half of the first wait before such a repetition; doubles each time.
const CONFLICT_WAIT: Duration = Duration::from_millis(10);

/// The lease row as anybody can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// Who holds it; empty when it was released.
    pub owner: String,
    /// The owner's change feed, such as `http://10.0.0.7:50052`.
    pub address: String,
    /// Raised by each renewal.
    pub counter: u64,
    /// How long it stands while its counter does not move; zero when it was released.
    pub lasts: Duration,
    /// Names the row's history: counters can be compared for as long as it stays. Made with the row.
    pub epoch: String,
}

/// What was last applied of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Where; `None` for a state that was read from the table.
    pub position: Option<Position>,
    /// Which version; `None` when the event ended.
    pub version: Option<Version>,
}

/// Everything that the last leader left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Where the stream was read to; `None` when nobody ever led.
    pub checkpoint: Option<Checkpoint>,
    /// What was last applied of each event.
    pub applied: HashMap<EventId, Applied>,
}

impl Store {
    /// The lease as it is now, read consistently.
    pub async fn lease(&self) -> Result<Option<LeaseRow>> {
        let request = self.dynamodb.get_item().table_name(&self.names.lease);
        let found = request
            .key(LEASE_KEY, text(LEADER))
            .consistent_read(true)
            .send()
            .await;
        let found = found.map_err(|error| self.lease_error(error))?;
        let Some(row) = found.item else {
            return Ok(None);
        };
        match row::lease::from_row(&row) {
            Ok(Entry::Leader(lease)) => Ok(Some(lease)),
            Ok(_) | Err(_) => Err(Error::Misconfigured {
                what: format!(
                    "table {}: row {LEADER} is not a lease; delete it",
                    self.names.lease
                ),
                source: None,
            }),
        }
    }

    /// Takes the lease if its row still is as it was `seen`. `Error::Conflict` when it is not.
    pub async fn take_lease(
        &self,
        owner: &str,
        address: &str,
        lasts: Duration,
        seen: Option<&LeaseRow>,
    ) -> Result<LeaseRow> {
        let taken = LeaseRow {
            owner: owner.to_owned(),
            address: address.to_owned(),
            counter: seen.map_or(0, |seen| seen.counter) + 1,
            lasts,
            epoch: match seen {
                Some(seen) if !seen.epoch.is_empty() => seen.epoch.clone(),
                _ => new_epoch(),
            },
        };
        self.write_lease(seen, taken).await
    }

    /// Raises the counter of a held lease. `Error::Conflict` when it is no longer held.
    pub async fn renew_lease(&self, held: &LeaseRow) -> Result<LeaseRow> {
        let renewed = LeaseRow {
            counter: held.counter + 1,
            ..held.clone()
        };
        self.write_lease(Some(held), renewed).await
    }

    /// Gives a held lease back: the row stays, without owner. `Error::Conflict` when it is no longer
    /// held.
    pub async fn release_lease(&self, held: &LeaseRow) -> Result<()> {
        let released = LeaseRow {
            owner: String::new(),
            address: String::new(),
            counter: held.counter + 1,
            lasts: Duration::ZERO,
            epoch: held.epoch.clone(),
        };
        self.write_lease(Some(held), released).await.map(drop)
    }

    /// Writes the lease on condition that it still is as it was seen.
    async fn write_lease(&self, seen: Option<&LeaseRow>, lease: LeaseRow) -> Result<LeaseRow> {
        let mut backoff = Backoff::default();
        loop {
            let written = self.try_write_lease(seen, &lease).await;
            match written {
                Ok(()) => return Ok(lease),
                // The SDK tries again when an answer is lost; then its first attempt is what the
                // condition meets.
                Err(Error::Conflict(_)) if self.lease().await?.as_ref() == Some(&lease) => {
                    return Ok(lease);
                }
                // A transaction on the row is under way: our own checkpoint, usually.
                Err(Error::Throttled(source)) => backoff.wait(Error::Throttled(source)).await?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_write_lease(&self, seen: Option<&LeaseRow>, lease: &LeaseRow) -> Result<()> {
        let mut request = self
            .dynamodb
            .put_item()
            .table_name(&self.names.lease)
            .item(LEASE_KEY, text(LEADER))
            .item(OWNER, text(&lease.owner))
            .item(ADDRESS, text(&lease.address))
            .item(COUNTER, number(&lease.counter))
            .item(LASTS_MS, number(&lease.lasts.as_millis()))
            .item(UNTIL, text(until(lease.lasts)))
            .item(EPOCH, text(&lease.epoch));
        request = match seen {
            None => request
                .condition_expression("attribute_not_exists(#key)")
                .expression_attribute_names("#key", LEASE_KEY),
            Some(seen) => request
                .condition_expression("#owner = :owner AND #counter = :counter")
                .expression_attribute_names("#owner", OWNER)
                .expression_attribute_names("#counter", COUNTER)
                .expression_attribute_values(":owner", text(&seen.owner))
                .expression_attribute_values(":counter", number(&seen.counter)),
        };
        let written = request.send().await;
        written.map_err(|error| self.lease_error(error))?;
        Ok(())
    }

    /// What the last leader left. Rows that cannot be understood are logged and left out: the
    /// events that they name are then applied once more.
    pub async fn progress(&self) -> Result<Progress> {
        let mut progress = Progress::default();
        let mut start = None;
        loop {
            let request = self.dynamodb.scan().table_name(&self.names.lease);
            let page = request
                .consistent_read(true)
                .set_exclusive_start_key(start)
                .send()
                .await;
            let page = page.map_err(|error| self.lease_error(error))?;
            for row in page.items.unwrap_or_default() {
                match row::lease::from_row(&row) {
                    Ok(Entry::Leader(_)) => {}
                    Ok(Entry::Checkpoint(checkpoint)) => progress.checkpoint = Some(checkpoint),
                    Ok(Entry::Applied(event_id, applied)) => {
                        progress.applied.insert(event_id, applied);
                    }
                    Err(reason) => warn!(%reason, "skipped a row of the lease table"),
                }
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok(progress);
            }
        }
    }

    /// Records progress on condition that `owner` still holds the lease (`Error::Conflict`
    /// otherwise). `applied` are the events that were applied since the last call; of two of one
    /// event the later counts.
    ///
    /// The rows are written in transactions of up to 90, each conditional on the lease, the
    /// checkpoint in the last: when one fails, events that were recorded as applied are at or after
    /// the checkpoint that still stands, and are recognised as applied when they are read again.
    /// Without a checkpoint the one that stands is left as it is.
    pub async fn record_progress(
        &self,
        owner: &str,
        checkpoint: Option<&Checkpoint>,
        applied: &[(EventId, Applied)],
    ) -> Result<()> {
        let last: HashMap<&EventId, &Applied> = applied
            .iter()
            .map(|(event_id, applied)| (event_id, applied))
            .collect();
        let mut rows: Vec<Row> = last
            .into_iter()
            .map(|(event_id, applied)| row::lease::applied_row(event_id, applied))
            .collect();
        rows.extend(checkpoint.map(row::lease::checkpoint_row));
        for chunk in rows.chunks(TRANSACTION_ROWS_MAX) {
            let mut backoff = Backoff::default();
            loop {
                match self.try_record(owner, chunk).await {
                    Ok(()) => break,
                    Err(Error::Throttled(source)) => backoff.wait(Error::Throttled(source)).await?,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    async fn try_record(&self, owner: &str, rows: &[Row]) -> Result<()> {
        let held = ConditionCheck::builder()
            .table_name(&self.names.lease)
            .key(LEASE_KEY, text(LEADER))
            .condition_expression("#owner = :owner")
            .expression_attribute_names("#owner", OWNER)
            .expression_attribute_values(":owner", text(owner))
            .build()
            .expect("key, condition and table are set");
        let puts = rows.iter().map(|row| {
            let put = Put::builder()
                .table_name(&self.names.lease)
                .set_item(Some(row.clone()))
                .build();
            TransactWriteItem::builder()
                .put(put.expect("item and table are set"))
                .build()
        });
        let request = self.dynamodb.transact_write_items();
        let items = std::iter::once(TransactWriteItem::builder().condition_check(held).build());
        let written = request
            .set_transact_items(Some(items.chain(puts).collect()))
            .send()
            .await;
        written.map_err(|error| self.lease_error(error))?;
        Ok(())
    }

    fn lease_error<E, R>(&self, error: SdkError<E, R>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        match Error::from_sdk(&self.names.lease, error) {
            Error::Conflict(_) => Error::Conflict("the lease is held by another".to_owned()),
            other => other,
        }
    }
}

/// An epoch that no other row has: when it was made, and something random.
fn new_epoch() -> String {
    let made_at = DateTime::from(SystemTime::now()).fmt(Format::DateTime);
    let made_at = made_at.expect("the present is a year of four digits");
    format!("{made_at}-{:08x}", rand::random::<u32>())
}

/// When a lease ends that is written now, for a person to read: nobody compares it with a clock.
fn until(lasts: Duration) -> String {
    let until = DateTime::from(SystemTime::now() + lasts).fmt(Format::DateTime);
    until.expect("the present and a lease's length make a year of four digits")
}

/// Waits between attempts that met a transaction on the same row.
#[derive(Debug, Default)]
struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// Waits, or gives the error back when there were enough attempts.
    async fn wait(&mut self, error: Error) -> Result<()> {
        if self.attempts >= CONFLICT_RETRIES_MAX {
            return Err(error);
        }
        self.attempts += 1;
        let wait = CONFLICT_WAIT * 2u32.pow(self.attempts);
        tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
        Ok(())
    }
}
