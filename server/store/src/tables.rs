//! The tables: their names, keys and attributes. `SEED.md`'s tables are the contract; what Touchline
//! adds is additive, and nothing is altered unasked.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_sdk_dynamodb::{
    config::retry::RetryConfig,
    error::ProvideErrorMetadata,
    types::{TableDescription, TableStatus, TimeToLiveSpecification, TimeToLiveStatus},
};
use futures::future::try_join_all;

use crate::{
    Error, Result,
    aws::AwsArgs,
    row::{AUDIENCE_INDEX, EXPIRES_AT},
};

mod spec;
mod upgrade;

use spec::Spec;

/// Longest wait for one attempt of a call to DynamoDB.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a table that is being made.
const ACTIVE_WAIT_MAX: Duration = Duration::from_secs(120);
/// How often such a table is looked at.
const ACTIVE_POLL: Duration = Duration::from_millis(100);
/// How often a missing audience index is looked for.
const INDEX_LOOK_EVERY: Duration = Duration::from_secs(60);

/// Names of the tables.
#[derive(Debug, Clone, clap::Args)]
pub struct TableNames {
    /// Table of the live events
    #[arg(
        long = "event-table",
        env = "TOUCHLINE_EVENT_TABLE",
        default_value = "rt_personalize_event_manager",
        value_name = "TABLE"
    )]
    pub event: String,
    /// Table of the open connections
    #[arg(
        long = "session-table",
        env = "TOUCHLINE_SESSION_TABLE",
        default_value = "rt_personalize_user_session_store",
        value_name = "TABLE"
    )]
    pub session: String,
    /// Table of the item catalog
    #[arg(
        long = "item-table",
        env = "TOUCHLINE_ITEM_TABLE",
        default_value = "rt_personalize_soccer_ux_item",
        value_name = "TABLE"
    )]
    pub item: String,
    /// Table of the push adapter's lease and checkpoint
    #[arg(
        long = "lease-table",
        env = "TOUCHLINE_LEASE_TABLE",
        default_value = "touchline_push_lease",
        value_name = "TABLE"
    )]
    pub lease: String,
}

/// Where everything is kept.
#[derive(Debug, Clone, clap::Args)]
pub struct StoreArgs {
    #[command(flatten)]
    /// Where DynamoDB is
    pub aws: AwsArgs,
    #[command(flatten)]
    /// What the tables are called
    pub names: TableNames,
}

/// The tables of one installation, over one DynamoDB client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) dynamodb: aws_sdk_dynamodb::Client,
    pub(crate) streams: aws_sdk_dynamodbstreams::Client,
    pub(crate) names: Arc<TableNames>,
    index: Arc<Mutex<KnownIndex>>,
}

/// What is known of the audience index.
#[derive(Debug, Clone, Copy, Default)]
enum KnownIndex {
    #[default]
    Unknown,
    /// It is there and complete.
    Present,
    /// It was not there when somebody looked.
    AbsentAt(Instant),
}

/// What a look at the tables found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablesReport {
    /// Tables that did not exist and were made, by name.
    pub created: Vec<String>,
    /// What works less well than it could, for a person to read, each with what mends it.
    pub advice: Vec<String>,
}

impl Store {
    /// Clients for the tables; no call is made.
    pub async fn connect(args: &StoreArgs) -> Self {
        let (region, endpoint) = (&args.aws.region, &args.aws.dynamodb_endpoint);
        let config =
            crate::aws::sdk_config(region.as_deref(), endpoint.as_deref(), ATTEMPT_TIMEOUT).await;
        // Whoever reads the stream backs off by itself, and says so: tried again in here, a throttled
        // call would be silent for seconds, and faster than the quota.
        let streams = aws_sdk_dynamodbstreams::config::Builder::from(&config)
            .retry_config(RetryConfig::disabled());
        Self {
            dynamodb: aws_sdk_dynamodb::Client::new(&config),
            streams: aws_sdk_dynamodbstreams::Client::from_conf(streams.build()),
            names: Arc::new(args.names.clone()),
            index: Arc::default(),
        }
    }

    /// Makes the tables that are absent and verifies those that are present: keys, and the event
    /// table's stream. A table that cannot work is `Error::Misconfigured`, never altered.
    pub async fn prepare(&self) -> Result<TablesReport> {
        let specs = Spec::all(&self.names);
        let prepared = try_join_all(specs.iter().map(|spec| self.prepare_table(spec))).await?;
        let mut report = TablesReport {
            created: Vec::new(),
            advice: Vec::new(),
        };
        for (spec, is_created) in specs.iter().zip(prepared) {
            if is_created {
                report.created.push(spec.name.to_owned());
            }
        }
        report.advice = self.session_advice().await?;
        Ok(report)
    }

    /// Makes or verifies one table; says whether it was made.
    async fn prepare_table(&self, spec: &Spec<'_>) -> Result<bool> {
        if let Some(table) = self.describe(spec.name).await? {
            spec.verify(&table)?;
            self.wait_until_active(spec.name).await?;
            return Ok(false);
        }
        let created = spec.create(self.dynamodb.create_table()).send().await;
        let is_created = match created {
            Ok(_) => true,
            // Somebody else makes it at this moment.
            Err(error) if error.code() == Some("ResourceInUseException") => false,
            Err(error) => return Err(Error::from_sdk(spec.name, error)),
        };
        let table = self.wait_until_active(spec.name).await?;
        spec.verify(&table)?;
        if is_created && spec.has_ttl {
            self.enable_ttl(spec.name).await?;
        }
        Ok(is_created)
    }

    pub(crate) async fn describe(&self, table: &str) -> Result<Option<TableDescription>> {
        match self
            .dynamodb
            .describe_table()
            .table_name(table)
            .send()
            .await
        {
            Ok(found) => Ok(found.table),
            Err(error) if error.code() == Some("ResourceNotFoundException") => Ok(None),
            Err(error) => Err(Error::from_sdk(table, error)),
        }
    }

    async fn wait_until_active(&self, table: &str) -> Result<TableDescription> {
        let started = Instant::now();
        loop {
            if let Some(found) = self.describe(table).await?
                && matches!(
                    found.table_status,
                    Some(TableStatus::Active | TableStatus::Updating)
                )
            {
                return Ok(found);
            }
            if started.elapsed() > ACTIVE_WAIT_MAX {
                return Err(Error::Unavailable(
                    format!("table {table} is not active after {ACTIVE_WAIT_MAX:?}").into(),
                ));
            }
            tokio::time::sleep(ACTIVE_POLL).await;
        }
    }

    /// What `tables upgrade` would improve.
    async fn session_advice(&self) -> Result<Vec<String>> {
        let table = &self.names.session;
        let mut advice = Vec::new();
        if !self.look_for_audience_index().await? {
            advice.push(format!(
                "table {table} has no index {AUDIENCE_INDEX}: each change reads the whole table; \
                 `touchline tables upgrade` adds it"
            ));
        }
        if self.ttl_attribute(table).await?.as_deref() != Some(EXPIRES_AT) {
            advice.push(format!(
                "table {table} has no TTL on {EXPIRES_AT}: sessions whose disconnect was lost stay; \
                 `touchline tables upgrade` adds it"
            ));
        }
        Ok(advice)
    }

    /// Whether the audience index is there and complete. Asks the table once, and once a minute
    /// again while it is not: another process may have added it.
    pub(crate) async fn has_audience_index(&self) -> Result<bool> {
        let known = *self.known_index();
        match known {
            KnownIndex::Present => Ok(true),
            KnownIndex::AbsentAt(looked) if looked.elapsed() < INDEX_LOOK_EVERY => Ok(false),
            KnownIndex::AbsentAt(_) | KnownIndex::Unknown => self.look_for_audience_index().await,
        }
    }

    /// Makes the next reader look for the index again.
    pub(crate) fn forget_audience_index(&self) {
        *self.known_index() = KnownIndex::Unknown;
    }

    pub(crate) async fn look_for_audience_index(&self) -> Result<bool> {
        let name = &self.names.session;
        let table = self.describe(name).await?;
        let table = table.ok_or_else(|| misconfigured(format!("table {name} does not exist")))?;
        let is_there = spec::has_usable_audience_index(&table);
        *self.known_index() = if is_there {
            KnownIndex::Present
        } else {
            KnownIndex::AbsentAt(Instant::now())
        };
        Ok(is_there)
    }

    fn known_index(&self) -> MutexGuard<'_, KnownIndex> {
        // Nothing that holds the lock can panic.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attribute of a table's TTL, if it has one.
    pub(crate) async fn ttl_attribute(&self, table: &str) -> Result<Option<String>> {
        let described = self.dynamodb.describe_time_to_live().table_name(table);
        let described = described.send().await;
        let described = described.map_err(|error| Error::from_sdk(table, error))?;
        let ttl = described.time_to_live_description;
        Ok(ttl.and_then(|ttl| match ttl.time_to_live_status {
            Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling) => ttl.attribute_name,
            _ => None,
        }))
    }

    pub(crate) async fn enable_ttl(&self, table: &str) -> Result<()> {
        let specification = TimeToLiveSpecification::builder()
            .attribute_name(EXPIRES_AT)
            .enabled(true)
            .build()
            .expect("attribute and switch are set");
        let request = self.dynamodb.update_time_to_live().table_name(table);
        let enabled = request
            .time_to_live_specification(specification)
            .send()
            .await;
        enabled.map_err(|error| Error::from_sdk(table, error))?;
        Ok(())
    }
}

pub(crate) fn misconfigured(what: String) -> Error {
    Error::Misconfigured { what, source: None }
}
