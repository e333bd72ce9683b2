//! Fans who register while a state is fanned out, or so shortly before it that the audience index,
//! which is eventually consistent, does not show them yet.

use std::time::Duration;

use touchline_push::{PushArgs, Round};
use touchline_store::{event::EventState, tables::Store};

use crate::support::{
    Adapter, Fan, StreamEndpoint, StubServer, args,
    connections::{StandIn, session},
    eventually, put, round, shown, state, state_for,
};

/// An adapter over an index that can lag, and a front that takes whatever is posted, so that nothing
/// but the fan-out keeps a message from being sent twice.
struct Match {
    endpoint: StreamEndpoint,
    store: Store,
    server: StubServer,
    adapter: Adapter,
    stand_in: StandIn,
}

impl Match {
    async fn with(change: impl FnOnce(&mut PushArgs)) -> Self {
        let (endpoint, store) = StreamEndpoint::start().await;
        let server = StubServer::start().await;
        let mut args = args(&server);
        change(&mut args);
        let adapter = Adapter::start(args, &store).await;
        Self {
            endpoint,
            store,
            server,
            adapter,
            stand_in: StandIn::start(&[]).await,
        }
    }

    /// A fan of protocol 1 at the adapter's own front, and a connection of this id at the other.
    async fn register(&self, consumer: &str) -> Fan {
        let stage = self.stand_in.endpoint("prod");
        session(&self.store, consumer, consumer, &stage).await;
        let mut fan = Fan::connect(self.adapter.fans()).await;
        fan.register(consumer, "final").await;
        fan
    }

    async fn was_served_once(&self, fan: &mut Fan, consumer: &str) {
        assert_eq!(fan.hear().await, shown(consumer, "GOAL"));
        fan.has_heard_nothing().await;
        assert_eq!(self.stand_in.posted_to(consumer).len(), 1);
    }
}

fn counts(round: &Round) -> (usize, usize) {
    (round.audience, round.pushed)
}

/// Ann is there in time, Bob is not in the index when the first look reads it.
async fn is_served_by_the_second_look(goal: &EventState, is_during: bool) {
    let on = Match::with(|_| {}).await;
    let mut ann = on.register("ann").await;
    let mut rounds = on.adapter.running.rounds();
    on.endpoint.let_index_lag();
    let mut bob = if is_during {
        on.server.hold(true);
        put(&on.store, goal).await;
        eventually(|| async { !on.server.asked().is_empty() }).await;
        let bob = on.register("bob").await;
        on.server.hold(false);
        bob
    } else {
        let bob = on.register("bob").await;
        put(&on.store, goal).await;
        bob
    };
    assert_eq!(counts(&round(&mut rounds, |_| true).await), (2, 2));
    assert_eq!(counts(&round(&mut rounds, |_| true).await), (2, 2));
    on.was_served_once(&mut ann, "ann").await;
    on.was_served_once(&mut bob, "bob").await;
    // The next state finds everybody at once.
    put(&on.store, &state("1", "PENALTY")).await;
    assert_eq!(counts(&round(&mut rounds, |_| true).await), (4, 4));
}

#[tokio::test]
async fn a_fan_who_registers_during_a_fan_out_is_served_by_the_second_look_and_nobody_twice() {
    for goal in [state("1", "GOAL"), state_for("1", "GOAL", "final")] {
        Box::pin(is_served_by_the_second_look(&goal, true)).await;
    }
}

#[tokio::test]
async fn a_fan_whom_the_index_does_not_show_yet_is_served_by_the_second_look_and_nobody_twice() {
    for goal in [state("1", "GOAL"), state_for("1", "GOAL", "final")] {
        Box::pin(is_served_by_the_second_look(&goal, false)).await;
    }
}

#[tokio::test]
async fn nothing_but_the_second_look_serves_a_late_joiner_and_a_leader_that_ends_does_not_wait_for_it()
 {
    let on = Match::with(|args| args.second_look = Duration::from_secs(60)).await;
    let mut ann = on.register("ann").await;
    let mut rounds = on.adapter.running.rounds();
    on.endpoint.let_index_lag();
    let mut bob = on.register("bob").await;
    put(&on.store, &state("1", "GOAL")).await;
    assert_eq!(counts(&round(&mut rounds, |_| true).await), (2, 2));
    on.was_served_once(&mut ann, "ann").await;
    // Ten times as long as the second look comes after the first elsewhere.
    assert!(bob.is_quiet_for(Duration::from_millis(500)).await);
    assert_eq!(on.stand_in.posted_to("bob"), Vec::<String>::new());
    on.adapter.shutdown.cancel();
    assert_eq!(bob.hear().await, shown("bob", "GOAL"));
    eventually(|| async { on.stand_in.posted_to("bob").len() == 1 }).await;
}
