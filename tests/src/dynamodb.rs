//! The DynamoDB of one test: an embedded one, or the one that the environment names, such as
//! DynamoDB Local. Makes no table.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use aws_sdk_dynamodb::Client;
use touchline_store::{
    aws::sdk_config,
    embedded::{Embedded, Place},
};

/// Names a DynamoDB to test against in place of the embedded one, such as
/// `http://127.0.0.1:8000`. It must keep the tables of each region apart, as DynamoDB Local does
/// without `-sharedDb`: each test has a region of its own.
const VARIABLE: &str = "TOUCHLINE_TEST_DYNAMODB";

/// Longest wait for one attempt of a call.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// A DynamoDB that no other test sees.
#[derive(Debug)]
pub struct TestDynamodb {
    /// Its URL.
    pub endpoint: String,
    /// The region to ask for.
    pub region: String,
    embedded: Option<Embedded>,
}

impl TestDynamodb {
    /// Starts an embedded one, unless one is given.
    pub async fn start() -> Result<Self> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let region = format!("test-{}-{number}", std::process::id());
        if let Some(endpoint) = std::env::var_os(VARIABLE) {
            let endpoint = endpoint.into_string().ok();
            return Ok(Self {
                endpoint: endpoint.with_context(|| format!("{VARIABLE} is no URL"))?,
                region,
                embedded: None,
            });
        }
        let embedded = Embedded::start(Place::Memory, "127.0.0.1:0".parse()?).await?;
        Ok(Self {
            endpoint: format!("http://{}", embedded.address()),
            region,
            embedded: Some(embedded),
        })
    }

    /// A client of it with the credentials that the services find, which DynamoDB Local keeps apart
    /// like regions.
    pub async fn client(&self) -> Client {
        let (region, endpoint) = (Some(&*self.region), Some(&*self.endpoint));
        Client::new(&sdk_config(region, endpoint, ATTEMPT_TIMEOUT).await)
    }

    /// Stops it, unless it was given.
    pub async fn stop(self) {
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}
