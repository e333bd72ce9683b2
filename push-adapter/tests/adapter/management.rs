//! `/@connections`, driven by the real AWS SDK.

use aws_sdk_apigatewaymanagement::{
    Client, config::Builder, error::ProvideErrorMetadata, primitives::Blob,
};
use serde_json::json;
use std::time::Duration;
use touchline_push::PushArgs;
use touchline_store::ids::ConnectionId;

use crate::support::{Adapter, DEADLINE, World, args, round, shown};

/// A real client for a front's management API.
pub(crate) async fn client(endpoint: &str) -> Client {
    let timeout = Duration::from_secs(5);
    let shared = touchline_store::aws::sdk_config(None, Some(endpoint), timeout).await;
    let config = Builder::from(&shared).endpoint_url(endpoint).build();
    Client::from_conf(config)
}

async fn connection_of(world: &World, consumer: &str) -> ConnectionId {
    let mut pages = world.store.audience(&[].into());
    while let Some(page) = futures::StreamExt::next(&mut pages).await {
        for session in page.unwrap().sessions {
            if session.consumer_id.as_str() == consumer {
                return session.connection_id;
            }
        }
    }
    panic!("{consumer} has no session");
}

fn management(adapter: &Adapter) -> String {
    format!("http://{}", adapter.running.management_address.unwrap())
}

#[tokio::test]
async fn the_sdk_posts_looks_and_closes_with_and_without_the_stage() {
    let world = World::start().await;
    for stage in ["", "/dev"] {
        let mut fan = world.registered("ann").await;
        let id = connection_of(&world, "ann").await;
        let client = client(&format!("{}{stage}", management(&world.adapter))).await;
        let post = |data: Vec<u8>| {
            client
                .post_to_connection()
                .connection_id(id.as_str())
                .data(Blob::new(data))
                .send()
        };
        post(br#"{"hello":"fan"}"#.to_vec()).await.unwrap();
        assert_eq!(fan.hear().await, json!({"hello": "fan"}));

        let seen = client
            .get_connection()
            .connection_id(id.as_str())
            .send()
            .await
            .unwrap();
        assert!(seen.connected_at().unwrap() <= seen.last_active_at().unwrap());
        assert_eq!(seen.identity().unwrap().source_ip(), Some("127.0.0.1"));

        let error = post(vec![b'x'; (128 << 10) + 1]).await.unwrap_err();
        assert_eq!(error.code(), Some("PayloadTooLargeException"));
        assert_eq!(error.raw_response().unwrap().status().as_u16(), 413);

        let delete = || client.delete_connection().connection_id(id.as_str()).send();
        delete().await.unwrap();
        assert_eq!(fan.close_code().await, 1001);
        let error = delete().await.unwrap_err();
        assert_eq!(error.code(), Some("GoneException"));
        let error = post(b"x".to_vec()).await.unwrap_err();
        assert_eq!(error.code(), Some("GoneException"));
        assert_eq!(error.raw_response().unwrap().status().as_u16(), 410);
        let error = client
            .get_connection()
            .connection_id("unknown")
            .send()
            .await
            .unwrap_err();
        assert_eq!(error.code(), Some("GoneException"));
    }
}

#[tokio::test]
async fn one_leader_serves_the_fans_of_every_front() {
    let world = World::start().await;
    let second = Adapter::standing_by(
        PushArgs {
            sole_leader: false,
            ..args(&world.server)
        },
        &world.store,
    )
    .await;
    let mut here = world.registered("ann").await;
    let mut there = crate::support::Fan::connect(second.fans()).await;
    there.register("bob", "final").await;
    let mut rounds = world.adapter.running.rounds();
    world.put("1", "GOAL").await;
    assert_eq!(here.hear().await, shown("ann", "GOAL"));
    assert_eq!(there.hear().await, shown("bob", "GOAL"));
    let served = round(&mut rounds, |_| true).await;
    assert_eq!((served.pushed, served.failed), (2, 0));

    // A fan of the second front is shown the newest state at once too: it follows the leader.
    let mut late = crate::support::Fan::connect(second.fans()).await;
    crate::support::eventually(async || {
        let mut fan = crate::support::Fan::connect(second.fans()).await;
        fan.register_2("eve", "final", None).await;
        !fan.is_quiet_for(Duration::from_millis(300)).await
    })
    .await;
    late.register_2("cem", "final", None).await;
    assert_eq!(late.hear().await["set_id"], "cem:GOAL");

    // A connection that the other front no longer has loses its row.
    drop(there);
    crate::support::eventually(|| async { second.running.fans() == 1 }).await;
    second.stop().await;
}

#[tokio::test]
async fn connections_of_an_api_gateway_are_posted_to_through_the_sdk_and_a_410_removes_the_row() {
    // Who took the lease at once would take it back from the second, and serve its round.
    let world = World::with(|args| args.sole_leader = false).await;
    // An adapter without a front of its own, as beside a real API Gateway, leads in its place.
    let mut ann = world.registered("ann").await;
    let gone = ConnectionId::new("gone=").unwrap();
    let endpoint = format!("{}/dev", management(&world.adapter));
    world.store.open_session(&gone, &endpoint).await.unwrap();
    let registration = touchline_push::routes::registration::parse(
        &crate::support::fan::registration("ghost", "final").to_string(),
        None,
    );
    world
        .store
        .register_session(&gone, &registration.unwrap().registration)
        .await
        .unwrap();
    let beside = Adapter::start(
        PushArgs {
            connections: touchline_push::config::Front::ApiGateway,
            ..args(&world.server)
        },
        &world.store,
    )
    .await;
    let mut led = world.adapter.running.led();
    let lost = tokio::time::timeout(DEADLINE, led.wait_for(Option::is_none));
    assert!(lost.await.unwrap().is_ok(), "the first one still leads");
    let mut rounds = beside.running.rounds();
    world.put("1", "GOAL").await;
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
    // A post that takes too long on a busy machine is tried again in a round of its own.
    round(&mut rounds, |round| round.gone > 0).await;
    assert_eq!(world.store.session(&gone).await.unwrap(), None);
    beside.stop().await;
}
