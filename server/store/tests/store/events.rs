//! Rows of the event table.

use aws_sdk_dynamodb::types::AttributeValue;
use touchline_store::Error;

use crate::common::{EVENT_TABLE, contents, dynamodb, event_id, prepared, state};

#[tokio::test]
async fn a_put_replaces_the_row_and_a_merge_keeps_what_is_not_given() {
    let (_embedded, store) = prepared().await;
    let first = state("1", &[("match_event", "GOAL"), ("clock", "23")], &["final"]);
    assert_eq!(store.put_event(&first, false).await.unwrap(), first);
    let merged = store
        .put_event(&state("1", &[("match_event", "THROW")], &[]), true)
        .await
        .unwrap();
    let expected = state(
        "1",
        &[("match_event", "THROW"), ("clock", "23")],
        &["final"],
    );
    assert_eq!(merged, expected);
    assert_eq!(store.event(&event_id("1")).await.unwrap(), Some(expected));
    let moved = store.put_event(&state("1", &[], &["a", "b"]), true).await;
    assert_eq!(moved.unwrap().contents, contents(&["a", "b"]));
    let replaced = state("1", &[], &[]);
    store.put_event(&replaced, false).await.unwrap();
    assert_eq!(store.event(&event_id("1")).await.unwrap(), Some(replaced));
}

#[tokio::test]
async fn a_merge_makes_the_row_when_there_is_none() {
    let (_embedded, store) = prepared().await;
    for new in [state("1", &[("a", "b")], &[]), state("2", &[], &[])] {
        assert_eq!(store.put_event(&new, true).await.unwrap(), new);
        assert_eq!(store.event(&new.event_id).await.unwrap(), Some(new));
    }
}

#[tokio::test]
async fn reserved_words_and_odd_names_are_attributes_like_any_other() {
    let (_embedded, store) = prepared().await;
    let odd = state(
        "1",
        &[("name", "a"), ("a.b", "c"), ("#x", "y"), ("é ü", "z")],
        &[],
    );
    assert_eq!(store.put_event(&odd, true).await.unwrap(), odd);
}

#[tokio::test]
async fn an_attribute_named_like_a_key_is_refused_and_nothing_is_stored() {
    let (_embedded, store) = prepared().await;
    for name in ["event_id", "content_id", ""] {
        for merge in [false, true] {
            let odd = state("1", &[(name, "x")], &[]);
            let error = store.put_event(&odd, merge).await.unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error}");
        }
    }
    assert_eq!(store.event(&event_id("1")).await.unwrap(), None);
}

#[tokio::test]
async fn deleting_says_whether_there_was_a_row() {
    let (_embedded, store) = prepared().await;
    store.put_event(&state("1", &[], &[]), false).await.unwrap();
    assert!(store.delete_event(&event_id("1")).await.unwrap());
    assert!(!store.delete_event(&event_id("1")).await.unwrap());
    assert_eq!(store.event(&event_id("1")).await.unwrap(), None);
}

#[tokio::test]
async fn what_another_writer_wrote_is_read_numbers_as_their_text() {
    let (embedded, store) = prepared().await;
    let client = dynamodb(&embedded).await;
    let put = client.put_item().table_name(EVENT_TABLE);
    put.item("event_id", AttributeValue::S("1".to_owned()))
        .item("score_difference", AttributeValue::N("2".to_owned()))
        .item("content_id", AttributeValue::Ss(vec!["final".to_owned()]))
        .send()
        .await
        .unwrap();
    assert_eq!(
        store.event(&event_id("1")).await.unwrap(),
        Some(state("1", &[("score_difference", "2")], &["final"]))
    );
}

#[tokio::test]
async fn pages_reach_every_event_and_skip_rows_that_cannot_be_understood() {
    let (embedded, store) = prepared().await;
    for number in 0..25 {
        let state = state(&format!("event {number}"), &[], &[]);
        store.put_event(&state, false).await.unwrap();
    }
    let client = dynamodb(&embedded).await;
    // Keys that are no event ids: a page may well end on one of them.
    for number in 0..10 {
        let key = format!("{number}{}", "x".repeat(300));
        let put = client.put_item().table_name(EVENT_TABLE);
        put.item("event_id", AttributeValue::S(key))
            .send()
            .await
            .unwrap();
    }
    for limit in [1, 7, 1_000] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = store.events(limit, after.as_ref()).await.unwrap();
            seen.extend(page.states.iter().map(|state| state.event_id.to_string()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 25, "limit {limit}");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 25, "limit {limit}");
    }
}
