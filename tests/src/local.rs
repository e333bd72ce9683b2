//! `touchline local` as a process, on ports that stay the same over its restarts.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use touchline_client::Client;

use crate::{
    eventually,
    process::{Process, free_address},
};

/// Where a stack and its successors listen.
#[derive(Debug)]
pub struct Ports {
    fans: SocketAddr,
    management: SocketAddr,
    grpc: SocketAddr,
    feed: SocketAddr,
    dynamodb: SocketAddr,
    page: SocketAddr,
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
            page: free_address()?,
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
            ("--page-port", self.page),
        ]
        .map(|(flag, address)| (flag, address.port().to_string()));
        let mut arguments = vec!["local"];
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

    /// Waits until all of a stack has started, and it would end in order: its page is the last.
    pub async fn ready(&self) {
        eventually("the page is served", || async {
            let mut page = TcpStream::connect(self.page).await.ok()?;
            let request = b"GET /healthz HTTP/1.0\r\nhost: localhost\r\n\r\n";
            page.write_all(request).await.ok()?;
            let mut answer = String::new();
            page.read_to_string(&mut answer).await.ok()?;
            answer.ends_with("ok\n").then_some(())
        })
        .await;
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
