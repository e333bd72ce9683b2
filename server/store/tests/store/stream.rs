//! The event table's stream, read over the real wire protocol.

use crate::common::{bare, dynamodb, event_id, prepared, state};
use touchline_store::{
    change::{Change, ChangeKind},
    stream::{ChangeStream, Checkpoint, Quota},
};

use aws_sdk_dynamodb::types::AttributeValue;

fn scores(changes: &[Change]) -> Vec<(String, Option<String>)> {
    let changes = changes.iter();
    changes
        .map(|change| {
            let score = match &change.kind {
                ChangeKind::Put(state) => state.attributes.get("score"),
                ChangeKind::Removed => None,
            };
            let score = score.map(|score| score.as_text().to_owned());
            (change.event_id.to_string(), score)
        })
        .collect()
}

fn entry(event: &str, score: Option<&str>) -> (String, Option<String>) {
    (event.to_owned(), score.map(str::to_owned))
}

#[tokio::test]
async fn reading_drains_to_the_tip_and_keeps_the_newest_state_of_each_event() {
    let (_embedded, store) = prepared().await;
    let mut stream = ChangeStream::open(&store, None, Quota::UNLIMITED)
        .await
        .unwrap();
    assert!(!stream.resumed());
    for score in 0..1_100 {
        let state = state("1", &[("score", &score.to_string())], &[]);
        store.put_event(&state, false).await.unwrap();
    }
    store
        .put_event(&state("2", &[("score", "0")], &[]), false)
        .await
        .unwrap();
    let polled = stream.poll().await.unwrap();
    assert_eq!(
        scores(&polled.changes.changes),
        [entry("1", Some("1099")), entry("2", Some("0"))]
    );
    assert_eq!(polled.changes.dropped, 1_099);
    let positions: Vec<_> = polled
        .changes
        .changes
        .iter()
        .map(|change| change.position.clone().unwrap())
        .collect();
    assert!(positions[1].is_after(&positions[0]));
    assert_eq!(positions[0].epoch(), stream.epoch());
    let polled = stream.poll().await.unwrap();
    assert!(polled.changes.changes.is_empty());
}

#[tokio::test]
async fn a_first_reader_starts_at_the_tip_as_it_was_when_it_opened() {
    let (_embedded, store) = prepared().await;
    store
        .put_event(&state("1", &[("score", "old")], &[]), false)
        .await
        .unwrap();
    let mut stream = ChangeStream::open(&store, None, Quota::UNLIMITED)
        .await
        .unwrap();
    store
        .put_event(&state("1", &[("score", "new")], &[]), false)
        .await
        .unwrap();
    let polled = stream.poll().await.unwrap();
    assert_eq!(scores(&polled.changes.changes), [entry("1", Some("new"))]);
    assert_eq!(polled.changes.dropped, 0);
}

#[tokio::test]
async fn reopened_at_its_checkpoint_it_loses_nothing_and_repeats_nothing() {
    let (_embedded, store) = prepared().await;
    let put = async |event: &str, score: &str| {
        let state = state(event, &[("score", score)], &[]);
        store.put_event(&state, false).await.unwrap();
    };
    put("0", "0").await;
    let mut stream = ChangeStream::open(&store, None, Quota::UNLIMITED)
        .await
        .unwrap();
    for round in 0..5 {
        put("a", &format!("{round}")).await;
        let polled = stream.poll().await.unwrap();
        let expected = [entry("a", Some(&round.to_string()))];
        assert_eq!(scores(&polled.changes.changes)[..1], expected);
        put("b", &format!("{round}")).await;
        // What was written since is what the next reader finds, and only that.
        stream = ChangeStream::open(&store, Some(&stream.checkpoint()), Quota::UNLIMITED)
            .await
            .unwrap();
        assert!(stream.resumed());
        let polled = stream.poll().await.unwrap();
        let expected = [entry("b", Some(&round.to_string()))];
        assert_eq!(scores(&polled.changes.changes), expected);
        assert_eq!(polled.changes.dropped, 0);
        stream = ChangeStream::open(&store, Some(&stream.checkpoint()), Quota::UNLIMITED)
            .await
            .unwrap();
        assert!(stream.poll().await.unwrap().changes.changes.is_empty());
    }
}

#[tokio::test]
async fn a_checkpoint_that_was_taken_before_the_first_record_loses_nothing() {
    let (_embedded, store) = prepared().await;
    let stream = ChangeStream::open(&store, None, Quota::UNLIMITED)
        .await
        .unwrap();
    let checkpoint = stream.checkpoint();
    store
        .put_event(&state("1", &[("score", "0")], &[]), false)
        .await
        .unwrap();
    let mut stream = ChangeStream::open(&store, Some(&checkpoint), Quota::UNLIMITED)
        .await
        .unwrap();
    assert!(stream.resumed());
    let polled = stream.poll().await.unwrap();
    assert_eq!(scores(&polled.changes.changes), [entry("1", Some("0"))]);
}

#[tokio::test]
async fn a_checkpoint_of_another_stream_is_not_resumed() {
    let (_embedded, store) = prepared().await;
    let stream = ChangeStream::open(&store, None, Quota::UNLIMITED)
        .await
        .unwrap();
    let checkpoint = Checkpoint {
        epoch: "another".to_owned(),
        ..stream.checkpoint()
    };
    let stream = ChangeStream::open(&store, Some(&checkpoint), Quota::UNLIMITED)
        .await
        .unwrap();
    assert!(!stream.resumed());
}

#[tokio::test]
async fn a_deleted_row_is_a_change_and_an_unreadable_one_stops_nothing() {
    let (embedded, store) = prepared().await;
    let mut stream = ChangeStream::open(&store, None, Quota::UNLIMITED)
        .await
        .unwrap();
    let client = dynamodb(&embedded).await;
    let put = async |event: &str, content: AttributeValue| {
        client
            .put_item()
            .table_name(crate::common::EVENT_TABLE)
            .item("event_id", AttributeValue::S(event.to_owned()))
            .item("content_id", content)
            .item("score", AttributeValue::N("2".to_owned()))
            .send()
            .await
            .unwrap();
    };
    put("gone", AttributeValue::S("final".to_owned())).await;
    put("odd", AttributeValue::N("7".to_owned())).await;
    put("fine", AttributeValue::S("final".to_owned())).await;
    store.delete_event(&event_id("gone")).await.unwrap();
    let polled = stream.poll().await.unwrap();
    assert_eq!(
        scores(&polled.changes.changes),
        [entry("fine", Some("2")), entry("gone", None)]
    );
    assert_eq!(polled.poison, 1);
    assert!(stream.poll().await.unwrap().changes.changes.is_empty());
}

#[tokio::test]
async fn a_table_without_a_stream_says_so() {
    let (_embedded, store) = bare().await;
    let error = ChangeStream::open(&store, None, Quota::UNLIMITED)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("has no stream"), "{error}");
}
