//! SEED.md, "A change of the event table": what stays as the prototype did it, and what is better.

use anyhow::Result;
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};
use touchline_tests::{
    calls,
    fan::Fan,
    rows::{self, EVENT_TABLE, text},
    stack,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_a_modify_is_pushed_as_the_first_item_of_each_type_in_rank_order() -> Result<()> {
    let stack = stack::start(None).await?;
    let mut fan = Fan::protocol_1(&stack.gateway, "diego", "final").await?;
    rows::put_event(&stack.dynamodb, "1", "INJURY", "FIRST-HALF-1", "0").await?;
    fan.receive().await?;
    rows::put_event(&stack.dynamodb, "1", "GOAL", "FIRST-HALF-1", "1").await?;
    let text = fan.receive_text().await?;
    let asked = calls::components(&stack.client, "diego", "1").await?;
    let expected: serde_json::Map<String, Value> = asked
        .components
        .iter()
        .map(|component| (component.item_type.clone(), json!(component.item_id)))
        .collect();
    assert!(
        asked
            .components
            .is_sorted_by_key(|component| component.rank)
    );
    // As text: the keys stand in the order of the ranking.
    let compact: Value = serde_json::from_str(&text)?;
    assert_eq!(compact.to_string(), Value::Object(expected).to_string());
    stack.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_numbers_and_texts_mean_the_same_context() -> Result<()> {
    let stack = stack::start(None).await?;
    rows::put_event(&stack.dynamodb, "text", "GOAL", "FIRST-HALF-1", "1").await?;
    let row = [
        ("event_id", text("number")),
        ("match_event", text("GOAL")),
        ("match_timing", text("FIRST-HALF-1")),
        ("score_difference", AttributeValue::N("1".to_owned())),
        ("match_venue", text("France")),
        ("match_type", text("FINAL")),
    ];
    rows::put(&stack.dynamodb, EVENT_TABLE, row).await?;
    let text = calls::components(&stack.client, "diego", "text").await?;
    let number = calls::components(&stack.client, "diego", "number").await?;
    assert_eq!(text.components, number.components);
    stack.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn better_an_insert_is_a_first_state_and_is_pushed() -> Result<()> {
    let stack = stack::start(None).await?;
    let mut fan = Fan::protocol_1(&stack.gateway, "diego", "final").await?;
    rows::put_event(&stack.dynamodb, "new", "GOAL", "FIRST-HALF-1", "1").await?;
    assert!(fan.receive().await?.get("PLAYER").is_some());
    stack.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn better_a_remove_ends_the_event() -> Result<()> {
    let stack = stack::start(None).await?;
    let mut old = Fan::protocol_1(&stack.gateway, "diego", "final").await?;
    let mut fan = Fan::protocol_2(&stack.gateway, "diego", "final").await?;
    rows::put_event(&stack.dynamodb, "1", "GOAL", "FIRST-HALF-1", "1").await?;
    old.receive().await?;
    fan.receive().await?;
    rows::delete_event(&stack.dynamodb, "1").await?;
    let ended = fan.receive().await?;
    assert_eq!(
        (&ended["type"], &ended["event_id"]),
        (&json!("ended"), &json!("1"))
    );
    // The prototype's fans hear nothing of it: the next thing they hear is the next event.
    rows::put_event(&stack.dynamodb, "2", "GOAL", "FIRST-HALF-1", "1").await?;
    assert!(old.receive().await?.get("PLAYER").is_some());
    stack.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_an_event_without_content_reaches_all_and_better_one_with_content_its_own()
-> Result<()> {
    let stack = stack::start(None).await?;
    let mut final_fan = Fan::protocol_2(&stack.gateway, "diego", "final").await?;
    let mut other_fan = Fan::protocol_2(&stack.gateway, "camille", "other").await?;
    let routed = |event: &'static str, contents: AttributeValue| {
        let row = [
            ("event_id", text(event)),
            ("match_event", text("GOAL")),
            ("content_id", contents),
        ];
        rows::put(&stack.dynamodb, EVENT_TABLE, row)
    };
    routed("one", text("final")).await?;
    assert_eq!(final_fan.receive().await?["event_id"], "one");
    let both = AttributeValue::Ss(vec!["final".to_owned(), "other".to_owned()]);
    routed("both", both).await?;
    // The very next message of each: the other fan never heard of the first event.
    assert_eq!(other_fan.receive().await?["event_id"], "both");
    assert_eq!(final_fan.receive().await?["event_id"], "both");
    rows::put_event(&stack.dynamodb, "all", "GOAL", "FIRST-HALF-1", "1").await?;
    assert_eq!(other_fan.receive().await?["event_id"], "all");
    assert_eq!(final_fan.receive().await?["event_id"], "all");
    stack.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_display_attributes_alone_reaches_watch_event_and_not_the_fans() -> Result<()> {
    let stack = stack::start(None).await?;
    rows::put_event(&stack.dynamodb, "1", "GOAL", "FIRST-HALF-1", "1").await?;
    let mut fan = Fan::protocol_2(&stack.gateway, "diego", "final").await?;
    fan.receive().await?;
    let mut watch = stack.client.watch("1", Some("diego"));
    let mut clock = async || -> Result<Option<String>> {
        let (state, _) = calls::next_state(&mut watch).await?;
        Ok(state.attributes.get("display_clock").cloned())
    };
    assert_eq!(clock().await?, None);
    calls::merge_event(&stack.client, "1", [("display_clock", "23'")]).await?;
    while clock().await?.as_deref() != Some("23'") {}
    let state = calls::merge_event(&stack.client, "1", [("match_event", "PENALTY")]).await?;
    // The very next message is the next version.
    assert_eq!(fan.receive().await?["version"], *state.version);
    stack.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fan_that_comes_back_is_sent_nothing_while_its_set_stands() -> Result<()> {
    let stack = stack::start(None).await?;
    rows::put_event(&stack.dynamodb, "1", "GOAL", "FIRST-HALF-1", "1").await?;
    let mut fan = Fan::protocol_2(&stack.gateway, "diego", "final").await?;
    let set_id = fan.receive().await?["set_id"].as_str().map(str::to_owned);
    fan.close().await?;
    let mut fan =
        Fan::protocol_2_resuming(&stack.gateway, "diego", "final", set_id.as_deref()).await?;
    // An answer to a later message would come after an answer to the registration.
    fan.send_json(&json!({"no": "action"})).await?;
    assert!(fan.receive_text().await?.contains("default route"));
    let mut fan = Fan::protocol_2_resuming(&stack.gateway, "diego", "final", Some("0")).await?;
    assert_eq!(fan.receive().await?["set_id"].as_str(), set_id.as_deref());
    stack.stop().await
}
