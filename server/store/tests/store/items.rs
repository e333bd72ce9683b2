//! Rows of the item table.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use aws_sdk_dynamodb::types::AttributeValue;
use touchline_store::{
    Error,
    ids::{ItemId, ItemType},
    item::Item,
};

use crate::common::{ITEM_TABLE, dynamodb, prepared};

fn item(number: usize, attributes: &[(&str, &str)]) -> Item {
    Item {
        item_id: ItemId::new(format!("ITEM_ID_{number}")).unwrap(),
        item_type: ItemType::new("PLAYER").unwrap(),
        attributes: attributes
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect::<BTreeMap<_, _>>(),
    }
}

#[tokio::test]
async fn seed_row_4_items_past_one_page_are_read_whole() {
    let (_embedded, store) = prepared().await;
    // 4 MB in four segments: a page holds 1 MB.
    let label = "x".repeat(20_000);
    let items: Vec<_> = (0..230)
        .map(|number| item(number, &[("item_label", &label), ("fifa_stats", "91")]))
        .collect();
    let done = AtomicUsize::new(0);
    store
        .put_items(&items, &["fifa_stats"], &|written| {
            done.fetch_max(written, Ordering::Relaxed);
        })
        .await
        .unwrap();
    assert_eq!(done.into_inner(), 230);
    let mut found = store.items().await.unwrap();
    let number = |item: &Item| {
        item.item_id.as_str()["ITEM_ID_".len()..]
            .parse::<usize>()
            .unwrap()
    };
    found.items.sort_by_key(number);
    assert_eq!(found.skipped, 0);
    assert!(found.items == items);
}

#[tokio::test]
async fn seed_row_3_rows_without_a_type_are_skipped_and_counted() {
    let (embedded, store) = prepared().await;
    store
        .put_items(&[item(1, &[])], &[], &|_| {})
        .await
        .unwrap();
    let client = dynamodb(&embedded).await;
    let put = client.put_item().table_name(ITEM_TABLE);
    put.item("item_id", AttributeValue::S("untyped".to_owned()))
        .send()
        .await
        .unwrap();
    let found = store.items().await.unwrap();
    assert_eq!((found.items.len(), found.skipped), (1, 1));
}

#[tokio::test]
async fn named_attributes_are_numbers_and_the_later_of_two_counts() {
    let (embedded, store) = prepared().await;
    let items = [
        item(1, &[("fifa_stats", "1")]),
        item(1, &[("fifa_stats", "2")]),
    ];
    store
        .put_items(&items, &["fifa_stats"], &|_| {})
        .await
        .unwrap();
    let client = dynamodb(&embedded).await;
    let get = client.get_item().table_name(ITEM_TABLE);
    let row = get
        .key("item_id", AttributeValue::S("ITEM_ID_1".to_owned()))
        .send()
        .await
        .unwrap();
    assert_eq!(
        row.item.unwrap()["fifa_stats"],
        AttributeValue::N("2".to_owned())
    );
}

#[tokio::test]
async fn nothing_is_written_when_one_item_cannot_be() {
    let (_embedded, store) = prepared().await;
    let items = [
        item(1, &[("fifa_stats", "1")]),
        item(2, &[("fifa_stats", "many")]),
    ];
    let error = store.put_items(&items, &["fifa_stats"], &|_| {}).await;
    assert!(matches!(error, Err(Error::Invalid { .. })));
    assert!(store.items().await.unwrap().items.is_empty());
}
