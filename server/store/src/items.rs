//! Rows of the item table.

use crate::{Result, item::Item, tables::Store};

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
        todo!()
    }

    /// Writes items in batches; each replaces its row. `numeric` names the attributes that are
    /// written as numbers (the prototype's `fifa_stats` and counts). `written` is told how many rows
    /// are done so far.
    pub async fn put_items(
        &self,
        items: &[Item],
        numeric: &[&str],
        written: &(dyn Fn(usize) + Send + Sync),
    ) -> Result<()> {
        let _ = (items, numeric, written);
        todo!()
    }
}
