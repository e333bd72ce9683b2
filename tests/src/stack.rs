//! The stack that a user starts, for one test alone: in memory, on free ports, with the demo's
//! catalog and a history of the test's own.

use anyhow::Result;
use tempfile::TempDir;
use touchline_cli::stack::{Stack, StackArgs};
use touchline_client::Client;

use crate::rows;

/// A history in which nothing happened.
pub const NO_INTERACTIONS: &str = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,MATCH_EVENT\n";

/// A running stack, and the ways into it.
#[derive(Debug)]
pub struct TestStack {
    /// Typed gRPC client of the server.
    pub client: Client,
    /// URL of the server.
    pub server: String,
    /// URL of the fans' WebSocket.
    pub gateway: String,
    /// A plain AWS client of the tables.
    pub dynamodb: aws_sdk_dynamodb::Client,
    stack: Stack,
    // Holds the interactions file for as long as the stack may read it.
    _files: TempDir,
}

/// Starts a stack whose recommender has learned from `interactions`, a CSV file's text; from nothing
/// without one.
pub async fn start(interactions: Option<&str>) -> Result<TestStack> {
    start_with(interactions, |_| {}).await
}

/// The same, adjusted.
pub async fn start_with(
    interactions: Option<&str>,
    adjust: impl FnOnce(&mut StackArgs),
) -> Result<TestStack> {
    let files = tempfile::tempdir()?;
    let path = files.path().join("interactions.csv");
    std::fs::write(&path, interactions.unwrap_or(NO_INTERACTIONS))?;
    let mut args = StackArgs {
        demo: true,
        interactions: Some(path),
        ..StackArgs::in_memory()
    };
    adjust(&mut args);
    let stack = Stack::start(args).await?;
    let addresses = stack.addresses();
    Ok(TestStack {
        client: Client::connect(&addresses.server_url())?,
        server: addresses.server_url(),
        gateway: addresses.gateway_url(),
        dynamodb: rows::dynamodb(&addresses.dynamodb_url()),
        stack,
        _files: files,
    })
}

impl TestStack {
    /// Ends everything in order.
    pub async fn stop(self) -> Result<()> {
        Ok(self.stack.stop().await?)
    }
}
