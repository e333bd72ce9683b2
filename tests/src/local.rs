//! `touchline local` as a process, on ports that stay the same over its restarts.

use std::net::SocketAddr;

use anyhow::Result;
use touchline_client::Client;

use crate::process::{Process, free_address};

/// Where a stack and its successors listen.
#[derive(Debug)]
pub struct Ports {
    fans: SocketAddr,
    management: SocketAddr,
    grpc: SocketAddr,
    feed: SocketAddr,
    dynamodb: SocketAddr,
}

impl Ports {
    /// Ports that were free a moment ago.
    pub fn free() -> Result<Self> {
        Ok(Self {
            fans: free_address()?,
            management: free_address()?,
            grpc: free_address()?,
            feed: free_address()?,
            dynamodb: free_address()?,
        })
    }

    /// Starts a stack with these flags more, and waits until fans and callers can connect: it may not
    /// be ready for them yet.
    pub async fn start(&self, more: &[&str]) -> Result<Process> {
        self.start_in(more, &[]).await
    }

    /// The same, with these variables in its environment.
    pub async fn start_in(&self, more: &[&str], environment: &[(&str, &str)]) -> Result<Process> {
        let ports = [
            ("--fans-port", self.fans),
            ("--management-port", self.management),
            ("--grpc-port", self.grpc),
            ("--push-grpc-port", self.feed),
            ("--dynamodb-port", self.dynamodb),
        ]
        .map(|(flag, address)| (flag, address.port().to_string()));
        let mut arguments = vec!["local", "--page-port", "0"];
        arguments.extend(["--metrics-port", "0", "--push-metrics-port", "0"]);
        for (flag, port) in &ports {
            arguments.extend([*flag, port]);
        }
        arguments.extend(more);
        let mut process = Process::start_in("touchline", &arguments, environment)?;
        process.listens(self.fans).await?;
        process.listens(self.grpc).await?;
        Ok(process)
    }

    /// The fans' WebSocket.
    pub fn gateway(&self) -> String {
        format!("ws://{}/dev", self.fans)
    }

    /// A client of the server.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::connect(&format!("http://{}", self.grpc))?)
    }
}
