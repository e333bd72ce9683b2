//! Power cuts: the whole local stack is killed in the middle of a replay and started again.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::Value;
use touchline_client::Client;
use touchline_tests::{
    calls, eventually,
    fan::Fan,
    process::{Process, free_address},
};

struct Ports {
    fans: SocketAddr,
    management: SocketAddr,
    grpc: SocketAddr,
    feed: SocketAddr,
    dynamodb: SocketAddr,
}

impl Ports {
    fn free() -> Result<Self> {
        Ok(Self {
            fans: free_address()?,
            management: free_address()?,
            grpc: free_address()?,
            feed: free_address()?,
            dynamodb: free_address()?,
        })
    }

    async fn start(&self, folder: &str, more: &[&str]) -> Result<Process> {
        let ports = [
            ("--fans-port", self.fans),
            ("--management-port", self.management),
            ("--grpc-port", self.grpc),
            ("--push-grpc-port", self.feed),
            ("--dynamodb-port", self.dynamodb),
        ]
        .map(|(flag, address)| (flag, address.port().to_string()));
        let mut arguments = vec!["local", "--data-dir", folder, "--page-port", "0"];
        arguments.extend(["--metrics-port", "0", "--push-metrics-port", "0"]);
        for (flag, port) in &ports {
            arguments.extend([*flag, port]);
        }
        arguments.extend(more);
        let mut process = Process::start("touchline", &arguments)?;
        process.listens(self.fans).await?;
        process.listens(self.grpc).await?;
        Ok(process)
    }

    fn gateway(&self) -> String {
        format!("ws://{}/dev", self.fans)
    }

    fn client(&self) -> Result<Client> {
        Ok(Client::connect(&format!("http://{}", self.grpc))?)
    }
}

/// The version of event 1 in the table.
async fn version(client: &Client) -> Option<String> {
    Some(client.get_event("1").await.ok()?.version)
}

fn is_set(message: &Value) -> bool {
    message["type"] == "components"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_no_state_is_lost_and_every_fan_ends_on_the_newest() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path().to_str().context("a path in UTF-8")?;
    let ports = Ports::free()?;

    // A fast replay, so that the kill meets reads, pushes and checkpoints in every phase.
    let stack = ports.start(folder, &["--speed", "600"]).await?;
    let mut fan = Fan::protocol_2(&ports.gateway(), "diego", "final").await?;
    let mut last = Value::Null;
    for _ in 0..6 {
        last = fan.receive_until(is_set).await?;
    }
    stack.kill_9().await?;

    let stack = ports.start(folder, &["--no-replay"]).await?;
    let client = ports.client()?;
    let stored = eventually("the event is still there", || version(&client)).await;
    let mut fans = Vec::new();
    for consumer in ["diego", "camille"] {
        let mut fan = Fan::protocol_2(&ports.gateway(), consumer, "final").await?;
        let set = fan
            .receive_until(|message| message["version"] == *stored)
            .await?;
        assert!(
            set["epoch"] != last["epoch"]
                || set["sequence"].is_null()
                || set["sequence"].as_str() >= last["sequence"].as_str(),
            "the fan went back from {last} to {set}"
        );
        fans.push(fan);
    }
    let mut old_fan = Fan::protocol_1(&ports.gateway(), "camille", "final").await?;

    // What comes after the restart reaches everyone, the prototype's fans too.
    let state = calls::merge_event(&client, "1", [("match_event", "AFTER-THE-KILL")]).await?;
    for fan in &mut fans {
        fan.receive_until(|message| message["version"] == *state.version)
            .await?;
    }
    assert!(old_fan.receive().await?.is_object());
    assert_eq!(stack.terminate().await?, Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_in_a_row_lose_nothing_that_was_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path().to_str().context("a path in UTF-8")?;
    let ports = Ports::free()?;
    for round in 0..10 {
        let stack = ports.start(folder, &["--no-replay", "--fans", "0"]).await?;
        let client = ports.client()?;
        if round > 0 {
            let attributes = client.get_event("1").await?.attributes;
            assert_eq!(attributes["match_event"], format!("ROUND-{}", round - 1));
        }
        let mut fan = Fan::protocol_2(&ports.gateway(), "diego", "final").await?;
        let state =
            calls::merge_event(&client, "1", [("match_event", format!("ROUND-{round}"))]).await?;
        // In odd rounds the kill comes between the write and the push.
        if round % 2 == 0 {
            fan.receive_until(|message| message["version"] == *state.version)
                .await?;
        }
        stack.kill_9().await?;
    }
    Ok(())
}
