//! `touchline items`: the item catalog, written to its table. Speaks to DynamoDB, not to the server,
//! which reads the table by itself.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde_json::json;
use touchline_store::{
    item::Item,
    tables::{Store, StoreArgs},
};

use crate::{Error, args::Format, error::causes, items_csv, output};

/// The item catalog.
#[derive(Debug, Subcommand)]
pub enum ItemsCommand {
    /// Load items from a CSV file; each replaces the row of its id
    Load(LoadArgs),
}

/// Flags of `touchline items load`.
#[derive(Debug, Args)]
#[command(after_help = "\
The file has the header
  ITEM_ID,ITEM_LABEL,ITEM_TYPE,TWITTER_FOLLOWER_COUNT,INSTA_FOLLOWER_COUNT,FIFA_OVR_RATE,
  FIFA_POT_RATE,FIFA_STATS,IS_CELEB,COUNTRY,IS_MONETIZE,IS_ENGAGE
in any order; further columns become further attributes. Blank numbers are 0, blank text is UNKNOWN.
Every line is checked before the first is written. Without --dynamodb-endpoint this is AWS.

Examples:
  touchline items load items.csv --dynamodb-endpoint http://127.0.0.1:8000     a local stack
  touchline items load items.csv --region eu-west-1")]
pub struct LoadArgs {
    /// The CSV file
    #[arg(value_name = "FILE.csv")]
    pub file: PathBuf,
    #[command(flatten)]
    /// Where
    pub store: StoreArgs,
    #[command(flatten)]
    /// How it looks
    pub format: Format,
}

/// Runs the command.
pub async fn run(command: ItemsCommand) -> Result<(), Error> {
    let ItemsCommand::Load(args) = command;
    let items = read(&args.file)?;
    let store = Store::connect(&args.store).await;
    let bar = progress(items.len());
    let written = |count: usize| bar.set_position(count as u64);
    let result = store.put_items(&items, &items_csv::NUMERIC, &written).await;
    bar.finish_and_clear();
    result?;
    match args.format.json {
        true => output::line(json!({ "loaded": items.len() })),
        false => output::line(format_args!(
            "{} items loaded into {}",
            items.len(),
            args.store.names.item
        )),
    }
}

fn read(path: &Path) -> Result<Vec<Item>, Error> {
    let bad = |reason: String| Error::File {
        path: path.to_owned(),
        reason,
    };
    let file = File::open(path).map_err(|error| bad(error.to_string()))?;
    items_csv::read(file).map_err(|error| bad(causes(&error)))
}

fn progress(items: usize) -> ProgressBar {
    if !output::has_terminal() {
        return ProgressBar::hidden();
    }
    ProgressBar::new(items as u64).with_style(output::progress_style("items"))
}
