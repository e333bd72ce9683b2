//! A gateway of its own beside a push adapter that leads.

use clap::Parser;
use tokio_util::sync::CancellationToken;
use touchline_push::{GatewayArgs, RunningGateway, start_gateway};

use touchline_store::tables::Store;

use super::{DEADLINE, Fan, StubServer, World, eventually, loopback};

/// A running gateway.
pub(crate) struct Front {
    pub(crate) running: RunningGateway,
    pub(crate) shutdown: CancellationToken,
}

/// The flags of a gateway that listens anywhere on loopback.
pub(crate) fn gateway_args(server: &StubServer) -> GatewayArgs {
    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        gateway: GatewayArgs,
    }
    let mut args = Args::parse_from(["gateway"]).gateway;
    args.lookup.server = server.url();
    GatewayArgs {
        fans_listen: loopback(),
        listen: loopback(),
        metrics_listen: loopback(),
        ..args
    }
}

impl Front {
    /// A gateway that knows the newest states.
    pub(crate) async fn start(world: &World) -> Self {
        Self::with(world, |_| {}).await
    }

    pub(crate) async fn with(world: &World, change: impl FnOnce(&mut GatewayArgs)) -> Self {
        let mut args = gateway_args(&world.server);
        change(&mut args);
        Self::of(args, &world.store).await
    }

    /// The same, whoever leads.
    pub(crate) async fn of(args: GatewayArgs, store: &Store) -> Self {
        let shutdown = CancellationToken::new();
        // Boxed, as it holds whole clients of AWS.
        let starting = Box::pin(start_gateway(args, store.clone(), shutdown.clone()));
        let running = starting.await.unwrap();
        eventually(|| async { running.feeds().newest().is_some() }).await;
        Self { running, shutdown }
    }

    /// A connected fan who has said nothing.
    pub(crate) async fn fan(&self) -> Fan {
        Fan::connect(self.running.fans_address).await
    }

    /// A fan of protocol 1.
    pub(crate) async fn registered(&self, consumer: &str) -> Fan {
        let mut fan = self.fan().await;
        fan.register(consumer, "final").await;
        fan
    }

    /// A fan of protocol 2 who shows nothing yet.
    pub(crate) async fn registered_2(&self, consumer: &str, content: &str) -> Fan {
        let mut fan = self.fan().await;
        fan.register_2(consumer, content, None).await;
        fan
    }

    /// How many messages with a state came to this end, or were offered.
    pub(crate) async fn states(&self, what: &str) -> u64 {
        let address = self.running.metrics_address;
        let (_, text) = super::observed(address, "/metrics").await;
        let name = match what {
            "offered" => "touchline_push_states_offered_total".to_owned(),
            outcome => format!("touchline_push_states_total{{outcome=\"{outcome}\"}}"),
        };
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap().trim().parse().unwrap()
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        let stopped = tokio::time::timeout(DEADLINE, self.running.stopped());
        stopped.await.unwrap();
    }
}
