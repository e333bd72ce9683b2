//! Bad input at every door: a clear error, nobody else disturbed, nothing stored. What each door says
//! is tested beside it; this is about the others behind it.

use anyhow::Result;
use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use serde_json::json;
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};
use touchline_tests::{
    calls,
    fan::{Fan, registration},
    rows::{self, EVENT_TABLE, SESSION_TABLE, text},
    stack,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_rows_with_odd_attributes_disturb_nobody() -> Result<()> {
    let stack = stack::start(None).await?;
    let mut fan = Fan::protocol_2(&stack.gateway, "diego", "final").await?;
    let odd_attributes = [
        ("event_id", text("odd")),
        ("match_event", AttributeValue::L(vec![text("GOAL")])),
        ("match_timing", AttributeValue::B(Blob::new([0, 255]))),
        ("score_difference", AttributeValue::Null(true)),
        (
            "match_venue",
            AttributeValue::M([("a".to_owned(), text("b"))].into()),
        ),
        ("match_type", AttributeValue::Ns(vec!["1".to_owned()])),
    ];
    rows::put(&stack.dynamodb, EVENT_TABLE, odd_attributes).await?;
    // It still is a state: the recommender is asked with what can be read.
    let pushed = fan.receive().await?;
    assert_eq!(pushed["event_id"], "odd");
    // And it decides the same wherever it is asked for.
    let asked = calls::components(&stack.client, "diego", "odd").await?;
    assert_eq!(pushed["set_id"], *asked.set_id);
    assert_eq!(pushed["version"], *asked.version);

    for (event, contents) in [
        ("content number", AttributeValue::N("7".to_owned())),
        ("content map", AttributeValue::M([].into())),
        ("content huge", text(&"x".repeat(300))),
    ] {
        let row = [
            ("event_id", text(event)),
            ("match_event", text("GOAL")),
            ("content_id", contents),
        ];
        rows::put(&stack.dynamodb, EVENT_TABLE, row).await?;
    }
    rows::put_event(
        &stack.dynamodb,
        &"e".repeat(300),
        "GOAL",
        "FIRST-HALF-1",
        "1",
    )
    .await?;
    rows::put_event(&stack.dynamodb, "good", "GOAL", "FIRST-HALF-1", "1").await?;
    // None of them is guessed at: the next that arrives is the good one.
    assert_eq!(fan.receive().await?["event_id"], "good");
    let page = calls::events(&stack.client).await?;
    assert!(page.iter().any(|state| state.event_id == "good"));
    stack.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_one_fan_that_cannot_be_accepted_disturb_nobody_and_store_nothing() -> Result<()>
{
    let stack = stack::start(None).await?;
    let mut good = Fan::protocol_1(&stack.gateway, "diego", "final").await?;
    let mut bad = Fan::connect(&stack.gateway).await?;
    for (field, value) in [
        ("consumer_id", json!(null)),
        ("consumer_id", json!("")),
        ("consumer_id", json!({"a": 1})),
        ("consumer_id", json!("x".repeat(257))),
        ("device_id", json!([])),
        ("content_id", json!(true)),
        ("content_id", json!("x".repeat(100_000))),
    ] {
        let mut message = registration("mallory", "final");
        message[field] = value;
        for frame in fragments(&message.to_string()) {
            bad.send(frame).await?;
        }
        let answer = bad.receive().await?;
        let text = answer["message"].as_str().unwrap_or_default();
        assert!(text.contains(field), "{answer} does not name {field}");
        assert!(answer["connectionId"].is_string() && answer["requestId"].is_string());
    }
    for text in [
        "",
        "{",
        "[]",
        "17",
        "null",
        "{\"action\": 17}",
        "{\"action\": \"fly\"}",
    ] {
        bad.send(Message::text(text)).await?;
        assert_eq!(
            bad.receive_text().await?,
            "\"this is default route. please use right action key\""
        );
    }
    let sessions = rows::scan(&stack.dynamodb, SESSION_TABLE).await?;
    let registered = sessions
        .iter()
        .filter(|row| row.contains_key("consumer_id"));
    assert_eq!(registered.count(), 1, "{sessions:?}");

    bad.send(Message::binary(vec![1, 2, 3])).await?;
    let close = bad.closed().await?.expect("a close frame");
    assert_eq!(close.code, CloseCode::Unsupported);
    let mut huge = Fan::connect(&stack.gateway).await?;
    // The other side may close before all of it has been written.
    let _ = huge.send(Message::text("x".repeat(200_000))).await;
    if let Ok(Some(close)) = huge.closed().await {
        assert_eq!(close.code, CloseCode::Size);
    }

    rows::put_event(&stack.dynamodb, "1", "GOAL", "FIRST-HALF-1", "1").await?;
    assert!(good.receive().await?.get("PLAYER").is_some());
    stack.stop().await
}

/// A text as one message in frames of at most 32 KB, API Gateway's limit.
fn fragments(text: &str) -> Vec<Message> {
    use tokio_tungstenite::tungstenite::protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    };
    let chunks: Vec<_> = text.as_bytes().chunks(32_000).collect();
    let last = chunks.len() - 1;
    chunks
        .into_iter()
        .enumerate()
        .map(|(index, chunk)| {
            let opcode = if index == 0 {
                Data::Text
            } else {
                Data::Continue
            };
            Message::Frame(Frame::message(
                chunk.to_vec(),
                OpCode::Data(opcode),
                index == last,
            ))
        })
        .collect()
}
