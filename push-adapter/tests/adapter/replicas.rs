//! Several replicas of the server: each consumer is asked for at their own, and a batch comes back as
//! if there were one.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use touchline_auth::caller::Caller;
use touchline_client::replicas::{Replicas, Resolve, rendezvous};
use touchline_push::fanout::components::{Components, Shown};
use touchline_store::{
    event::{Attribute, EventState},
    ids::{ConsumerId, EventId},
};

use crate::support::{DEADLINE, server::StubServer};

fn goal() -> Arc<Shown> {
    let state = EventState {
        event_id: EventId::new("1").unwrap(),
        attributes: [("match_event".to_owned(), Attribute::Text("GOAL".to_owned()))].into(),
        contents: Default::default(),
    };
    Arc::new(Shown::new(state, None))
}

/// Asks for everybody: each is answered once, with a set of their own.
async fn ask(components: &Components, consumers: &[ConsumerId]) {
    let mut answers = components.ask(
        &goal(),
        consumers,
        Instant::now() + DEADLINE,
        &Default::default(),
    );
    let mut answered = vec![0; consumers.len()];
    while let Some(part) = answers.next().await.unwrap() {
        for answer in part {
            answered[answer.index] += 1;
            let consumer = &consumers[answer.index];
            let (set, recommendation_id) = answer.set.unwrap();
            assert_eq!(set.set_id(), format!("{consumer}:GOAL"));
            assert_eq!(recommendation_id, format!("recommendation-{consumer}"));
        }
    }
    assert!(answered.iter().all(|times| *times == 1), "{answered:?}");
}

#[tokio::test]
async fn a_batch_is_split_by_replica_and_nobody_goes_without_when_one_is_gone() {
    let mut servers = Vec::new();
    for last in 1..=3 {
        let address = SocketAddr::from(([127, 0, 0, last], 0));
        servers.push(StubServer::start_at(address).await);
    }
    let addresses: Vec<SocketAddr> = servers
        .iter()
        .map(|server| server.url().trim_start_matches("http://").parse().unwrap())
        .collect();
    let resolve: Resolve = {
        let addresses = addresses.clone();
        Arc::new(move || {
            let addresses = addresses.clone();
            Box::pin(async move { Ok(addresses) })
        })
    };
    let replicas = Replicas::resolving(
        "http://server:50051",
        |endpoint| endpoint,
        Caller::default(),
        resolve,
    );
    let components = Components::of(replicas.unwrap(), Duration::from_secs(20));
    let consumers: Vec<_> = (0..300)
        .map(|number| ConsumerId::new(format!("fan-{number}")).unwrap())
        .collect();

    ask(&components, &consumers).await;
    let hashes: Vec<u64> = addresses
        .iter()
        .map(|address| rendezvous::replica_hash(*address))
        .collect();
    let mut shares = [0; 3];
    for consumer in &consumers {
        let consumer = rendezvous::consumer_hash(consumer.as_str());
        shares[rendezvous::order(consumer, &hashes)[0]] += 1;
    }
    for (server, share) in servers.iter().zip(shares) {
        assert_eq!(server.asked(), [("GOAL".to_owned(), share)]);
    }

    // Told to fail, it is taken for one that does not serve: others are asked, and it is not.
    servers[1].fail(1);
    ask(&components, &consumers).await;
    assert_eq!(servers[1].asked().len(), 2);
    let asked = |server: &StubServer| -> usize {
        let asked = server.asked();
        asked.iter().map(|(_, consumers)| consumers).sum()
    };
    assert_eq!(asked(&servers[0]) + asked(&servers[2]), 600 - shares[1]);
}
