//! SEED.md, "Routes": each row, and each bad input.

use serde_json::{Value, json};
use touchline_push::routes::{self, Route};
use touchline_store::ids::ConnectionId;

use crate::support::{World, fan::registration, shown, store};

const PROCESSED: &str = "\"successfully processed client message...\"";

fn connection() -> ConnectionId {
    ConnectionId::new("L0SM9cOFvHcCIhw=").unwrap()
}

#[tokio::test]
async fn connect_puts_a_session_that_is_no_audience_yet() {
    let (_embedded, store) = store().await;
    let outcome = routes::connect(&store, &connection(), "http://127.0.0.1:1/dev", None).await;
    assert_eq!((outcome.status, outcome.body.as_str()), (200, PROCESSED));
    assert_eq!(outcome.post, None);
    assert_eq!(store.session(&connection()).await.unwrap(), None);
}

#[tokio::test]
async fn sendmessage_registers_and_answers_success() {
    let (_embedded, store) = store().await;
    routes::connect(&store, &connection(), "http://127.0.0.1:1/dev", None).await;
    let body = registration("ann", "final").to_string();
    assert_eq!(routes::select(&body, false), Route::SendMessage);
    let outcome = routes::sendmessage(&store, &connection(), "r", &body, None).await;
    assert_eq!((outcome.status, outcome.body.as_str()), (200, PROCESSED));
    assert_eq!(outcome.post.unwrap().as_str(), "{\"status\": \"success\"}");
    let session = store.session(&connection()).await.unwrap().unwrap();
    assert_eq!(session.consumer_id.as_str(), "ann");
    assert_eq!(session.content_id.unwrap().as_str(), "final");
    assert_eq!(session.endpoint.as_deref(), Some("http://127.0.0.1:1/dev"));
}

#[tokio::test]
async fn disconnect_deletes_the_row_and_an_unknown_id_is_fine() {
    let (_embedded, store) = store().await;
    routes::connect(&store, &connection(), "http://127.0.0.1:1/dev", None).await;
    let body = registration("ann", "final").to_string();
    routes::sendmessage(&store, &connection(), "r", &body, None).await;
    for _ in 0..2 {
        let outcome = routes::disconnect(&store, &connection()).await;
        assert_eq!(outcome.status, 200);
        assert_eq!(
            outcome.body,
            "\"successfully deleted session on disconnect\""
        );
        assert_eq!(outcome.post, None);
        assert_eq!(store.session(&connection()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_message_for_a_closed_session_stores_nothing_and_says_so() {
    let (_embedded, store) = store().await;
    let body = registration("ann", "final").to_string();
    let outcome = routes::sendmessage(&store, &connection(), "r-1", &body, None).await;
    assert_eq!(outcome.status, 410);
    let error: Value = serde_json::from_str(&outcome.post.unwrap()).unwrap();
    assert_eq!(
        error,
        json!({
            "message": "this session is closed; connect again",
            "connectionId": connection().as_str(),
            "requestId": "r-1",
        })
    );
    assert_eq!(store.session(&connection()).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_not_json_or_has_no_known_action_gets_the_default_text() {
    let world = World::start().await;
    let mut fan = world.fan().await;
    for text in [
        "hello",
        "",
        "[]",
        "{}",
        r#"{"action":"dance"}"#,
        r#"{"action":7}"#,
    ] {
        fan.send(text.into()).await;
        assert_eq!(
            fan.hear_text().await,
            "\"this is default route. please use right action key\""
        );
    }
}

#[tokio::test]
async fn a_bad_registration_gets_api_gateways_error_that_names_the_field_and_stores_nothing() {
    let world = World::start().await;
    let mut fan = world.fan().await;
    for field in ["consumer_id", "device_id", "content_id"] {
        for bad in [
            Value::Null,
            json!(true),
            json!(""),
            json!({}),
            json!([1]),
            json!("x".repeat(257)),
        ] {
            let mut message = registration("ann", "final");
            message[field] = bad;
            fan.say(&message).await;
            let error = fan.hear().await;
            let text = error["message"].as_str().unwrap();
            assert!(text.starts_with(field), "{text}");
            assert!(error["connectionId"].is_string() && error["requestId"].is_string());
        }
    }
    world.put("1", "GOAL").await;
    let mut other = world.registered("bob").await;
    world.put("1", "PENALTY").await;
    other.hear_until(&shown("bob", "PENALTY")).await;
    fan.has_heard_nothing().await;
}

#[tokio::test]
async fn a_bad_registration_for_protocol_2_gets_a_typed_error() {
    let world = World::start().await;
    let mut fan = world.fan().await;
    fan.say(&json!({"action": "sendmessage", "protocol": 2, "consumer_id": "ann"}))
        .await;
    let error = fan.hear().await;
    assert_eq!(error["type"], "error");
    assert_eq!(error["code"], "invalid");
    assert!(error["message"].as_str().unwrap().contains("device_id"));
}

#[tokio::test]
async fn a_number_as_consumer_becomes_its_text() {
    let world = World::start().await;
    let mut fan = world.fan().await;
    let mut message = registration("", "final");
    message["consumer_id"] = json!(42);
    fan.say(&message).await;
    assert_eq!(fan.hear().await, json!({"status": "success"}));
    world.put("1", "GOAL").await;
    assert_eq!(fan.hear().await, shown("42", "GOAL"));
}
