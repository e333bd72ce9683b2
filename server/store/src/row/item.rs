//! Rows of the item table. Does not know what an attribute means: it is carried along as text.

use aws_sdk_dynamodb::types::AttributeValue;

use super::{ITEM_ID, ITEM_TYPE, Row, Unreadable, as_text, json, number, required, text};
use crate::{
    Error, Result,
    ids::{ItemId, ItemType},
    item::Item,
};

/// Reads a row. A null is no attribute.
pub(crate) fn from_row(mut row: Row) -> Result<Item, Unreadable> {
    let item_id = ItemId::new(required(&row, ITEM_ID)?)?;
    let item_type = row.get(ITEM_TYPE).and_then(as_text).unwrap_or_default();
    let item_type = ItemType::new(item_type)?;
    row.remove(ITEM_ID);
    row.remove(ITEM_TYPE);
    Ok(Item {
        item_id,
        item_type,
        attributes: row
            .into_iter()
            .filter_map(|(name, value)| Some((name, carried(value)?)))
            .collect(),
    })
}

fn carried(value: AttributeValue) -> Option<String> {
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => Some(text),
        AttributeValue::Bool(is) => Some(is.to_string()),
        AttributeValue::Null(_) => None,
        other => Some(json::canonical(&other)),
    }
}

/// The row of an item; the attributes named by `numeric` become numbers.
pub(crate) fn to_row(item: &Item, numeric: &[&str]) -> Result<Row> {
    let mut row = Row::with_capacity(item.attributes.len() + 2);
    for (name, value) in &item.attributes {
        if name.is_empty() || name == ITEM_ID || name == ITEM_TYPE {
            return Err(Error::Invalid {
                field: format!("item {}", item.item_id),
                reason: format!("{name:?} cannot be the name of a further attribute"),
            });
        }
        let value = if numeric.contains(&name.as_str()) {
            if !is_number(value) {
                return Err(Error::Invalid {
                    field: format!("{name} of item {}", item.item_id),
                    reason: "is not a number".to_owned(),
                });
            }
            number(value)
        } else {
            text(value)
        };
        row.insert(name.clone(), value);
    }
    row.insert(ITEM_ID.to_owned(), text(item.item_id.as_str()));
    row.insert(ITEM_TYPE.to_owned(), text(item.item_type.as_str()));
    Ok(row)
}

fn is_number(text: &str) -> bool {
    let has_only_number_characters = text
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    has_only_number_characters && text.parse::<f64>().is_ok_and(f64::is_finite)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn item(attributes: &[(&str, &str)]) -> Item {
        Item {
            item_id: ItemId::new("ITEM_ID_1").unwrap(),
            item_type: ItemType::new("PLAYER").unwrap(),
            attributes: attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    #[test]
    fn an_item_survives_being_written_and_read_and_named_attributes_are_numbers() {
        let item = item(&[("item_label", "profile"), ("fifa_stats", "91.5")]);
        let row = to_row(&item, &["fifa_stats"]).unwrap();
        assert_eq!(row["fifa_stats"], number("91.5"));
        assert_eq!(row["item_label"], text("profile"));
        assert_eq!(from_row(row).unwrap(), item);
    }

    #[test]
    fn seed_row_3_an_item_without_a_type_is_unreadable() {
        let row = |item_type: Option<AttributeValue>| {
            let mut row = Row::from([(ITEM_ID.to_owned(), text("ITEM_ID_1"))]);
            row.extend(item_type.map(|value| (ITEM_TYPE.to_owned(), value)));
            row
        };
        assert!(from_row(row(None)).is_err());
        assert!(from_row(row(Some(text("")))).is_err());
        assert!(from_row(row(Some(AttributeValue::Null(true)))).is_err());
        assert_eq!(
            from_row(row(Some(number(&7)))).unwrap().item_type.as_str(),
            "7"
        );
    }

    #[test]
    fn any_further_attribute_is_carried_along_as_text() {
        let mut row = to_row(&item(&[]), &[]).unwrap();
        row.insert("is_celeb".to_owned(), AttributeValue::Bool(false));
        row.insert("nothing".to_owned(), AttributeValue::Null(true));
        row.insert("tags".to_owned(), AttributeValue::Ss(vec!["b".to_owned()]));
        let carried = from_row(row).unwrap();
        assert_eq!(
            carried,
            item(&[("is_celeb", "false"), ("tags", r#"{"SS":["b"]}"#)])
        );
    }

    #[test]
    fn what_is_no_number_is_named() {
        for odd in ["", "many", "inf", "NaN", "1_000", " 1"] {
            let error = to_row(&item(&[("fifa_stats", odd)]), &["fifa_stats"]).unwrap_err();
            assert_eq!(
                error.to_string(),
                "fifa_stats of item ITEM_ID_1: is not a number"
            );
        }
    }
}
