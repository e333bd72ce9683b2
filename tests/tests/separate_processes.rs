//! The two services as processes of their own against a DynamoDB endpoint, as they run on EKS: an
//! embedded one, or the one that `TOUCHLINE_TEST_DYNAMODB` names.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::json;
use touchline_client::{Client, Situation};
use touchline_tests::{
    calls,
    dynamodb::TestDynamodb,
    eventually,
    fan::Fan,
    process::{Process, free_address},
    rows,
};

/// A DynamoDB, and the addresses that the services are given.
struct Installation {
    dynamodb: TestDynamodb,
    grpc: SocketAddr,
    fans: SocketAddr,
}

/// The flags are those that a chart would set, and nothing else.
impl Installation {
    async fn new() -> Result<Self> {
        Ok(Self {
            dynamodb: TestDynamodb::start().await?,
            grpc: free_address()?,
            fans: free_address()?,
        })
    }

    async fn start_server(&self) -> Result<Process> {
        let flags = [
            ("--dynamodb-endpoint", self.dynamodb.endpoint.clone()),
            ("--region", self.dynamodb.region.clone()),
            ("--listen", self.grpc.to_string()),
            ("--metrics-listen", "127.0.0.1:0".to_owned()),
            ("--catalog-refresh", "1s".to_owned()),
        ];
        start("touchline-server", &flags, self.grpc).await
    }

    async fn start_push(&self) -> Result<Process> {
        let flags = [
            ("--dynamodb-endpoint", self.dynamodb.endpoint.clone()),
            ("--region", self.dynamodb.region.clone()),
            ("--server", self.server_url()),
            ("--listen", free_address()?.to_string()),
            ("--fans-listen", self.fans.to_string()),
            ("--management-listen", free_address()?.to_string()),
            ("--metrics-listen", "127.0.0.1:0".to_owned()),
            ("--poll-interval", "20ms".to_owned()),
        ];
        start("touchline-push", &flags, self.fans).await
    }

    fn server_url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    fn gateway(&self) -> String {
        format!("ws://{}/dev", self.fans)
    }
}

async fn start(
    name: &'static str,
    flags: &[(&str, String)],
    address: SocketAddr,
) -> Result<Process> {
    let arguments: Vec<&str> = flags
        .iter()
        .flat_map(|(flag, value)| [*flag, value.as_str()])
        .collect();
    let mut process = Process::start(name, &arguments)?;
    process.listens(address).await?;
    Ok(process)
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
    let installation = Installation::new().await?;
    let server_process = installation.start_server().await?;
    let push_process = installation.start_push().await?;
    let client = installation.dynamodb.client().await;
    tables_are_made(&client).await;
    for (item, item_type) in [("ITEM_ID_1", "PLAYER"), ("ITEM_ID_2", "GENERAL")] {
        let row = [
            ("item_id", rows::text(item)),
            ("item_type", rows::text(item_type)),
        ];
        rows::put(&client, rows::ITEM_TABLE, row).await?;
    }

    let server = Client::connect(&installation.server_url())?;
    eventually("the server reads the catalog again", || async {
        let anywhere = Situation::Context([].into());
        let set = server.get_components("diego", anywhere).await.ok()?;
        (set.components.len() == 2).then_some(())
    })
    .await;

    let mut old_fan = Fan::protocol_1(&installation.gateway(), "diego", "final").await?;
    let mut fan = Fan::protocol_2(&installation.gateway(), "diego", "final").await?;
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

    assert_eq!(push_process.terminate().await?, Some(0));
    assert_eq!(server_process.terminate().await?, Some(0));
    installation.dynamodb.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_push_adapter_starts_before_the_server_and_serves_when_it_comes() -> Result<()> {
    // SEED.md defect 15: the prototype's stream handler fails before the first connect.
    let installation = Installation::new().await?;
    let _push_process = installation.start_push().await?;
    let client = installation.dynamodb.client().await;
    tables_are_made(&client).await;
    let mut fan = Fan::protocol_2(&installation.gateway(), "diego", "final").await?;
    rows::put_event(&client, "1", "GOAL", "FIRST-HALF-1", "1").await?;

    let _server_process = installation.start_server().await?;
    let set = fan
        .receive_until(|message| message["type"] == "components")
        .await?;
    assert_eq!(set["event_id"], "1");
    Ok(())
}
