//! Sessions and audiences, with the index and without.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::types::AttributeValue;
use futures::{StreamExt, stream};
use touchline_store::{
    Error,
    session::{Protocol, Session},
};

use crate::common::{
    SESSION_TABLE, audience, bare, connection, contents, dynamodb, join, prepared,
    prepared_embedded, reached, registration, store,
};
use crate::tables::make_prototype_tables;

#[tokio::test]
async fn seed_row_1_a_session_is_an_audience_once_it_has_registered() {
    let (_embedded, store) = prepared().await;
    let a = connection("a");
    store.open_session(&a, "http://front").await.unwrap();
    assert_eq!(store.session(&a).await.unwrap(), None);
    assert!(reached(&store, &[]).await.is_empty());
    let ana = registration("ana", "final", Protocol::V2);
    store.register_session(&a, &ana).await.unwrap();
    let session = Session {
        connection_id: a.clone(),
        consumer_id: ana.consumer_id.clone(),
        content_id: Some(ana.content_id.clone()),
        protocol: Protocol::V2,
        endpoint: Some("http://front".to_owned()),
    };
    assert_eq!(store.session(&a).await.unwrap(), Some(session.clone()));
    let (found, _) = audience(&store, &["final"]).await;
    assert_eq!(found["a"], session);
    store.close_session(&a).await.unwrap();
    store.close_session(&a).await.unwrap();
    assert!(reached(&store, &["final"]).await.is_empty());
}

#[tokio::test]
async fn a_late_message_never_brings_a_closed_session_back() {
    let (_embedded, store) = prepared().await;
    let a = connection("a");
    let ana = registration("ana", "final", Protocol::V1);
    let late = store.register_session(&a, &ana).await;
    assert!(matches!(late, Err(Error::Conflict(_))), "{late:?}");
    store.open_session(&a, "").await.unwrap();
    store.close_session(&a).await.unwrap();
    let late = store.register_session(&a, &ana).await;
    assert!(matches!(late, Err(Error::Conflict(_))), "{late:?}");
    assert!(reached(&store, &[]).await.is_empty());
}

#[tokio::test]
async fn registering_anew_moves_the_session_and_a_second_connect_forgets_it() {
    let (_embedded, store) = prepared().await;
    join(&store, "a", "ana", "final").await;
    let a = connection("a");
    let moved = registration("ana", "other", Protocol::V1);
    store.register_session(&a, &moved).await.unwrap();
    assert!(reached(&store, &["final"]).await.is_empty());
    assert_eq!(reached(&store, &["other"]).await, ["a"]);
    store.open_session(&a, "").await.unwrap();
    assert_eq!(store.session(&a).await.unwrap(), None);
    assert!(reached(&store, &["other"]).await.is_empty());
}

#[tokio::test]
async fn an_audience_with_the_index_and_without_is_the_same() {
    let (_indexed, with) = prepared().await;
    let (plain, without) = bare().await;
    make_prototype_tables(&plain).await;
    without.prepare().await.unwrap();
    for store in [&with, &without] {
        for number in 0..60 {
            let content = ["final", "other", "third"][number % 3];
            join(
                store,
                &format!("c{number:02}"),
                &format!("fan {number}"),
                content,
            )
            .await;
        }
        store
            .open_session(&connection("unregistered"), "")
            .await
            .unwrap();
    }
    for content_ids in [&[][..], &["final"], &["final", "other"], &["nobody's"]] {
        let (found, skipped) = audience(&without, content_ids).await;
        assert_eq!(
            found,
            audience(&with, content_ids).await.0,
            "{content_ids:?}"
        );
        assert_eq!(
            found.len(),
            [60, 20, 40, 0][match content_ids {
                [] => 0,
                ["nobody's"] => 3,
                [_] => 1,
                _ => 2,
            }]
        );
        assert_eq!(skipped, 1);
    }
}

/// Rows as large as a page of 1 MB takes thousands of.
async fn fill(client: &aws_sdk_dynamodb::Client, count: usize, has_index: bool) {
    stream::iter(0..count)
        .for_each_concurrent(16, |number| async move {
            let text = |text: &str| AttributeValue::S(text.to_owned());
            let mut put = client
                .put_item()
                .table_name(SESSION_TABLE)
                .item("session_id", text(&format!("connection {number}")))
                .item("consumer_id", text(&format!("fan {number}")))
                .item("device_id", text(&"x".repeat(50_000)))
                .item("content_id", text("final"));
            if has_index {
                put = put
                    .item("audience_key", text(&format!("final#{:02}", number % 8)))
                    .item("registered_at", AttributeValue::N(number.to_string()));
            }
            put.send().await.unwrap();
        })
        .await;
}

#[tokio::test]
async fn seed_row_4_audiences_past_one_page_are_read_whole() {
    let (plain, without) = bare().await;
    make_prototype_tables(&plain).await;
    without.prepare().await.unwrap();
    let (indexed, with) = prepared().await;
    // 12 MB in eight shards: more than a page of 1 MB each.
    for (place, store, has_index) in [(&plain, &without, false), (&indexed, &with, true)] {
        fill(&dynamodb(place).await, 240, has_index).await;
        for content_ids in [&["final"][..], &[]] {
            let found = reached(store, content_ids).await;
            assert_eq!(found.len(), 240, "{content_ids:?}, index: {has_index}");
        }
    }
}

#[tokio::test]
async fn seed_row_16_rows_that_fill_a_page_hide_nobody() {
    let (place, store) = prepared().await;
    let client = dynamodb(&place).await;
    for number in 0..40 {
        let huge = AttributeValue::S("x".repeat(100_000));
        let put = client.put_item().table_name(SESSION_TABLE);
        put.item("session_id", AttributeValue::S(format!("huge {number}")))
            .item("consumer_id", AttributeValue::S("ana".to_owned()))
            .item("content_id", huge)
            .send()
            .await
            .unwrap();
    }
    join(&store, "a", "ana", "final").await;
    assert_eq!(reached(&store, &[]).await, ["a"]);
}

#[tokio::test]
async fn seed_row_17_rows_left_behind_are_read_as_text_or_skipped() {
    let (place, store) = bare().await;
    make_prototype_tables(&place).await;
    store.prepare().await.unwrap();
    let client = dynamodb(&place).await;
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let number = |number: &str| AttributeValue::N(number.to_owned());
    let null = AttributeValue::Null(true);
    let rows = [
        ("plain", Some(text("ana")), Some(text("final"))),
        ("numeric", Some(number("42")), Some(text("final"))),
        ("numeric content", Some(text("ben")), Some(number("7"))),
        ("null", Some(null.clone()), Some(text("final"))),
        (
            "object",
            Some(AttributeValue::M([].into())),
            Some(text("final")),
        ),
        ("unregistered", None, None),
        ("no content", Some(text("cyd")), None),
        ("empty", Some(text("")), Some(text("final"))),
    ];
    for (session, consumer, content) in rows {
        let put = client.put_item().table_name(SESSION_TABLE);
        let mut put = put.item("session_id", text(session));
        if let Some(consumer) = consumer {
            put = put.item("consumer_id", consumer);
        }
        if let Some(content) = content {
            put = put.item("content_id", content);
        }
        put.send().await.unwrap();
    }
    let (found, skipped) = audience(&store, &[]).await;
    let found: Vec<_> = found
        .values()
        .map(|session| format!("{}: {}", session.connection_id, session.consumer_id))
        .collect();
    assert_eq!(found, ["numeric: 42", "numeric content: ben", "plain: ana"]);
    assert_eq!(skipped, 5);
    assert_eq!(reached(&store, &["7"]).await, ["numeric content"]);
}

#[tokio::test]
async fn seed_row_11_a_row_says_when_it_may_go_and_is_no_audience_from_then_on() {
    let (place, store) = prepared().await;
    join(&store, "a", "ana", "final").await;
    let client = dynamodb(&place).await;
    let get = client.get_item().table_name(SESSION_TABLE);
    let row = get
        .key("session_id", AttributeValue::S("a".to_owned()))
        .send()
        .await
        .unwrap()
        .item
        .unwrap();
    let expires_at: u64 = row["expires_at"].as_n().unwrap().parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let lifetime = Duration::from_secs(expires_at).checked_sub(now).unwrap();
    assert!(lifetime > Duration::from_secs(2 * 60 * 60), "{lifetime:?}");
    assert!(lifetime < Duration::from_secs(3 * 60 * 60), "{lifetime:?}");
    expire(&client, "a").await;
    // DynamoDB deletes it within days; readers know better.
    assert_eq!(audience(&store, &["final"]).await.0, [].into());
}

/// Moves the moment at which a session's row may go a minute into the past.
pub(crate) async fn expire(client: &aws_sdk_dynamodb::Client, session: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let past = AttributeValue::N((now.as_secs() - 60).to_string());
    let update = client.update_item().table_name(SESSION_TABLE);
    update
        .key("session_id", AttributeValue::S(session.to_owned()))
        .update_expression("SET expires_at = :past")
        .expression_attribute_values(":past", past)
        .send()
        .await
        .unwrap();
}

/// On the embedded engine alone, since a test can stop no other.
#[tokio::test]
async fn a_store_that_cannot_be_reached_is_an_error_of_each_page_and_no_panic() {
    let (embedded, store) = prepared_embedded().await;
    join(&store, "a", "ana", "final").await;
    assert_eq!(reached(&store, &["final"]).await, ["a"]);
    embedded.stop().await;
    let pages: Vec<_> = store.audience(&contents(&["final"])).collect().await;
    assert_eq!(pages.len(), 8);
    for page in pages {
        assert!(matches!(page, Err(Error::Unavailable(_))), "{page:?}");
    }
}

#[tokio::test]
async fn an_index_that_was_added_by_another_is_found_and_one_that_was_deleted_is_missed_once() {
    let (place, with) = prepared().await;
    join(&with, "a", "ana", "final").await;
    assert_eq!(reached(&with, &["final"]).await, ["a"]);
    let client = dynamodb(&place).await;
    let update = client.update_table().table_name(SESSION_TABLE);
    let delete = aws_sdk_dynamodb::types::DeleteGlobalSecondaryIndexAction::builder()
        .index_name("audience")
        .build()
        .unwrap();
    let delete = aws_sdk_dynamodb::types::GlobalSecondaryIndexUpdate::builder()
        .delete(delete)
        .build();
    update
        .global_secondary_index_updates(delete)
        .send()
        .await
        .unwrap();
    let pages: Vec<_> = with.audience(&contents(&["final"])).collect().await;
    assert!(pages.iter().all(Result::is_err));
    assert_eq!(reached(&with, &["final"]).await, ["a"]);
    let fresh = store(&place).await;
    fresh.upgrade(&|_| {}).await.unwrap();
    assert_eq!(reached(&fresh, &["final"]).await, ["a"]);
}
