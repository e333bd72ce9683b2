//! The WebSocket front: API Gateway's limits, and what one fan's behaviour costs the others.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{
        Error, Message,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

use crate::support::{DEADLINE, Fan, World, eventually, shown};

#[tokio::test]
async fn the_path_is_the_stage_and_anything_else_is_forbidden() {
    let world = World::start().await;
    let address = world.adapter.fans();
    for path in ["", "/", "/prod", "/dev/x", "/@connections/x"] {
        match connect_async(format!("ws://{address}{path}")).await {
            Err(Error::Http(response)) => {
                assert_eq!(response.status(), 403);
                let body = response.body().as_deref().unwrap_or_default();
                assert_eq!(body, br#"{"message":"Forbidden"}"#);
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    for path in ["/dev", "/dev/", "/dev?token=x"] {
        connect_async(format!("ws://{address}{path}"))
            .await
            .unwrap();
    }
}

const DEFAULT: &str = "this is default route. please use right action key";

#[tokio::test]
async fn a_message_over_128_kb_closes_with_1009_though_each_frame_is_small() {
    let world = World::start().await;
    for (frames, accepted) in [(4, true), (5, false)] {
        let mut fan = world.fan().await;
        for index in 0..frames {
            let code = if index == 0 {
                Data::Text
            } else {
                Data::Continue
            };
            let last = index == frames - 1;
            let frame = Frame::message(vec![b'x'; 32 << 10], OpCode::Data(code), last);
            fan.send(Message::Frame(frame)).await;
        }
        if accepted {
            assert_eq!(fan.hear().await, json!(DEFAULT));
        } else {
            assert_eq!(fan.close_code().await, 1009);
        }
    }
}

#[tokio::test]
async fn text_that_is_not_utf_8_closes_with_1007() {
    let world = World::start().await;
    let mut fan = world.fan().await;
    let frame = Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
    fan.send(Message::Frame(frame)).await;
    assert_eq!(fan.close_code().await, 1007);
}

#[tokio::test]
async fn a_clients_ping_is_answered() {
    let world = World::start().await;
    let mut fan = world.fan().await;
    fan.send(Message::Ping("marco".into())).await;
    let pong = tokio::time::timeout(DEADLINE, futures::StreamExt::next(&mut fan.socket));
    assert_eq!(
        pong.await.unwrap().unwrap().unwrap(),
        Message::Pong("marco".into())
    );
}

#[tokio::test]
async fn an_idle_connection_closes_with_1001_and_one_that_speaks_does_not() {
    let world = World::with(|args| args.fans.fan_idle_timeout = Duration::from_millis(500)).await;
    let mut idle = world.fan().await;
    let mut busy = world.fan().await;
    let closed = async { idle.close_code().await };
    let speaks = async {
        loop {
            busy.has_heard_nothing().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let code = tokio::select! {
        code = closed => code,
        () = speaks => unreachable!(),
    };
    assert_eq!(code, 1001);
    busy.has_heard_nothing().await;
}

#[tokio::test]
async fn a_connection_closes_at_its_greatest_age_whatever_it_does() {
    let world = World::with(|args| args.fans.fan_lifetime_max = Duration::from_millis(300)).await;
    let mut fan = world.fan().await;
    assert_eq!(fan.close_code().await, 1001);
}

#[tokio::test]
async fn a_fan_that_answers_no_ping_is_dropped_and_its_row_with_it() {
    let world = World::with(|args| args.fans.fan_ping_interval = Duration::from_millis(100)).await;
    // A client that reads nothing answers no ping either.
    let fan = world.registered("ann").await;
    eventually(|| async { world.adapter.running.fans() == 0 }).await;
    drop(fan);
}

#[tokio::test]
async fn a_handshake_that_never_comes_is_ended() {
    let world =
        World::with(|args| args.fans.fan_handshake_timeout = Duration::from_millis(100)).await;
    let mut stream = TcpStream::connect(world.adapter.fans()).await.unwrap();
    stream.write_all(b"GET /dev HTTP/1.1\r\n").await.unwrap();
    let mut answer = [0; 16];
    let ended = tokio::time::timeout(DEADLINE, stream.read(&mut answer));
    assert_eq!(ended.await.unwrap().unwrap_or(0), 0);
}

#[tokio::test]
async fn connections_are_limited_by_address_and_a_place_is_given_back() {
    let world = World::with(|args| args.fans.fans_per_address_max = 2).await;
    let first = world.fan().await;
    let mut second = world.fan().await;
    let url = format!("ws://{}/dev", world.adapter.fans());
    match connect_async(&url).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 429),
        // The socket may be closed before the answer is read.
        Err(Error::Io(_) | Error::Protocol(_)) => {}
        other => panic!("{other:?}"),
    }
    drop(first);
    eventually(|| async { connect_async(&url).await.is_ok() }).await;
    second.has_heard_nothing().await;
}

#[tokio::test]
async fn too_many_messages_get_an_error_and_nobody_else_notices() {
    let world = World::with(|args| args.fans.fan_messages_per_second = 1).await;
    let (mut fan, mut other) = (world.fan().await, world.fan().await);
    for _ in 0..6 {
        fan.send("x".into()).await;
    }
    for _ in 0..5 {
        assert_eq!(fan.hear().await, json!(DEFAULT));
    }
    let error = fan.hear().await;
    assert_eq!(error["message"], "too many messages; send fewer a second");
    other.has_heard_nothing().await;
}

#[tokio::test]
async fn a_fan_who_does_not_read_is_closed_and_harms_nobody() {
    let world = World::with(|args| {
        args.fans.fan_write_deadline = Duration::from_millis(300);
        args.fans.fan_messages_per_second = 1_000;
    })
    .await;
    let mut ann = world.registered("ann").await;
    let stalled = world.registered("stalled").await;
    assert_eq!(world.adapter.running.fans(), 2);
    // Replies until every buffer between here and there is full.
    let endpoint = format!(
        "http://{}",
        world.adapter.running.management_address.unwrap()
    );
    let stalled_id = {
        let mut sessions = world.store.audience(&[].into());
        let mut found = None;
        while let Some(page) = futures::StreamExt::next(&mut sessions).await {
            let sessions = page.unwrap().sessions;
            found = found.or(sessions
                .into_iter()
                .find(|session| session.consumer_id.as_str() == "stalled"));
        }
        found.unwrap().connection_id
    };
    let client = crate::management::client(&endpoint).await;
    let flooding = async {
        loop {
            let post = client
                .post_to_connection()
                .connection_id(stalled_id.as_str())
                .data(aws_sdk_apigatewaymanagement::primitives::Blob::new(vec![
                    b'x';
                    128 << 10
                ]));
            if post.send().await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, flooding).await.unwrap();
    world.put("1", "GOAL").await;
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
    eventually(|| async { world.adapter.running.fans() == 1 }).await;
    drop(stalled);
}

#[tokio::test]
async fn messages_of_one_connection_are_handled_in_order() {
    let world = World::start().await;
    let mut fan = world.fan().await;
    for consumer in ["ann", "bob", "cem"] {
        fan.say(&crate::support::fan::registration(consumer, "final"))
            .await;
        fan.send("x".into()).await;
    }
    for _ in 0..3 {
        assert_eq!(fan.hear().await, json!({"status": "success"}));
        assert_eq!(fan.hear().await, json!(DEFAULT));
    }
    world.put("1", "GOAL").await;
    assert_eq!(fan.hear().await, shown("cem", "GOAL"));
}

#[tokio::test]
async fn a_closed_connection_loses_its_row_and_its_place() {
    let world = World::start().await;
    let fan = world.registered("ann").await;
    drop(fan);
    eventually(|| async { world.adapter.running.fans() == 0 }).await;
    eventually(|| async {
        let mut sessions = world.store.audience(&[].into());
        while let Some(page) = futures::StreamExt::next(&mut sessions).await {
            if !page.unwrap().sessions.is_empty() {
                return false;
            }
        }
        true
    })
    .await;
}

#[tokio::test]
async fn shutdown_sends_fans_to_others_with_1012_and_leaves_no_row() {
    let world = World::start().await;
    let mut fans = vec![world.registered("ann").await, world.registered("bob").await];
    let adapter = world.adapter;
    adapter.shutdown.cancel();
    for fan in &mut fans {
        let closed = fan.closed().await.unwrap();
        assert_eq!(u16::from(closed.code), 1012);
        let reason: serde_json::Value = serde_json::from_str(&closed.reason).unwrap();
        // Soon: that they do not all come at once is what the waves are for.
        let retry_after_ms = reason["retry_after_ms"].as_u64();
        assert!(retry_after_ms.is_some_and(|ms| ms <= 500), "{reason}");
    }
    drop(fans);
    let stopped = tokio::time::timeout(DEADLINE, adapter.running.stopped());
    stopped.await.unwrap().unwrap();
    let mut sessions = world.store.audience(&[].into());
    while let Some(page) = futures::StreamExt::next(&mut sessions).await {
        assert_eq!(page.unwrap().sessions, []);
    }
}

#[tokio::test]
async fn plain_http_and_junk_are_ended_and_disturb_nobody() {
    let world = World::start().await;
    let mut ann = world.registered("ann").await;
    for junk in [
        &b"GET /dev HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        &[b'x'; 100_000][..],
    ] {
        let mut stream = TcpStream::connect(world.adapter.fans()).await.unwrap();
        let _ = stream.write_all(junk).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer));
        let _ = ended.await.unwrap();
    }
    world.put("1", "GOAL").await;
    assert_eq!(ann.hear().await, shown("ann", "GOAL"));
    let _: Fan = ann;
}
