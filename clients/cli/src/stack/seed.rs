//! Filling an empty store with the demo. Touches nothing that is there.

use std::path::{Path, PathBuf};

use touchline_store::tables::Store;

use super::StackArgs;
use crate::{Error, demo, items_csv};

/// Seeds what is absent, if the demo is wanted. Returns the file of interactions to learn from: the
/// one that was asked for, or the data folder's own if it is there.
pub(super) async fn seed(
    args: &StackArgs,
    store: &Store,
    folder: &Path,
) -> Result<Option<PathBuf>, Error> {
    if args.demo && store.items().await?.items.is_empty() {
        store
            .put_items(&demo::items(), &items_csv::NUMERIC, &|_| ())
            .await?;
    }
    if let Some(interactions) = &args.interactions {
        return Ok(Some(interactions.clone()));
    }
    let interactions = folder.join("interactions.csv");
    if args.demo && !interactions.exists() {
        write_whole(&interactions, &demo::interactions_csv())?;
    }
    Ok(interactions.exists().then_some(interactions))
}

/// Writes a file so that it is there whole or not at all, also when the power goes.
fn write_whole(path: &Path, text: &str) -> Result<(), Error> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text)
        .and_then(|()| std::fs::File::open(&partial)?.sync_all())
        .and_then(|()| std::fs::rename(&partial, path))
        .map_err(|error| Error::File {
            path: path.to_owned(),
            reason: format!("cannot be written: {error}"),
        })
}
