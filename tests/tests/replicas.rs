//! Three replicas of the server in front of one campaign: a consumer belongs to one of them, so that
//! equal questions meet there, and when one leaves or comes back only its own consumers move.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use touchline_client::{Client, Situation, replicas::Resolve};
use touchline_server::ServerArgs;
use touchline_tests::{
    alone::{Alone, consumers, goal, slow_down},
    eventually,
};

const CALLERS: usize = 5;

fn patient(args: &mut ServerArgs) {
    args.ranking_ttl = Duration::from_secs(3_600);
    args.personalize_timeout = Duration::from_secs(30);
}

/// Several callers at once for each fan, and all fans in a batch.
async fn ask(client: &Client, fans: &[String]) {
    let callers = fans.iter().flat_map(|fan| vec![fan; CALLERS]);
    let asking = callers.map(|fan| client.get_components(fan, Situation::Event("1".to_owned())));
    let sets: Vec<_> = stream::iter(asking)
        .buffer_unordered(100)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(sets.len(), fans.len() * CALLERS);
    let answers: Vec<_> = client
        .batch(goal(), fans.to_vec())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(answers.len(), fans.len());
    for answer in answers {
        answer.component_set.unwrap();
    }
}

/// How often each fan was asked for, of the service.
fn calls(alone: &Alone, fans: &[String]) -> BTreeMap<String, u64> {
    let of = |fan: &String| (fan.clone(), alone.stand_in.calls_for(fan));
    fans.iter().map(of).collect()
}

#[tokio::test]
async fn a_fan_costs_one_call_whichever_replica_comes_or_goes_and_one_more_only_if_that_is_theirs()
{
    let alone = Alone::start_with(patient).await;
    slow_down(&alone, 20.0);
    let (second, third) = tokio::join!(alone.replica(patient), alone.replica(patient));
    let addresses: Vec<SocketAddr> = [&alone.server, &second.server, &third.server]
        .map(|server| server.grpc_address)
        .to_vec();
    let named = Arc::new(Mutex::new(addresses.clone()));
    let resolve: Resolve = {
        let named = named.clone();
        Arc::new(move || {
            let addresses = named.lock().unwrap().clone();
            async move { Ok(addresses) }.boxed()
        })
    };
    let client = Client::connect_resolving("http://touchline-server:50051", resolve).unwrap();
    let fans = consumers(100);

    ask(&client, &fans).await;
    ask(&client, &fans).await;
    let once = calls(&alone, &fans);
    assert!(once.values().all(|calls| *calls == 1), "{once:?}");
    let asked = |server: &touchline_server::Running| server.counters.serving.misses.get() > 0;
    assert!(
        [&alone.server, &second.server, &third.server]
            .into_iter()
            .all(asked)
    );

    // It leaves as a pod does: it drains, and the name follows.
    let answered = &second.server.counters.recommender.answered;
    let moving = answered.get();
    second.stop().await;
    named
        .lock()
        .unwrap()
        .retain(|address| *address != addresses[1]);
    ask(&client, &fans).await;
    ask(&client, &fans).await;
    let moved = calls(&alone, &fans);
    assert!(moved.values().all(|calls| *calls <= 2), "{moved:?}");
    let more = moved.values().filter(|calls| **calls == 2).count();
    assert_eq!(more as u64, moving, "who belonged to it, and nobody else");

    // Another one comes, with an empty cache, at another address: only its own consumers are asked
    // for again.
    let fourth = alone.replica(patient).await;
    named.lock().unwrap().push(fourth.server.grpc_address);
    eventually("the new one is asked", async || {
        ask(&client, &fans).await;
        (fourth.server.counters.serving.misses.get() > 0).then_some(())
    })
    .await;
    ask(&client, &fans).await;
    let after = calls(&alone, &fans);
    let new = fourth.server.counters.recommender.answered.get();
    for (fan, calls) in &after {
        assert!(*calls <= moved[fan] + 1, "{fan}: {calls}");
    }
    let more: u64 = after.values().sum::<u64>() - moved.values().sum::<u64>();
    assert_eq!(more, new);
    drop(client);
    tokio::join!(third.stop(), fourth.stop());
    alone.stop().await;
}
