//! An AWS client that knows nothing of Touchline: it writes rows as the prototype's own tools do.

use aws_sdk_dynamodb::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::AttributeValue,
};

/// The prototype's event table.
pub const EVENT_TABLE: &str = "rt_personalize_event_manager";
/// The prototype's session table.
pub const SESSION_TABLE: &str = "rt_personalize_user_session_store";
/// The prototype's item table.
pub const ITEM_TABLE: &str = "rt_personalize_soccer_ux_item";

/// A client of the DynamoDB at `endpoint`.
pub fn dynamodb(endpoint: &str) -> Client {
    Client::from_conf(
        aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("any", "body", None, None, "test"))
            .endpoint_url(endpoint)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build(),
    )
}

/// A text attribute.
pub fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

/// Puts a row as it is.
pub async fn put(
    client: &Client,
    table: &str,
    row: impl IntoIterator<Item = (&'static str, AttributeValue)>,
) -> anyhow::Result<()> {
    let row = row
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    client
        .put_item()
        .table_name(table)
        .set_item(Some(row.collect()))
        .send()
        .await?;
    Ok(())
}

/// Puts an event row with the prototype's five attributes.
pub async fn put_event(
    client: &Client,
    event: &str,
    match_event: &str,
    timing: &str,
    score_difference: &str,
) -> anyhow::Result<()> {
    put(
        client,
        EVENT_TABLE,
        [
            ("event_id", text(event)),
            ("match_event", text(match_event)),
            ("match_timing", text(timing)),
            ("score_difference", text(score_difference)),
            ("match_venue", text("France")),
            ("match_type", text("FINAL")),
        ],
    )
    .await
}

/// Deletes an event row.
pub async fn delete_event(client: &Client, event: &str) -> anyhow::Result<()> {
    client
        .delete_item()
        .table_name(EVENT_TABLE)
        .key("event_id", text(event))
        .send()
        .await?;
    Ok(())
}

/// All rows of a table.
pub async fn scan(
    client: &Client,
    table: &str,
) -> anyhow::Result<Vec<std::collections::HashMap<String, AttributeValue>>> {
    let mut pages = client
        .scan()
        .table_name(table)
        .consistent_read(true)
        .into_paginator()
        .items()
        .send();
    let mut rows = Vec::new();
    while let Some(row) = pages.next().await {
        rows.push(row?);
    }
    Ok(rows)
}
