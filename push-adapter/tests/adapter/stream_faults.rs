//! What the stream of the event table does to its reader, over the real wire protocol: under all of
//! it no fan ends behind the newest state, and nobody is shown anything older than what they saw.

use std::time::Duration;

use touchline_push::PushArgs;
use touchline_store::{ids::EventId, tables::Store};

use crate::support::{
    Adapter, Before, Log, Loss, Pair, StreamEndpoint, StubServer, Write, args, eventually,
    pair::put_numbered,
};

/// An adapter behind an endpoint that fails as it is told, and fans of both protocols.
struct Match {
    endpoint: StreamEndpoint,
    store: Store,
    server: StubServer,
    adapter: Adapter,
    fans: Pair,
}

impl Match {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut PushArgs)) -> Self {
        let (endpoint, store) = Box::pin(StreamEndpoint::start()).await;
        let server = Box::pin(StubServer::start()).await;
        let mut args = args(&server);
        change(&mut args);
        let adapter = Box::pin(Adapter::start(args, &store)).await;
        let fans = Box::pin(Pair::register(adapter.fans())).await;
        Self {
            endpoint,
            store,
            server,
            adapter,
            fans,
        }
    }

    async fn put(&self, event: &str, number: u32) {
        put_numbered(&self.store, event, number).await;
    }

    async fn delete(&self, event: &str) {
        let event_id = EventId::new(event).unwrap();
        self.store.delete_event(&event_id).await.unwrap();
    }

    /// Another adapter takes the place of this one, after `meanwhile`, and the fans come back to it. The
    /// stream is held before it was opened.
    async fn restart(self, meanwhile: impl AsyncFnOnce(&StreamEndpoint, &Store)) -> Self {
        let Self {
            endpoint,
            store,
            server,
            adapter,
            mut fans,
        } = self;
        Box::pin(adapter.stop()).await;
        Box::pin(meanwhile(&endpoint, &store)).await;
        endpoint.hold(true);
        let adapter = Box::pin(Adapter::standing_by(args(&server), &store)).await;
        fans.heard();
        Box::pin(fans.register_again(adapter.fans())).await;
        eventually(|| async { endpoint.is_waited_for() }).await;
        Self {
            endpoint,
            store,
            server,
            adapter,
            fans,
        }
    }

    fn terms(&self) -> u64 {
        self.adapter.running.metrics().leader.terms.get()
    }
}

fn sorted(mut heard: Vec<String>) -> Vec<String> {
    heard.sort();
    heard
}

#[tokio::test]
async fn a_stream_that_rolls_over_and_splits_in_the_middle_of_an_events_changes_loses_nothing() {
    let mut on = Match::start().await;
    // While everything is read as it comes.
    for number in 1..=20 {
        on.put("1", number).await;
        on.put("2", number).await;
        match number {
            4 | 12 => on.endpoint.roll_over().await,
            8 | 16 => on.endpoint.split().await,
            _ => {}
        }
    }
    for event in ["1", "2"] {
        on.fans.end_on(event, 20).await;
    }
    // And with generations of shards that are read at once.
    on.endpoint.hold(true);
    for number in 21..=40 {
        on.put("1", number).await;
        on.put("2", number).await;
        match number {
            24 | 32 => on.endpoint.split().await,
            28 | 36 => on.endpoint.roll_over().await,
            _ => {}
        }
    }
    on.endpoint.hold(false);
    for event in ["1", "2"] {
        on.fans.end_on(event, 40).await;
    }
    on.fans.hear_the_rest().await;
    assert_eq!(on.fans.epochs(), 1);
}

#[tokio::test]
async fn a_restart_behind_splits_reads_the_shards_in_their_order() {
    let mut on = Match::start().await;
    on.put("1", 1).await;
    on.fans.end_on("1", 1).await;
    let mut on = on
        .restart(async |endpoint, store| {
            // The oldest shard takes longest to read.
            for number in 2..=24 {
                put_numbered(store, "1", number).await;
                put_numbered(store, "2", number).await;
            }
            for number in 25..=27 {
                endpoint.split().await;
                put_numbered(store, "1", number).await;
                put_numbered(store, "2", number).await;
            }
        })
        .await;
    on.endpoint.hold(false);
    for event in ["1", "2"] {
        on.fans.end_on(event, 27).await;
    }
    on.fans.hear_the_rest().await;
    let [first, _] = on.fans.heard();
    assert_eq!(sorted(first), ["1/27", "2/27"], "nothing older came before");
}

#[tokio::test]
async fn iterators_that_expire_are_taken_again_and_lose_nothing() {
    let mut on = Match::start().await;
    for number in 1..=10 {
        on.endpoint.hold(true);
        on.put("1", number).await;
        on.endpoint.expire_iterators().await;
        if number == 6 {
            on.endpoint.split().await;
        }
        on.endpoint.hold(false);
        on.fans.end_on("1", number).await;
    }
    on.fans.hear_the_rest().await;
    assert!(on.endpoint.refused("ExpiredIteratorException") >= 10);
    assert_eq!(on.fans.epochs(), 1);
}

#[tokio::test]
async fn what_is_trimmed_unread_is_shown_as_its_rows_say() {
    for is_rolled_over in [false, true] {
        let mut on = Match::start().await;
        for event in ["1", "2", "3"] {
            on.put(event, 1).await;
            on.fans.end_on(event, 1).await;
        }
        on.endpoint.hold(true);
        on.put("1", 2).await;
        on.put("1", 3).await;
        on.delete("2").await;
        on.put("4", 1).await;
        if is_rolled_over {
            on.endpoint.roll_over().await;
        }
        on.endpoint.trim().await;
        on.fans.heard();
        on.endpoint.hold(false);
        on.fans.end_on("1", 3).await;
        on.fans.end_on("4", 1).await;
        on.fans.hear_end_of("2").await;
        on.put("1", 4).await;
        on.fans.end_on("1", 4).await;
        on.fans.hear_the_rest().await;
        let [first, second] = on.fans.heard();
        assert_eq!(sorted(first), ["1/3", "1/4", "4/1"]);
        assert_eq!(sorted(second), ["1/3", "1/4", "2 ended", "4/1"]);
        assert_eq!(on.fans.epochs(), 1);
    }
}

#[tokio::test]
async fn a_shard_that_is_gone_before_its_end_was_seen_does_not_hold_its_children_up() {
    let mut on = Match::start().await;
    on.put("1", 1).await;
    on.fans.end_on("1", 1).await;
    on.endpoint.hold(true);
    on.endpoint.roll_over().await;
    on.endpoint.trim().await;
    on.put("1", 2).await;
    on.endpoint.hold(false);
    on.fans.end_on("1", 2).await;
    on.fans.hear_the_rest().await;
    let [first, _] = on.fans.heard();
    assert_eq!(first, ["1/1", "1/2"]);
}

#[tokio::test]
async fn a_restart_after_a_trim_shows_each_newest_state_once_and_then_what_comes() {
    let mut on = Match::start().await;
    for event in ["1", "2", "3"] {
        on.put(event, 1).await;
        on.fans.end_on(event, 1).await;
    }
    let mut on = on
        .restart(async |endpoint, store| {
            put_numbered(store, "1", 2).await;
            put_numbered(store, "1", 3).await;
            let event_id = EventId::new("3").unwrap();
            store.delete_event(&event_id).await.unwrap();
            endpoint.trim().await;
        })
        .await;
    // Nobody has a place in the stream yet.
    on.put("1", 4).await;
    on.endpoint.hold(false);
    on.fans.end_on("1", 4).await;
    on.fans.end_on("2", 1).await;
    on.fans.hear_end_of("3").await;
    on.put("1", 5).await;
    on.fans.end_on("1", 5).await;
    on.fans.hear_the_rest().await;
    let [first, _] = on.fans.heard();
    assert_eq!(sorted(first), ["1/4", "1/5", "2/1"]);
    assert_eq!(on.fans.epochs(), 1);
}

#[tokio::test]
async fn a_backlog_that_comes_haltingly_brings_nothing_older_than_its_row_to_the_screen() {
    let throttled = Before::Exception("ProvisionedThroughputExceededException");
    for before in [Before::EmptyPages(2), throttled] {
        let mut on = Match::start().await;
        on.put("1", 1).await;
        on.fans.end_on("1", 1).await;
        let mut on = on
            .restart(async |endpoint, store| {
                for number in 2..=7 {
                    put_numbered(store, "1", number).await;
                }
                endpoint.let_come_first(before).await;
            })
            .await;
        on.endpoint.hold(false);
        on.fans.end_on("1", 7).await;
        on.put("1", 8).await;
        on.fans.end_on("1", 8).await;
        on.fans.hear_the_rest().await;
        let [first, _] = on.fans.heard();
        assert_eq!(first, ["1/7", "1/8"], "{before:?}");
    }
}

#[tokio::test]
async fn a_throttled_stream_is_said_in_the_log_and_recovers_by_itself() {
    for exception in [
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
    ] {
        let log = Log::start();
        let mut on = Match::start().await;
        on.put("1", 1).await;
        on.fans.end_on("1", 1).await;
        on.endpoint.refuse(Some(exception));
        on.put("1", 2).await;
        eventually(|| async { log.says("the store throttles") }).await;
        // At once: the children are asked for, and the records.
        assert!(on.endpoint.refused(exception) <= 2);
        on.put("1", 3).await;
        on.endpoint.refuse(None);
        on.fans.end_on("1", 3).await;
        on.fans.hear_the_rest().await;
        assert_eq!(on.terms(), 1);
    }
}

#[tokio::test]
async fn a_stream_that_was_disabled_and_enabled_again_is_another_epoch_and_loses_nothing() {
    for old_streams_answer in [false, true] {
        let mut on = Match::start().await;
        on.endpoint.old_streams_answer(old_streams_answer);
        on.put("1", 1).await;
        on.fans.end_on("1", 1).await;
        on.endpoint.disable().await;
        // In no stream at all.
        on.put("1", 2).await;
        on.endpoint.enable().await;
        on.fans.end_on("1", 2).await;
        on.put("1", 3).await;
        on.fans.end_on("1", 3).await;
        on.fans.hear_the_rest().await;
        assert_eq!(on.terms(), 1);
    }
}

#[tokio::test]
async fn an_event_table_that_is_made_anew_under_a_running_adapter_is_followed() {
    for is_missed in [false, true] {
        let mut on = Match::start().await;
        on.put("1", 1).await;
        on.fans.end_on("1", 1).await;
        on.endpoint.delete_events().await;
        if is_missed {
            let refused = || on.endpoint.refused("ResourceNotFoundException");
            eventually(|| async { refused() > 0 }).await;
        }
        on.store.prepare().await.unwrap();
        on.fans.hear_end_of("1").await;
        on.put("1", 2).await;
        on.fans.end_on("1", 2).await;
        on.fans.hear_the_rest().await;
        assert_eq!(on.terms(), 1);
    }
}

#[tokio::test]
async fn a_renewal_whose_answer_is_lost_does_not_cost_the_lease() {
    let mut on = Match::with(|args| {
        args.sole_leader = false;
        args.lease_duration = Duration::from_secs(2);
    })
    .await;
    let losses = [Loss::Cut, Loss::Silence].repeat(3);
    for (already, loss) in losses.into_iter().enumerate() {
        on.endpoint.lose_answers(Write::Lease, 1, loss);
        let lost = || on.endpoint.lost(Write::Lease);
        eventually(|| async { lost() > already }).await;
        let counter = async || on.store.lease().await.unwrap().unwrap().counter;
        // Past the one that was carried out.
        let renewed = counter().await + 1;
        eventually(|| async { counter().await >= renewed }).await;
        assert_eq!(on.terms(), 1, "{loss:?}");
    }
    on.put("1", 1).await;
    on.fans.end_on("1", 1).await;
    assert_eq!(on.terms(), 1);
}

#[tokio::test]
async fn a_checkpoint_whose_answers_are_lost_is_recorded_and_nothing_is_shown_twice() {
    let mut on = Match::start().await;
    on.put("1", 1).await;
    on.fans.end_on("1", 1).await;
    // More than one call of the SDK tries.
    on.endpoint.lose_answers(Write::Checkpoint, 5, Loss::Cut);
    on.put("1", 2).await;
    on.fans.end_on("1", 2).await;
    let lost = || on.endpoint.lost(Write::Checkpoint);
    eventually(|| async { lost() == 5 }).await;
    assert_eq!(on.terms(), 1);
    let mut on = on.restart(async |_, _| {}).await;
    on.endpoint.hold(false);
    on.put("1", 3).await;
    on.fans.end_on("1", 3).await;
    let [first, _] = on.fans.heard();
    assert_eq!(first, ["1/3"]);
}

#[tokio::test]
async fn a_checkpoint_that_takes_its_time_holds_up_no_newer_state() {
    let mut on = Match::start().await;
    on.put("1", 1).await;
    on.fans.end_on("1", 1).await;
    on.endpoint.hold_checkpoints(true);
    for number in 2..=4 {
        on.put("1", number).await;
        on.fans.end_on("1", number).await;
    }
    on.endpoint.hold_checkpoints(false);
    let mut on = on.restart(async |_, _| {}).await;
    on.endpoint.hold(false);
    on.put("1", 5).await;
    on.fans.end_on("1", 5).await;
    let [first, _] = on.fans.heard();
    assert_eq!(first, ["1/5"], "the checkpoint came to the end");
}
