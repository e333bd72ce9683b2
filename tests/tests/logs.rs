//! What processes write to their log: which change and which version a line is of, and nobody's name, at
//! the level that everybody keeps.

use anyhow::{Context, Result};
use serde_json::Value;
use touchline_tests::{
    dynamodb::TestDynamodb,
    eventually,
    fan::Fan,
    process::{Talking, free_address},
    rows,
};

/// What belongs to a fan.
const SECRETS: [&str; 5] = [
    "diego-the-consumer",
    "phone of",
    "the-final",
    "ITEM_ID_1",
    "eyJhbGciOiJub25lIn0",
];

fn lines(said: &str) -> Result<Vec<Value>> {
    let lines = said.lines();
    lines
        .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fan_out_says_which_version_of_which_event_and_nobody_is_named() -> Result<()> {
    let dynamodb = TestDynamodb::start().await?;
    let [grpc, fans, feed, management] = [(); 4].map(|()| free_address());
    let [grpc, fans, feed, management] =
        [grpc?, fans?, feed?, management?].map(|address| address.to_string());
    let common = [
        "--dynamodb-endpoint",
        &dynamodb.endpoint,
        "--region",
        &dynamodb.region,
        "--metrics-listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
    ];
    let server_url = format!("http://{grpc}");
    let flags = [&common[..], &["--listen", &grpc]].concat();
    let server = Talking::start("touchline-server", &flags)?;
    let own = [
        "--server",
        &server_url,
        "--listen",
        &feed,
        "--fans-listen",
        &fans,
        "--management-listen",
        &management,
        "--poll-interval",
        "20ms",
        "--log",
        "info,touchline_push=debug",
    ];
    let push = Talking::start("touchline-push", &[&common[..], &own].concat())?;
    let client = dynamodb.client().await;
    let row = [
        ("item_id", rows::text("ITEM_ID_1")),
        ("item_type", rows::text("PLAYER")),
    ];
    eventually("an item can be put", || async {
        rows::put(&client, rows::ITEM_TABLE, row.clone()).await.ok()
    })
    .await;
    // A token in the address, as a browser would send one, is nobody's business either.
    let gateway = format!("ws://{fans}/dev?token=eyJhbGciOiJub25lIn0");
    let mut fan = eventually("a fan is registered", || async {
        let fan = Fan::protocol_1(&gateway, "diego-the-consumer", "the-final").await;
        fan.ok()
    })
    .await;
    fan.send_json(
        &serde_json::json!({"action": "sendmessage", "consumer_id": ["diego-the-consumer"]}),
    )
    .await?;
    fan.receive().await?;
    rows::put_event(&client, "1", "GOAL", "FIRST-HALF-1", "1").await?;
    fan.receive().await?;
    drop(fan);
    for process in [&push, &server] {
        process.interrupt().await?;
    }
    let (push, server) = (push.ended().await?, server.ended().await?);
    let pushed = lines(&push.err)?;
    for message in ["a change", "fanned out"] {
        let line = pushed
            .iter()
            .find(|line| line["fields"]["message"] == message && line["fields"]["event_id"] == "1")
            .with_context(|| format!("no {message:?} of event 1 in {}", push.err))?;
        let version = line["fields"]["version"].as_str().unwrap_or_default();
        assert!(!version.is_empty(), "{line}");
    }
    let everybodys = pushed.into_iter().chain(lines(&server.err)?);
    for line in everybodys.filter(|line| line["level"] != "DEBUG") {
        let line = line.to_string();
        for secret in SECRETS {
            assert!(!line.contains(secret), "{secret} in {line}");
        }
    }
    dynamodb.stop().await;
    Ok(())
}
