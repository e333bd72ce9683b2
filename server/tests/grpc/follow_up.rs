//! WatchEvent when Personalize is late: another source's set at once, Personalize's own when it
//! comes.

use std::time::Duration;

use touchline_proto::v1::{Origin, WatchEventRequest, WatchEventResponse};
use touchline_server::{ServerArgs, config::serving::ServingArgs, recommend::serving::Source};

use crate::{
    harness::{Server, asking, event, soon},
    standin::{Answer, Standin},
};

async fn late(follow_up: bool) -> (Standin, Server) {
    let standin = Standin::start(|_| Answer::Late(400, &["c2", "a2"])).await;
    let server = Server::with(ServerArgs {
        serving: ServingArgs {
            patience: Duration::from_millis(20),
            fallback: vec![Source::Popular],
            follow_up,
            ..asking(&standin).serving
        },
        ..asking(&standin)
    })
    .await;
    server.put(event("1", &[("match_event", "GOAL")])).await;
    (standin, server)
}

async fn watch(server: &Server) -> tonic::Streaming<WatchEventResponse> {
    let request = WatchEventRequest {
        event_id: "1".to_owned(),
        consumer_id: "fan".to_owned(),
        ..WatchEventRequest::default()
    };
    let watching = server.components().watch_event(request).await;
    watching.unwrap().into_inner()
}

async fn next(stream: &mut tonic::Streaming<WatchEventResponse>) -> (Origin, String, String) {
    let response = soon(stream.message()).await.unwrap().unwrap();
    let set = response.component_set.unwrap();
    (set.origin(), set.version, set.components[0].item_id.clone())
}

#[tokio::test]
async fn a_set_that_differs_follows_when_personalize_answers_later() {
    let (_standin, server) = Box::pin(late(true)).await;
    let mut stream = watch(&server).await;
    let (origin, version, item) = next(&mut stream).await;
    assert_eq!((origin, item.as_str()), (Origin::Popular, "a1"));
    let (origin, same, item) = next(&mut stream).await;
    assert_eq!((origin, item.as_str()), (Origin::Personalize, "c2"));
    assert_eq!(same, version);
    assert_eq!(server.running.counters.serving.followed_up.get(), 1);
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn nothing_follows_when_that_is_turned_off() {
    let (_standin, server) = Box::pin(late(false)).await;
    let mut stream = watch(&server).await;
    let (_, first, _) = next(&mut stream).await;
    // Personalize has answered by the time that its answer is cached.
    crate::harness::until(async || {
        let mut watched = watch(&server).await;
        next(&mut watched).await.0 == Origin::Personalize
    })
    .await;
    server.put(event("1", &[("match_event", "CARD")])).await;
    let (_, second, _) = next(&mut stream).await;
    assert_ne!(first, second, "the next message is the next state's");
    assert_eq!(server.running.counters.serving.followed_up.get(), 0);
    drop(stream);
    server.stop().await;
}
