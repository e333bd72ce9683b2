//! The two services as processes of their own against a DynamoDB endpoint, as they run on EKS.

use anyhow::Result;
use serde_json::json;
use touchline_client::{Client, Situation};
use touchline_store::embedded::{Embedded, Place};
use touchline_tests::{
    calls, eventually,
    fan::Fan,
    process::{Process, free_address},
    rows,
};

struct Services {
    dynamodb: Embedded,
    endpoint: String,
    server: Process,
    push: Process,
    grpc: String,
    fans: String,
}

/// The flags are those that a chart would set, and nothing else.
async fn start() -> Result<Services> {
    let dynamodb = Embedded::start(Place::Memory, "127.0.0.1:0".parse()?).await?;
    let endpoint = format!("http://{}", dynamodb.address());
    let (grpc, feed) = (free_address()?, free_address()?);
    let (fans, management) = (free_address()?, free_address()?);
    let mut server = Process::start(
        "touchline-server",
        &[
            "--dynamodb-endpoint",
            &endpoint,
            "--listen",
            &grpc.to_string(),
            "--catalog-refresh",
            "1s",
        ],
    )?;
    let mut push = Process::start(
        "touchline-push",
        &[
            "--dynamodb-endpoint",
            &endpoint,
            "--server",
            &format!("http://{grpc}"),
            "--listen",
            &feed.to_string(),
            "--fans-listen",
            &fans.to_string(),
            "--management-listen",
            &management.to_string(),
            "--poll-interval",
            "20ms",
        ],
    )?;
    server.listens(grpc).await?;
    push.listens(fans).await?;
    Ok(Services {
        dynamodb,
        endpoint,
        server,
        push,
        grpc: format!("http://{grpc}"),
        fans: format!("ws://{fans}/dev"),
    })
}

/// The services make what is absent; the lease is the last that is written.
async fn tables_are_made(client: &aws_sdk_dynamodb::Client) {
    eventually("the tables are made", || async {
        let lease = rows::scan(client, "touchline_push_lease").await.ok()?;
        (!lease.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_services_work_apart_and_end_in_order() -> Result<()> {
    let services = start().await?;
    let client = rows::dynamodb(&services.endpoint);
    tables_are_made(&client).await;
    for (item, item_type) in [("ITEM_ID_1", "PLAYER"), ("ITEM_ID_2", "GENERAL")] {
        let row = [
            ("item_id", rows::text(item)),
            ("item_type", rows::text(item_type)),
        ];
        rows::put(&client, rows::ITEM_TABLE, row).await?;
    }

    let server = Client::connect(&services.grpc)?;
    eventually("the server reads the catalog again", || async {
        let anywhere = Situation::Context([].into());
        let set = server.get_components("diego", anywhere).await.ok()?;
        (set.components.len() == 2).then_some(())
    })
    .await;

    let mut old_fan = Fan::protocol_1(&services.fans, "diego", "final").await?;
    let mut fan = Fan::protocol_2(&services.fans, "diego", "final").await?;
    rows::put_event(&client, "1", "GOAL", "FIRST-HALF-1", "1").await?;
    let set = fan.receive().await?;
    assert_eq!(set["type"], "components");
    assert_eq!(set["event_id"], "1");
    assert!(old_fan.receive().await?.get("PLAYER").is_some());

    let answer = calls::components(&server, "diego", "1").await?;
    assert_eq!(json!(answer.set_id), set["set_id"]);

    rows::delete_event(&client, "1").await?;
    let ended = fan
        .receive_until(|message| message["type"] == "ended")
        .await?;
    assert_eq!(ended["event_id"], "1");

    assert_eq!(services.push.terminate().await?, Some(0));
    assert_eq!(services.server.terminate().await?, Some(0));
    services.dynamodb.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_push_adapter_starts_before_the_server_and_serves_when_it_comes() -> Result<()> {
    // SEED.md defect 15: the prototype's stream handler fails before the first connect.
    let dynamodb = Embedded::start(Place::Memory, "127.0.0.1:0".parse()?).await?;
    let endpoint = format!("http://{}", dynamodb.address());
    let (grpc, feed) = (free_address()?, free_address()?);
    let (fans, management) = (free_address()?, free_address()?);
    let mut push = Process::start(
        "touchline-push",
        &[
            "--dynamodb-endpoint",
            &endpoint,
            "--server",
            &format!("http://{grpc}"),
            "--listen",
            &feed.to_string(),
            "--fans-listen",
            &fans.to_string(),
            "--management-listen",
            &management.to_string(),
        ],
    )?;
    push.listens(fans).await?;
    let client = rows::dynamodb(&endpoint);
    tables_are_made(&client).await;
    let mut fan = Fan::protocol_2(&format!("ws://{fans}/dev"), "diego", "final").await?;
    rows::put_event(&client, "1", "GOAL", "FIRST-HALF-1", "1").await?;

    let mut server = Process::start(
        "touchline-server",
        &[
            "--dynamodb-endpoint",
            &endpoint,
            "--listen",
            &grpc.to_string(),
        ],
    )?;
    server.listens(grpc).await?;
    let set = fan
        .receive_until(|message| message["type"] == "components")
        .await?;
    assert_eq!(set["event_id"], "1");
    Ok(())
}
