//! The tables: their names, keys and attributes. `SEED.md`'s tables are the contract; what Touchline
//! adds is additive, and nothing is altered unasked.

use std::sync::Arc;

use crate::{Result, aws::AwsArgs};

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
        let _ = args;
        todo!()
    }

    /// Makes the tables that are absent and verifies those that are present: keys, and the event
    /// table's stream. A table that cannot work is `Error::Misconfigured`, never altered.
    pub async fn prepare(&self) -> Result<TablesReport> {
        todo!()
    }

    /// Adds what Touchline can use to tables that were made by somebody else: the audience index and
    /// TTL on the session table; gives registered rows without an audience key theirs. `progress` is
    /// told each step. Repeating it changes nothing.
    pub async fn upgrade(&self, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<()> {
        let _ = progress;
        todo!()
    }
}
