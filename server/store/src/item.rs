//! A UI component of the catalog. Does not know which of them go together: that is moderation.

use std::collections::BTreeMap;

use crate::ids::{ItemId, ItemType};

/// A UI component that can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its id, the recommender's `itemId`.
    pub item_id: ItemId,
    /// The slot that it fills.
    pub item_type: ItemType,
    /// Whatever else the row holds, as text: `item_label`, `is_monetize`, … Carried to the fan.
    pub attributes: BTreeMap<String, String>,
}
