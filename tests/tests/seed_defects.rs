//! The prototype's defects, each a promise that Touchline makes: one test a row of SEED.md's table,
//! end to end, with rows written by a plain AWS client. What needs the inside of one part (paging,
//! TTL, throttles) is tested beside that part.

use anyhow::Result;
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::json;
use touchline_tests::{
    eventually,
    fan::Fan,
    rows::{self, EVENT_TABLE, SESSION_TABLE, text},
    stack,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_1_a_session_that_has_not_registered_is_no_audience_and_harms_nobody() -> Result<()>
{
    let stack = stack::start(None).await?;
    let mut silent = Fan::connect(&stack.gateway).await?;
    let mut fan = Fan::protocol_1(&stack.gateway, "diego", "final").await?;
    rows::put_event(&stack.dynamodb, "1", "GOAL", "FIRST-HALF-1", "1").await?;
    assert!(fan.receive().await?.get("PLAYER").is_some());
    // Had it been sent anything, that would come before the answer to its own message.
    silent.send_json(&json!({"no": "action"})).await?;
    assert_eq!(
        silent.receive_text().await?,
        "\"this is default route. please use right action key\""
    );
    stack.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_2_a_gone_connection_loses_its_row_and_the_others_are_served_once() -> Result<()> {
    let stack = stack::start(None).await?;
    let mut fans = Vec::new();
    for number in 0..9 {
        fans.push(Fan::protocol_2(&stack.gateway, &format!("fan {number}"), "final").await?);
    }
    let endpoint = eventually("the sessions are stored", || async {
        let sessions = rows::scan(&stack.dynamodb, SESSION_TABLE).await.ok()?;
        let registered: Vec<_> = sessions
            .iter()
            .filter(|row| row.contains_key("consumer_id"))
            .collect();
        (registered.len() == 9).then(|| registered[0]["endpoint"].clone())
    })
    .await;
    // A connection that this gateway never had: its row is all that is left of it.
    let gone = [
        ("session_id", text("gone=")),
        ("consumer_id", text("nobody")),
        ("device_id", text("phone")),
        ("content_id", text("final")),
        ("endpoint", endpoint),
        ("audience_key", text("final#03")),
        ("registered_at", AttributeValue::N("1".to_owned())),
    ];
    rows::put(&stack.dynamodb, SESSION_TABLE, gone).await?;

    for (goals, match_event) in ["GOAL", "PENALTY"].into_iter().enumerate() {
        let goals = goals.to_string();
        rows::put_event(&stack.dynamodb, "1", match_event, "FIRST-HALF-1", &goals).await?;
        let mut versions = std::collections::BTreeSet::new();
        for fan in &mut fans {
            // The very next message: nobody is served twice.
            versions.insert(fan.receive().await?["version"].to_string());
        }
        assert_eq!(versions.len(), 1, "served a state twice: {versions:?}");
    }
    eventually("the gone connection's row is deleted", || async {
        let sessions = rows::scan(&stack.dynamodb, SESSION_TABLE).await.ok()?;
        (sessions.len() == 9).then_some(())
    })
    .await;
    stack.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_3_items_without_a_type_are_skipped_and_everybody_is_served() -> Result<()> {
    let stack = stack::start(None).await?;
    for row in [
        vec![("item_id", text("NO_TYPE"))],
        vec![
            ("item_id", text("NULL_TYPE")),
            ("item_type", AttributeValue::Null(true)),
        ],
    ] {
        rows::put(&stack.dynamodb, rows::ITEM_TABLE, row).await?;
    }
    let mut fan = Fan::protocol_1(&stack.gateway, "diego", "final").await?;
    rows::put_event(&stack.dynamodb, "1", "GOAL", "FIRST-HALF-1", "1").await?;
    assert!(fan.receive().await?.get("PLAYER").is_some());
    stack.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_6_a_burst_of_changes_leaves_every_fan_on_the_newest() -> Result<()> {
    let stack = stack::start(None).await?;
    let mut fan = Fan::protocol_2(&stack.gateway, "diego", "final").await?;
    for goals in 0..50 {
        rows::put_event(
            &stack.dynamodb,
            "1",
            "GOAL",
            "FIRST-HALF-1",
            &goals.to_string(),
        )
        .await?;
    }
    let newest = stack.client.get_event("1").await?.version;
    let (mut received, mut sequence) = (0, String::new());
    loop {
        let set = fan.receive().await?;
        received += 1;
        let next = set["sequence"].as_str().unwrap_or_default().to_owned();
        assert!(next > sequence, "{next} after {sequence}");
        sequence = next;
        if set["version"] == *newest {
            break;
        }
    }
    assert!(received <= 50, "an older state came again");
    stack.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_9_an_attribute_missing_from_the_row_is_left_out() -> Result<()> {
    let stack = stack::start(None).await?;
    let mut fan = Fan::protocol_1(&stack.gateway, "diego", "final").await?;
    rows::put(
        &stack.dynamodb,
        EVENT_TABLE,
        [("event_id", text("1")), ("match_event", text("GOAL"))],
    )
    .await?;
    assert!(fan.receive().await?.get("PLAYER").is_some());
    stack.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defects_16_and_17_rows_that_the_prototype_left_behind_harm_nobody() -> Result<()> {
    let stack = stack::start(None).await?;
    let number = |value: &str| AttributeValue::N(value.to_owned());
    let indexed = |key: &'static str, consumer: AttributeValue, content: AttributeValue| {
        vec![
            ("session_id", text(key)),
            ("consumer_id", consumer),
            ("content_id", content),
            ("audience_key", text("final#01")),
            ("registered_at", number("1")),
        ]
    };
    for row in [
        vec![("session_id", text("connected only"))],
        vec![
            ("session_id", text("no device")),
            ("consumer_id", text("old")),
        ],
        indexed("null consumer", AttributeValue::Null(true), text("final")),
        indexed("numeric consumer", number("17"), text("final")),
        indexed("empty consumer", text(""), text("final")),
        indexed("huge content", text("old"), text(&"x".repeat(100_000))),
        indexed("object", AttributeValue::M([].into()), text("final")),
    ] {
        rows::put(&stack.dynamodb, SESSION_TABLE, row).await?;
    }
    let mut fan = Fan::protocol_1(&stack.gateway, "diego", "final").await?;
    for (goals, match_event) in ["GOAL", "PENALTY", "INJURY"].into_iter().enumerate() {
        let goals = goals.to_string();
        rows::put_event(&stack.dynamodb, "1", match_event, "FIRST-HALF-1", &goals).await?;
        assert!(fan.receive().await?.get("PLAYER").is_some());
    }
    stack.stop().await
}
