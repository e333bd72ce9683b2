//! Touchline as it runs on a cluster, a process each: a DynamoDB, a server, three push adapters of
//! which one leads, and a front that never does, since a killed adapter takes its fans along. Decides
//! nothing about who is killed when.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use touchline_client::Client;
use touchline_store::tables::Store;
use touchline_tests::process::free_address;

use super::spelling;
use crate::{
    dynamodb::DynamoDb,
    gateway::balance,
    load::unix_ns,
    service::{ANY, Service, adapter_flags, text},
    system::DEADLINE,
};

/// Adapters that may lead.
const ADAPTERS: usize = 3;

/// The processes; killed when dropped.
#[derive(Debug)]
pub(super) struct Cluster {
    adapters: Vec<Adapter>,
    front: Service,
    server: Service,
    store: Store,
    endpoint: String,
    server_url: String,
    gateway: String,
    /// Processor time of adapters that were killed.
    cpu_of_killed: Duration,
    _dynamodb: DynamoDb,
    // Holds the history for as long as the server may read it.
    _folder: TempDir,
}

/// An adapter that may lead, running or killed.
#[derive(Debug)]
struct Adapter {
    name: String,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    service: Service,
    /// Its change feed, as the lease row names it.
    address: String,
}

impl Cluster {
    /// Starts all of it and waits until an adapter leads.
    pub(super) async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let history = folder.path().join("interactions.csv");
        std::fs::write(&history, spelling::interactions())?;
        let dynamodb = DynamoDb::start().await?;
        let endpoint = dynamodb.endpoint.clone();
        let store = dynamodb.store().await;
        store.prepare().await?;
        store.put_items(&spelling::items()?, &[], &|_| {}).await?;
        let (server, server_url) = server(&endpoint, &history.to_string_lossy()).await?;
        let (front, gateway, metrics) = front(&endpoint, &server_url).await?;
        let adapters = (1..=ADAPTERS).map(|number| Adapter {
            name: format!("adapter {number}"),
            running: None,
        });
        let mut cluster = Self {
            adapters: adapters.collect(),
            front,
            server,
            store,
            endpoint,
            server_url,
            gateway,
            cpu_of_killed: Duration::ZERO,
            _dynamodb: dynamodb,
            _folder: folder,
        };
        cluster.start_absent().await?;
        cluster.leader().await?;
        // Nobody is sent to a front before: it would answer who registered once it follows the leader,
        // perhaps with what they have been pushed meanwhile.
        balance::ready(&metrics).await?;
        Ok(cluster)
    }

    /// Starts the adapters that do not run.
    pub(super) async fn start_absent(&mut self) -> Result<()> {
        for adapter in &mut self.adapters {
            if adapter.running.is_some() {
                continue;
            }
            let mut flags = adapter_flags(&self.endpoint, &self.server_url);
            flags.push(("--fans-listen", ANY));
            let (service, [started]) =
                Service::start((&adapter.name, "touchline-push"), &flags, ["started"]).await?;
            let address = format!("http://{}", text(&started, "grpc")?);
            adapter.running = Some(Running { service, address });
        }
        Ok(())
    }

    /// Waits until the lease row names an adapter that runs; gives which.
    pub(super) async fn leader(&self) -> Result<usize> {
        let start = Instant::now();
        loop {
            let row = self.store.lease().await?;
            let leader = row.and_then(|row| {
                self.adapters.iter().position(|adapter| {
                    let running = adapter.running.as_ref();
                    running.is_some_and(|running| running.address == row.address)
                })
            });
            if let Some(leader) = leader {
                return Ok(leader);
            }
            ensure!(start.elapsed() < DEADLINE, "no adapter that runs leads");
            // The pace of looking.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills an adapter; gives when the signal was sent, in nanoseconds since 1970. When this returns
    /// it does nothing any more.
    pub(super) async fn kill(&mut self, adapter: usize) -> Result<u64> {
        let running = self.adapters[adapter].running.take();
        let service = running.context("it runs")?.service;
        self.cpu_of_killed += service.cpu()?;
        let killed_at = unix_ns(SystemTime::now());
        service.kill_9().await?;
        Ok(killed_at)
    }

    /// Processor time of the adapters that may lead, killed ones included, and of the front.
    pub(super) fn cpu(&self) -> Result<(Duration, Duration)> {
        let mut adapters = self.cpu_of_killed;
        for running in self.running() {
            adapters += running.service.cpu()?;
        }
        Ok((adapters, self.front.cpu()?))
    }

    /// URL of the front's WebSocket.
    pub(super) fn gateway(&self) -> &str {
        &self.gateway
    }

    /// A client of the server.
    pub(super) fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.server_url)?)
    }

    /// The tables.
    pub(super) fn store(&self) -> Store {
        self.store.clone()
    }

    /// The ends of all logs, for a person to read.
    pub(super) fn logs(&self) -> String {
        let adapters = self.running().map(|running| &running.service);
        let services = adapters.chain([&self.front, &self.server]);
        services.map(Service::log).collect()
    }

    fn running(&self) -> impl Iterator<Item = &Running> {
        self.adapters
            .iter()
            .filter_map(|adapter| adapter.running.as_ref())
    }
}

/// Starts the server and waits until it serves; gives its URL.
async fn server(endpoint: &str, history: &str) -> Result<(Service, String)> {
    let flags = [
        ("--dynamodb-endpoint", endpoint),
        ("--listen", ANY),
        ("--interactions", history),
    ];
    let messages = ["gRPC listens", "ready"];
    let (server, [listens, _]) =
        Service::start(("server", "touchline-server"), &flags, messages).await?;
    let url = format!("http://{}", text(&listens, "address")?);
    Ok((server, url))
}

/// Starts the front and waits until it listens; gives the URL of its WebSocket, and where its metrics are.
async fn front(endpoint: &str, server_url: &str) -> Result<(Service, String, String)> {
    let fans = free_address()?.to_string();
    let mut flags = adapter_flags(endpoint, server_url);
    flags.extend([("--fans-listen", &*fans), ("--never-lead", "")]);
    let (front, [started]) =
        Service::start(("front", "touchline-push"), &flags, ["started"]).await?;
    let metrics = text(&started, "metrics")?.to_owned();
    Ok((front, format!("ws://{fans}/dev"), metrics))
}
