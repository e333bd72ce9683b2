//! `touchline tables upgrade`: adds to the session table what Touchline can use. Nothing calls this
//! unasked.

use std::time::{Duration, Instant, SystemTime};

use aws_sdk_dynamodb::types::{
    AttributeValue, BillingMode, CreateGlobalSecondaryIndexAction, GlobalSecondaryIndexUpdate,
    ProvisionedThroughput, TableDescription,
};

use super::{Store, misconfigured, spec};
use crate::{
    Error, Result,
    row::{
        self, AUDIENCE_INDEX, AUDIENCE_KEY, CONTENT_ID, EXPIRES_AT, REGISTERED_AT, Row, SESSION_ID,
        number, session::audience_key, text,
    },
    sessions::since_epoch,
};

/// First wait between looks at an index that is being filled; doubles up to [`INDEX_POLL_MAX`].
const INDEX_POLL_MIN: Duration = Duration::from_millis(100);
/// Longest wait between looks at an index that is being filled.
const INDEX_POLL_MAX: Duration = Duration::from_secs(10);
/// Longest wait for the index: DynamoDB fills one of a large table for hours.
const INDEX_WAIT_MAX: Duration = Duration::from_secs(6 * 60 * 60);

impl Store {
    /// Adds what Touchline can use to tables that were made by somebody else: the audience index and
    /// TTL on the session table; gives registered rows without an audience key theirs. `progress` is
    /// told each step. Repeating it changes nothing.
    ///
    /// The rows come before the index, so that the index is complete when readers turn to it.
    pub async fn upgrade(&self, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<()> {
        let name = &self.names.session;
        let table = self.describe(name).await?;
        let table = table.ok_or_else(|| misconfigured(format!("table {name} does not exist")))?;
        self.upgrade_ttl(progress).await?;
        self.upgrade_rows(progress).await?;
        self.upgrade_index(&table, progress).await
    }

    async fn upgrade_ttl(&self, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<()> {
        let name = &self.names.session;
        match self.ttl_attribute(name).await? {
            Some(attribute) if attribute == EXPIRES_AT => {
                progress(&format!("table {name} has its TTL on {EXPIRES_AT}"));
                Ok(())
            }
            Some(other) => Err(misconfigured(format!(
                "table {name} has its TTL on {other} and a table can have one only: disable that \
                 one and repeat"
            ))),
            None => {
                self.enable_ttl(name).await?;
                progress(&format!("table {name}: TTL on {EXPIRES_AT} added"));
                Ok(())
            }
        }
    }

    /// Gives registered rows their audience key where it is missing, or of another content because
    /// the prototype registered the session anew.
    async fn upgrade_rows(&self, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<()> {
        let name = &self.names.session;
        let (mut seen, mut given) = (0usize, 0usize);
        let mut start = None;
        loop {
            let request = self.dynamodb.scan().table_name(name);
            let page = request.set_exclusive_start_key(start).send().await;
            let page = page.map_err(|error| Error::from_sdk(name, error))?;
            for row in page.items.unwrap_or_default() {
                seen += 1;
                if let Some((key, content)) = missing_audience_key(&row) {
                    given += usize::from(self.give_audience_key(row, key, content).await?);
                }
            }
            start = page.last_evaluated_key;
            progress(&format!(
                "table {name}: {seen} rows read, {given} given their {AUDIENCE_KEY}"
            ));
            if start.is_none() {
                return Ok(());
            }
        }
    }

    /// Says whether the row was still as it was read: a fan may register or leave at any time.
    async fn give_audience_key(
        &self,
        mut row: Row,
        key: String,
        content: AttributeValue,
    ) -> Result<bool> {
        let Some(session) = row.remove(SESSION_ID) else {
            return Ok(false);
        };
        let now_ms = since_epoch(SystemTime::now()).as_millis();
        let request = self
            .dynamodb
            .update_item()
            .table_name(&self.names.session)
            .key(SESSION_ID, session)
            .update_expression("SET #key = :key, #registered = if_not_exists(#registered, :now)")
            .condition_expression("#content = :content")
            .expression_attribute_names("#key", AUDIENCE_KEY)
            .expression_attribute_names("#registered", REGISTERED_AT)
            .expression_attribute_names("#content", CONTENT_ID)
            .expression_attribute_values(":key", text(key))
            .expression_attribute_values(":now", number(&now_ms))
            .expression_attribute_values(":content", content);
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error) => match Error::from_sdk(&self.names.session, error) {
                Error::Conflict(_) => Ok(false),
                other => Err(other),
            },
        }
    }

    async fn upgrade_index(
        &self,
        table: &TableDescription,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<()> {
        let name = &self.names.session;
        let mut indexes = table.global_secondary_indexes().iter();
        if indexes.any(|index| index.index_name() == Some(AUDIENCE_INDEX)) {
            progress(&format!("table {name} has its index {AUDIENCE_INDEX}"));
        } else {
            self.create_index(table).await?;
            progress(&format!(
                "table {name}: index {AUDIENCE_INDEX} is being made"
            ));
        }
        let (started, mut wait) = (Instant::now(), INDEX_POLL_MIN);
        while !self.look_for_audience_index().await? {
            if started.elapsed() > INDEX_WAIT_MAX {
                return Err(Error::Unavailable(
                    format!("index {AUDIENCE_INDEX} is not active after {INDEX_WAIT_MAX:?}").into(),
                ));
            }
            self.refuse_another_index().await?;
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(INDEX_POLL_MAX);
            progress(&format!(
                "table {name}: waiting for index {AUDIENCE_INDEX}, {} s",
                started.elapsed().as_secs()
            ));
        }
        progress(&format!("table {name}: index {AUDIENCE_INDEX} is active"));
        Ok(())
    }

    /// An index of this name with other keys never becomes usable.
    async fn refuse_another_index(&self) -> Result<()> {
        let name = &self.names.session;
        let table = self.describe(name).await?;
        let indexes = table
            .as_ref()
            .map(TableDescription::global_secondary_indexes);
        let mut indexes = indexes.unwrap_or_default().iter();
        if indexes.any(|index| {
            index.index_name() == Some(AUDIENCE_INDEX) && !spec::is_audience_index(index)
        }) {
            return Err(misconfigured(format!(
                "index {AUDIENCE_INDEX} of table {name} has other keys or holds parts of rows: \
                 delete it and repeat"
            )));
        }
        Ok(())
    }

    async fn create_index(&self, table: &TableDescription) -> Result<()> {
        let name = &self.names.session;
        let index = CreateGlobalSecondaryIndexAction::builder()
            .index_name(AUDIENCE_INDEX)
            .set_key_schema(Some(spec::audience_keys().to_vec()))
            .projection(spec::whole_rows())
            .set_provisioned_throughput(provisioned(table))
            .build()
            .expect("name, keys and projection are set");
        let mut request = self.dynamodb.update_table().table_name(name);
        for definition in spec::audience_attributes() {
            request = request.attribute_definitions(definition);
        }
        let request = request.global_secondary_index_updates(
            GlobalSecondaryIndexUpdate::builder().create(index).build(),
        );
        let made = request.send().await;
        made.map_err(|error| Error::from_sdk(name, error))?;
        Ok(())
    }
}

/// The table's own throughput, where it is provisioned: its index then needs one as well.
fn provisioned(table: &TableDescription) -> Option<ProvisionedThroughput> {
    let billing = table.billing_mode_summary.as_ref();
    if billing.and_then(|billing| billing.billing_mode.as_ref())
        == Some(&BillingMode::PayPerRequest)
    {
        return None;
    }
    let throughput = table.provisioned_throughput.as_ref()?;
    let (reads, writes) = (
        throughput.read_capacity_units.filter(|units| *units > 0)?,
        throughput.write_capacity_units.filter(|units| *units > 0)?,
    );
    ProvisionedThroughput::builder()
        .read_capacity_units(reads)
        .write_capacity_units(writes)
        .build()
        .ok()
}

/// The audience key that a registered row lacks, and the content that it follows from.
fn missing_audience_key(row: &Row) -> Option<(String, AttributeValue)> {
    let session = row::session::from_row(row, SystemTime::now())?;
    let content = session.content_id?;
    let key = audience_key(content.as_str(), session.connection_id.as_str());
    let has_key = row.get(AUDIENCE_KEY).and_then(row::as_text) == Some(key.as_str())
        && matches!(row.get(REGISTERED_AT), Some(AttributeValue::N(_)));
    (!has_key).then(|| row.get(CONTENT_ID).map(|content| (key, content.clone())))?
}
