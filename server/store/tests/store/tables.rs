//! Tables: made when absent, verified when present, upgraded when asked.

use std::sync::Mutex;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType, StreamSpecification, StreamViewType, TableDescription,
};
use touchline_store::Error;

use crate::common::{
    Dynamodb, EVENT_TABLE, ITEM_TABLE, LEASE_TABLE, SESSION_TABLE, audience, bare, dynamodb, join,
    prepared_embedded, reached, store,
};

async fn make_table(place: &Dynamodb, table: &str, key: &str, view: Option<StreamViewType>) {
    let definition = AttributeDefinition::builder()
        .attribute_name(key)
        .attribute_type(ScalarAttributeType::S)
        .build()
        .unwrap();
    let schema = KeySchemaElement::builder()
        .attribute_name(key)
        .key_type(KeyType::Hash)
        .build()
        .unwrap();
    let stream = view.map(|view| {
        StreamSpecification::builder()
            .stream_enabled(true)
            .stream_view_type(view)
            .build()
            .unwrap()
    });
    dynamodb(place)
        .await
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(definition)
        .key_schema(schema)
        .set_stream_specification(stream)
        .send()
        .await
        .unwrap();
}

/// The three tables as the prototype's template makes them: no index, no TTL, no lease table.
pub(crate) async fn make_prototype_tables(place: &Dynamodb) {
    let view = Some(StreamViewType::NewAndOldImages);
    make_table(place, EVENT_TABLE, "event_id", view).await;
    make_table(place, SESSION_TABLE, "session_id", None).await;
    make_table(place, ITEM_TABLE, "item_id", None).await;
}

async fn describe(place: &Dynamodb, table: &str) -> TableDescription {
    let client = dynamodb(place).await;
    let described = client.describe_table().table_name(table).send().await;
    described.unwrap().table.unwrap()
}

async fn ttl_attribute(place: &Dynamodb) -> Option<String> {
    let client = dynamodb(place).await;
    let described = client.describe_time_to_live().table_name(SESSION_TABLE);
    let described = described.send().await.unwrap();
    described.time_to_live_description.unwrap().attribute_name
}

#[tokio::test]
async fn tables_that_are_absent_are_made_as_the_prototypes_and_with_index_and_ttl() {
    let (place, store) = bare().await;
    let report = store.prepare().await.unwrap();
    assert_eq!(
        report.created,
        [EVENT_TABLE, SESSION_TABLE, ITEM_TABLE, LEASE_TABLE]
    );
    assert!(report.advice.is_empty(), "{:?}", report.advice);
    for (table, key) in [
        (EVENT_TABLE, "event_id"),
        (SESSION_TABLE, "session_id"),
        (ITEM_TABLE, "item_id"),
        (LEASE_TABLE, "lease_key"),
    ] {
        let described = describe(&place, table).await;
        let keys = described.key_schema();
        assert_eq!((keys.len(), keys[0].attribute_name()), (1, key));
        let billing = described.billing_mode_summary.unwrap();
        assert_eq!(billing.billing_mode, Some(BillingMode::PayPerRequest));
    }
    let stream = describe(&place, EVENT_TABLE).await.stream_specification;
    let view = stream.unwrap().stream_view_type;
    assert_eq!(view, Some(StreamViewType::NewAndOldImages));
    let session = describe(&place, SESSION_TABLE).await;
    assert!(
        session
            .stream_specification
            .as_ref()
            .is_none_or(|stream| !stream.stream_enabled)
    );
    let indexes = session.global_secondary_indexes();
    assert_eq!(indexes[0].index_name(), Some("audience"));
    let keys: Vec<_> = indexes[0]
        .key_schema()
        .iter()
        .map(KeySchemaElement::attribute_name)
        .collect();
    assert_eq!(keys, ["audience_key", "registered_at"]);
    assert_eq!(ttl_attribute(&place).await.as_deref(), Some("expires_at"));
    let again = store.prepare().await.unwrap();
    assert!(again.created.is_empty() && again.advice.is_empty());
}

#[tokio::test]
async fn two_that_prepare_at_once_both_succeed() {
    let (place, one) = bare().await;
    let two = store(&place).await;
    let (first, second) = tokio::join!(one.prepare(), two.prepare());
    assert_eq!(
        first.unwrap().created.len() + second.unwrap().created.len(),
        4
    );
}

#[tokio::test]
async fn a_prototypes_table_is_never_altered_unasked_and_the_advice_names_the_upgrade() {
    let (place, store) = bare().await;
    make_prototype_tables(&place).await;
    let before = describe(&place, SESSION_TABLE).await;
    let report = store.prepare().await.unwrap();
    assert_eq!(report.created, [LEASE_TABLE]);
    assert_eq!(report.advice.len(), 2);
    for advice in &report.advice {
        assert!(advice.contains("touchline tables upgrade"), "{advice}");
    }
    join(&store, "a", "ana", "final").await;
    assert_eq!(reached(&store, &["final"]).await, ["a"]);
    let after = describe(&place, SESSION_TABLE).await;
    assert_eq!(
        after.global_secondary_indexes,
        before.global_secondary_indexes
    );
    assert_eq!(after.attribute_definitions, before.attribute_definitions);
    assert_eq!(ttl_attribute(&place).await, None);
}

#[tokio::test]
async fn upgrading_a_prototypes_table_is_idempotent_and_changes_no_audience() {
    let (place, store) = bare().await;
    make_prototype_tables(&place).await;
    store.prepare().await.unwrap();
    let client = dynamodb(&place).await;
    let text = |text: &str| AttributeValue::S(text.to_owned());
    for (session, consumer, content) in [
        ("old", text("ana"), text("final")),
        (
            "numeric",
            AttributeValue::N("42".to_owned()),
            AttributeValue::N("7".to_owned()),
        ),
        ("null", AttributeValue::Null(true), text("final")),
    ] {
        let put = client.put_item().table_name(SESSION_TABLE);
        put.item("session_id", text(session))
            .item("consumer_id", consumer)
            .item("content_id", content)
            .send()
            .await
            .unwrap();
    }
    // A session that the prototype registered anew has a key of its former content.
    join(&store, "moved", "ben", "other").await;
    let update = client.update_item().table_name(SESSION_TABLE);
    update
        .key("session_id", text("moved"))
        .update_expression("SET content_id = :content")
        .expression_attribute_values(":content", text("final"))
        .send()
        .await
        .unwrap();
    join(&store, "new", "cyd", "final").await;
    let before = audience(&store, &["final", "7"]).await.0;
    assert_eq!(before.len(), 4);
    let told = Mutex::new(Vec::new());
    let progress = |step: &str| told.lock().unwrap().push(step.to_owned());
    store.upgrade(&progress).await.unwrap();
    let steps = told.lock().unwrap().join("\n");
    assert!(steps.contains("3 given their audience_key"), "{steps}");
    assert!(steps.contains("index audience is active"), "{steps}");
    assert_eq!(ttl_attribute(&place).await.as_deref(), Some("expires_at"));
    let scan = || async {
        let scanned = client.scan().table_name(SESSION_TABLE).send().await;
        let mut rows = scanned.unwrap().items.unwrap();
        rows.sort_by_key(|row| row["session_id"].as_s().unwrap().clone());
        rows
    };
    let rows = scan().await;
    assert_eq!(audience(&store, &["final", "7"]).await.0, before);
    told.lock().unwrap().clear();
    store.upgrade(&progress).await.unwrap();
    let steps = told.lock().unwrap().join("\n");
    assert!(steps.contains("0 given their audience_key"), "{steps}");
    assert_eq!(scan().await, rows);
    let report = store.prepare().await.unwrap();
    assert!(report.advice.is_empty(), "{:?}", report.advice);
}

#[tokio::test]
async fn a_table_that_cannot_work_is_named_with_what_mends_it_and_left_alone() {
    for (table, key, view, fix) in [
        (
            EVENT_TABLE,
            "id",
            Some(StreamViewType::NewAndOldImages),
            "event_id",
        ),
        (EVENT_TABLE, "event_id", None, "update-table"),
        (
            EVENT_TABLE,
            "event_id",
            Some(StreamViewType::KeysOnly),
            "NEW_AND_OLD_IMAGES",
        ),
        (SESSION_TABLE, "id", None, "session_id"),
        (ITEM_TABLE, "id", None, "item_id"),
        (LEASE_TABLE, "id", None, "lease_key"),
    ] {
        let (place, store) = bare().await;
        make_table(&place, table, key, view).await;
        let error = store.prepare().await.unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Misconfigured { .. }), "{message}");
        assert!(
            message.contains(table) && message.contains(fix),
            "{message}"
        );
        assert_eq!(
            describe(&place, table).await.key_schema()[0].attribute_name(),
            key
        );
    }
}

/// On the embedded engine alone, since a test can stop no other.
#[tokio::test]
async fn an_endpoint_where_nobody_listens_is_unavailable() {
    let (embedded, store) = prepared_embedded().await;
    embedded.stop().await;
    let error = store.prepare().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
}
