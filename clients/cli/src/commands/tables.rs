//! `touchline tables`: the DynamoDB tables themselves. Speaks to DynamoDB, not to the server.

use clap::{Args, Subcommand};
use serde_json::json;
use touchline_store::tables::{Store, StoreArgs};

use crate::{Error, args::Format, output};

/// The DynamoDB tables.
#[derive(Debug, Subcommand)]
pub enum TablesCommand {
    /// Make the tables that are absent, check those that are there, alter none
    Create(TablesArgs),
    /// Add to the session table what makes a large audience fast to find: an index, and a TTL
    Upgrade(TablesArgs),
}

/// Flags of `touchline tables`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --dynamodb-endpoint this is AWS, with its usual credentials. Tables that the prototype made
work as they are; `upgrade` adds to them, removes and renames nothing, and can be repeated.

Examples:
  touchline tables create  --dynamodb-endpoint http://127.0.0.1:8000     a local stack
  touchline tables upgrade --region eu-west-1")]
pub struct TablesArgs {
    #[command(flatten)]
    /// Where
    pub store: StoreArgs,
    #[command(flatten)]
    /// How it looks
    pub format: Format,
}

/// Runs the command.
pub async fn run(command: TablesCommand) -> Result<(), Error> {
    match command {
        TablesCommand::Create(args) => create(&args).await,
        TablesCommand::Upgrade(args) => upgrade(&args).await,
    }
}

async fn create(args: &TablesArgs) -> Result<(), Error> {
    let store = Store::connect(&args.store).await;
    let report = store.prepare().await?;
    if args.format.json {
        return output::line(json!({ "created": report.created, "advice": report.advice }));
    }
    for table in &report.created {
        output::line(format_args!("made {table}"))?;
    }
    if report.created.is_empty() {
        output::line("all tables are there and can be used")?;
    }
    report
        .advice
        .iter()
        .try_for_each(|advice| output::line(format_args!("advice: {advice}")))
}

async fn upgrade(args: &TablesArgs) -> Result<(), Error> {
    let store = Store::connect(&args.store).await;
    let json = args.format.json;
    // A step that cannot be told is no reason to leave the table half upgraded.
    let told = |step: &str| match json {
        true => drop(output::line(json!({ "step": step }))),
        false => drop(output::line(step)),
    };
    store.upgrade(&told).await?;
    match json {
        true => output::line(json!({ "upgraded": args.store.names.session })),
        false => output::line(format_args!("{} is up to date", args.store.names.session)),
    }
}
