//! A push adapter with everything around it, in this process. Asserts nothing by itself.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use touchline_push::{PushArgs, Round, Running, config::LookupArgs, start};
use touchline_store::{
    embedded::{Embedded, Place},
    event::{Attribute, EventState},
    ids::{ContentId, EventId},
    tables::{Store, StoreArgs},
};

pub(crate) mod connections;
pub(crate) mod fan;
pub(crate) mod front;
pub(crate) mod log;
pub(crate) mod observed;
pub(crate) mod pair;
pub(crate) mod process;
pub(crate) mod server;
pub(crate) mod stream_endpoint;

pub(crate) use fan::Fan;
pub(crate) use front::Front;
pub(crate) use log::Log;
pub(crate) use observed::{observed, until_shown};
pub(crate) use pair::Pair;
pub(crate) use server::StubServer;
pub(crate) use stream_endpoint::{Before, Loss, StreamEndpoint, Write};

/// Longer than anything takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// The flags of an adapter that listens anywhere on loopback.
pub(crate) fn args(server: &StubServer) -> PushArgs {
    PushArgs {
        listen: loopback(),
        fans_listen: loopback(),
        management_listen: loopback(),
        metrics_listen: loopback(),
        lookup: LookupArgs {
            server: server.url(),
            ..PushArgs::default().lookup
        },
        sole_leader: true,
        poll_interval: Duration::from_millis(10),
        shard_reads_per_second: std::num::NonZeroU32::MAX,
        second_look: Duration::from_millis(50),
        // A starved machine must not cost the lease.
        lease_duration: Duration::from_secs(10),
        ..PushArgs::default()
    }
}

/// A fresh DynamoDB in memory, without tables.
async fn embedded() -> Embedded {
    Embedded::start(Place::Memory, loopback()).await.unwrap()
}

/// The tables of a fresh in-memory DynamoDB.
pub(crate) async fn store() -> (Embedded, Store) {
    let embedded = embedded().await;
    let store = store_at(&format!("http://{}", embedded.address())).await;
    store.prepare().await.unwrap();
    (embedded, store)
}

pub(crate) async fn store_at(endpoint: &str) -> Store {
    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        store: StoreArgs,
    }
    let args = Args::parse_from(["test", "--dynamodb-endpoint", endpoint]);
    // Boxed, as it holds whole clients of AWS.
    Box::pin(Store::connect(&args.store)).await
}

/// A running adapter and what it stands on.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) server: StubServer,
    pub(crate) adapter: Adapter,
    /// Stops when dropped.
    pub(crate) embedded: Embedded,
}

/// A running adapter.
pub(crate) struct Adapter {
    pub(crate) running: Running,
    pub(crate) shutdown: CancellationToken,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut PushArgs)) -> Self {
        let (embedded, store) = store().await;
        let server = StubServer::start().await;
        let mut args = args(&server);
        change(&mut args);
        let adapter = Adapter::start(args, &store).await;
        Self {
            store,
            server,
            adapter,
            embedded,
        }
    }

    /// A connected fan who has said nothing.
    pub(crate) async fn fan(&self) -> Fan {
        Fan::connect(self.adapter.fans()).await
    }

    /// A fan of protocol 1.
    pub(crate) async fn registered(&self, consumer: &str) -> Fan {
        let mut fan = self.fan().await;
        fan.register(consumer, "final").await;
        fan
    }

    /// Writes an event's row.
    pub(crate) async fn put(&self, event: &str, match_event: &str) {
        put(&self.store, &state(event, match_event)).await;
    }
}

impl Adapter {
    /// An adapter that leads.
    pub(crate) async fn start(args: PushArgs, store: &Store) -> Self {
        let adapter = Self::standing_by(args, store).await;
        adapter.leads().await;
        adapter
    }

    /// An adapter that may not lead yet.
    pub(crate) async fn standing_by(args: PushArgs, store: &Store) -> Self {
        let shutdown = CancellationToken::new();
        // Boxed, as it holds whole clients of AWS.
        let starting = Box::pin(start(args, store.clone(), shutdown.clone()));
        let running = starting.await.unwrap();
        Self { running, shutdown }
    }

    /// Waits until it leads and has read everything that exists.
    pub(crate) async fn leads(&self) {
        let mut led = self.running.led();
        let caught_up = async {
            let feed = led.wait_for(Option::is_some).await.unwrap().clone();
            let mut follower = feed.unwrap().follow();
            while !follower.next().await.unwrap().caught_up {}
        };
        tokio::time::timeout(DEADLINE, caught_up).await.unwrap();
    }

    pub(crate) fn fans(&self) -> SocketAddr {
        self.running.fans_address.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        let stopped = tokio::time::timeout(DEADLINE, self.running.stopped());
        stopped.await.unwrap().unwrap();
    }
}

/// The next round that `wanted` accepts.
pub(crate) async fn round(
    rounds: &mut tokio::sync::broadcast::Receiver<Round>,
    wanted: impl Fn(&Round) -> bool,
) -> Round {
    let find = async {
        loop {
            let round = rounds.recv().await.unwrap();
            if wanted(&round) {
                return round;
            }
        }
    };
    tokio::time::timeout(DEADLINE, find).await.unwrap()
}

pub(crate) async fn put(store: &Store, state: &EventState) {
    store.put_event(state, false).await.unwrap();
}

/// A state that everybody is reached by.
pub(crate) fn state(event: &str, match_event: &str) -> EventState {
    EventState {
        event_id: EventId::new(event).unwrap(),
        attributes: [(
            "match_event".to_owned(),
            Attribute::Text(match_event.to_owned()),
        )]
        .into(),
        contents: [].into(),
    }
}

/// The same for one content.
pub(crate) fn state_for(event: &str, match_event: &str, content: &str) -> EventState {
    EventState {
        contents: [ContentId::new(content).unwrap()].into(),
        ..state(event, match_event)
    }
}

/// What the stub server gives this consumer, as a fan of protocol 1 sees it.
pub(crate) fn shown(consumer: &str, match_event: &str) -> serde_json::Value {
    json!({"PLAYER": format!("{consumer}:{match_event}"), "GENERAL": format!("all:{match_event}")})
}

/// Waits until `holds` does.
pub(crate) async fn eventually<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap();
}
