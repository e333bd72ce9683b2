//! Slow and hostile clients at a gateway: what each costs is bounded and counted, and healthy fans are
//! served as if nobody else were there.

use std::{net::SocketAddr, time::Duration};

use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Error, Message, client::IntoClientRequest, http::HeaderValue},
};
use touchline_push::GatewayArgs;

use crate::support::{DEADLINE, Fan, Front, World, eventually, fan::registration, observed, shown};

/// A front, and a healthy fan who is served whatever the others do.
async fn beside_ann(change: impl FnOnce(&mut GatewayArgs)) -> (World, Front, Fan) {
    let world = World::start().await;
    let front = Front::with(&world, change).await;
    let ann = front.registered("ann").await;
    (world, front, ann)
}

/// Ann is shown the next state.
async fn is_served(world: &World, ann: &mut Fan, match_event: &str) {
    world.put("1", match_event).await;
    let wanted = shown("ann", match_event);
    ann.hear_until(&wanted).await;
}

async fn is_counted(front: &Front, metric: &str) {
    let address = front.running.metrics_address;
    eventually(|| async {
        let (_, text) = observed(address, "/metrics").await;
        let value = text.lines().find_map(|line| line.strip_prefix(metric));
        value.unwrap().trim().parse::<u64>().unwrap() > 0
    })
    .await;
}

fn ended(reason: &str) -> String {
    format!("touchline_push_connections_ended_total{{reason=\"{reason}\"}}")
}

fn refused(reason: &str) -> String {
    format!("touchline_push_handshakes_refused_total{{reason=\"{reason}\"}}")
}

const HANDSHAKE: &str = "GET /dev HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
     sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

/// A socket that is a fan's after the handshake, of whom only raw bytes are known. `buffer` bounds what
/// the kernel takes for who does not read.
async fn raw_fan(address: SocketAddr, buffer: Option<u32>) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(bytes) = buffer {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    stream
}

/// A client's frame with an empty mask.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | u8::try_from(length).unwrap()),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// Whether the front ends the connection, whatever it says before.
async fn is_ended(stream: &mut TcpStream) {
    let mut rest = [0; 4_096];
    let ending = async { while stream.read(&mut rest).await.unwrap_or(0) > 0 {} };
    tokio::time::timeout(DEADLINE, ending).await.unwrap();
}

#[tokio::test]
async fn stalled_readers_are_closed_and_cost_the_others_nothing() {
    let (world, front, mut ann) =
        beside_ann(|args| args.fans.fan_write_deadline = Duration::from_secs(1)).await;
    let mut stalled = Vec::new();
    for number in 0..5 {
        let mut fan = raw_fan(front.running.fans_address, Some(4_096)).await;
        let consumer = format!("stalled-{number}-{}", "x".repeat(200));
        let register = registration(&consumer, "final").to_string();
        fan.write_all(&frame(0x81, register.as_bytes()))
            .await
            .unwrap();
        stalled.push(fan);
    }
    // Until every buffer between here and there is full, and their time is over.
    let mut round = 0;
    while front.running.fans() > 1 {
        is_served(&world, &mut ann, &format!("ROUND-{round}")).await;
        round += 1;
    }
    is_counted(&front, &ended("stalled")).await;
    is_counted(&front, "touchline_push_states_total{outcome=\"conflated\"}").await;
    for fan in &mut stalled {
        is_ended(fan).await;
    }
}

#[tokio::test]
async fn one_byte_at_a_time_is_a_message_like_another() {
    let (world, front, mut ann) = beside_ann(|_| {}).await;
    let mut slow = raw_fan(front.running.fans_address, None).await;
    slow.set_nodelay(true).unwrap();
    let register = registration("bob", "final").to_string();
    // Each byte a frame, each byte of a frame a segment.
    for (place, byte) in register.bytes().enumerate() {
        let opcode = if place == 0 { 0x01 } else { 0x00 };
        let is_last = place == register.len() - 1;
        let first = if is_last { 0x80 | opcode } else { opcode };
        for byte in frame(first, &[byte]) {
            slow.write_all(&[byte]).await.unwrap();
        }
    }
    let mut answer = [0; 2 + 21];
    tokio::time::timeout(DEADLINE, slow.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer[2..], br#"{"status": "success"}"#);
    is_served(&world, &mut ann, "GOAL").await;
}

#[tokio::test]
async fn who_sends_more_bytes_than_are_allowed_is_closed() {
    let (world, front, mut ann) = beside_ann(|args| args.fans.fan_bytes_per_second = 1_000).await;
    let mut flooding = raw_fan(front.running.fans_address, None).await;
    let fragments = frame(0x00, b"x").repeat(2_000);
    flooding.write_all(&frame(0x01, b"x")).await.unwrap();
    // It may be closed before it has said all.
    let _ = flooding.write_all(&fragments).await;
    is_ended(&mut flooding).await;
    is_counted(&front, &ended("flooding")).await;
    is_served(&world, &mut ann, "GOAL").await;
}

#[tokio::test]
async fn a_flood_of_pings_is_closed() {
    let (world, front, mut ann) = beside_ann(|_| {}).await;
    let mut flooding = raw_fan(front.running.fans_address, None).await;
    let _ = flooding
        .write_all(&frame(0x89, b"marco").repeat(1_000))
        .await;
    is_ended(&mut flooding).await;
    is_counted(&front, &ended("flooding")).await;
    is_served(&world, &mut ann, "GOAL").await;
}

#[tokio::test]
async fn a_half_open_connection_is_noticed_by_its_silence() {
    let (world, front, mut ann) =
        beside_ann(|args| args.fans.fan_ping_interval = Duration::from_millis(300)).await;
    let mut silent = raw_fan(front.running.fans_address, None).await;
    let listening = async {
        loop {
            // Her client answers pings while it listens.
            ann.has_heard_nothing().await;
        }
    };
    tokio::select! {
        () = listening => unreachable!(),
        () = is_ended(&mut silent) => {}
    }
    is_counted(&front, &ended("silent")).await;
    is_served(&world, &mut ann, "GOAL").await;
}

#[tokio::test]
async fn who_never_registers_is_closed() {
    let (world, front, mut ann) =
        beside_ann(|args| args.fans.fan_registration_timeout = Duration::from_millis(300)).await;
    let mut lurking = front.fan().await;
    assert_eq!(lurking.close_code().await, 1008);
    is_counted(&front, &ended("unregistered")).await;
    is_served(&world, &mut ann, "GOAL").await;
}

#[tokio::test]
async fn messages_over_the_limits_are_closed_and_counted() {
    let (world, front, mut ann) = beside_ann(|_| {}).await;
    let mut fan = front.fan().await;
    fan.send(Message::text("x".repeat((32 << 10) + 1))).await;
    assert_eq!(fan.close_code().await, 1009);
    is_counted(&front, &ended("invalid")).await;
    is_served(&world, &mut ann, "GOAL").await;
}

#[tokio::test]
async fn compression_is_declined() {
    let (_world, front, _ann) = beside_ann(|_| {}).await;
    let address = front.running.fans_address;
    let mut request = format!("ws://{address}/dev").into_client_request().unwrap();
    let offer = HeaderValue::from_static("permessage-deflate; client_max_window_bits");
    request
        .headers_mut()
        .insert("sec-websocket-extensions", offer);
    let stream = TcpStream::connect(address).await.unwrap();
    let (_, response) = client_async(request, stream).await.unwrap();
    assert_eq!(response.headers().get("sec-websocket-extensions"), None);
}

#[tokio::test]
async fn a_page_of_another_origin_is_refused_and_what_is_no_page_is_not() {
    let (_world, front, _ann) =
        beside_ann(|args| args.fan_access.fan_origins = vec!["https://fans.example".to_owned()])
            .await;
    let address = front.running.fans_address;
    for (origin, status) in [
        (Some("https://fans.example"), 101),
        (Some("https://evil.example"), 403),
        (Some("https://fans.example.evil.example"), 403),
        (Some("null"), 403),
        (None, 101),
    ] {
        let mut request = format!("ws://{address}/dev").into_client_request().unwrap();
        if let Some(origin) = origin {
            let origin = HeaderValue::from_static(origin);
            request.headers_mut().insert("origin", origin);
        }
        let stream = TcpStream::connect(address).await.unwrap();
        let answered = match client_async(request, stream).await {
            Ok((_, response)) => response.status(),
            Err(Error::Http(response)) => response.status(),
            Err(error) => panic!("{origin:?}: {error}"),
        };
        assert_eq!(answered, status, "{origin:?}");
    }
    is_counted(&front, &refused("origin")).await;
}

#[tokio::test]
async fn fans_behind_a_proxy_are_limited_by_their_own_address() {
    let (_world, front, _ann) = beside_ann(|args| {
        args.fan_access.forwarded_hops = 1;
        args.fans.fans_per_address_max = 1;
    })
    .await;
    let address = front.running.fans_address;
    let connect = |forwarded: &'static str| async move {
        let mut request = format!("ws://{address}/dev").into_client_request().unwrap();
        let forwarded = HeaderValue::from_static(forwarded);
        request.headers_mut().insert("x-forwarded-for", forwarded);
        let stream = TcpStream::connect(address).await.unwrap();
        client_async(request, stream).await
    };
    let _first = connect("10.0.0.1").await.unwrap();
    let _second = connect("6.6.6.6, 10.0.0.2").await.unwrap();
    let Err(Error::Http(response)) = connect("7.7.7.7, 10.0.0.1").await else {
        panic!("two of one address");
    };
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "5");
    is_counted(&front, &refused("address_full")).await;
}

#[tokio::test]
async fn fans_behind_a_tcp_load_balancer_are_known_by_the_proxy_protocol() {
    let world = World::start().await;
    let front = Front::with(&world, |args| {
        args.fan_access.proxy_protocol = true;
        args.fans.fans_per_address_max = 1;
    })
    .await;
    let address = front.running.fans_address;
    let connect = |source: &'static str| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let header = format!("PROXY TCP4 {source} 10.0.0.9 999 80\r\n");
        stream.write_all(header.as_bytes()).await.unwrap();
        client_async(format!("ws://{address}/dev"), stream).await
    };
    let (mut first, _) = connect("10.0.0.1").await.unwrap();
    let _second = connect("10.0.0.2").await.unwrap();
    let Err(Error::Http(response)) = connect("10.0.0.1").await else {
        panic!("two of one address");
    };
    assert_eq!(response.status(), 429);
    let stream = TcpStream::connect(address).await.unwrap();
    client_async(format!("ws://{address}/dev"), stream)
        .await
        .unwrap_err();
    is_counted(&front, &refused("invalid")).await;
    first.send(Message::text("x")).await.unwrap();
    let answer = tokio::time::timeout(DEADLINE, first.next()).await.unwrap();
    assert!(answer.unwrap().unwrap().is_text());
}

#[tokio::test]
async fn handshakes_of_one_address_are_limited_a_second() {
    let (_world, front, _ann) = beside_ann(|args| args.fans.handshakes_per_address = 1).await;
    let address = front.running.fans_address;
    // The burst, of which Ann was one.
    let mut refused_ones = 0;
    for _ in 0..8 {
        let stream = TcpStream::connect(address).await.unwrap();
        match client_async(format!("ws://{address}/dev"), stream).await {
            Ok(_) => {}
            Err(Error::Http(response)) => {
                assert_eq!(response.status(), 429);
                refused_ones += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused_ones > 0);
    is_counted(&front, &refused("throttled")).await;
}

#[tokio::test]
async fn messages_of_one_consumer_are_limited_over_all_connections() {
    let (world, front, mut ann) = beside_ann(|args| args.fans.messages_per_consumer = 1).await;
    let mut fans = Vec::new();
    for _ in 0..3 {
        fans.push(front.registered("bob").await);
    }
    let mut throttled = 0;
    for round in 0..3 {
        for fan in &mut fans {
            fan.send(Message::text(format!("round {round}"))).await;
            let answer = fan.hear().await;
            throttled += usize::from(answer["message"] == "too many messages; send fewer a second");
        }
    }
    assert!(throttled > 0, "each alone was within its limit");
    is_served(&world, &mut ann, "GOAL").await;
    assert_ne!(json!(null), fans[0].hear().await);
}

#[tokio::test]
async fn who_says_nothing_counts_against_its_address() {
    let (_world, front, _ann) = beside_ann(|args| args.fans.fans_per_address_max = 2).await;
    let address = front.running.fans_address;
    let _silent = TcpStream::connect(address).await.unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    match client_async(format!("ws://{address}/dev"), stream).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 429),
        // The socket may be closed before the answer is read.
        Err(Error::Io(_) | Error::Protocol(_)) => {}
        other => panic!("{other:?}"),
    }
    is_counted(&front, &refused("address_full")).await;
}

#[tokio::test]
async fn a_crowd_is_let_in_at_the_rate_that_is_allowed() {
    let world = World::start().await;
    let front = Front::with(&world, |args| args.fans.handshakes_per_second = 20).await;
    let began = std::time::Instant::now();
    futures::future::join_all((0..12).map(|_| front.fan())).await;
    // Two at once and ten more: a machine that is slow only takes longer.
    assert!(began.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn messages_of_one_address_are_limited_over_all_connections() {
    let (_world, front, _ann) = beside_ann(|args| args.fans.messages_per_address = 1).await;
    let mut fans = vec![front.fan().await, front.fan().await];
    let mut throttled = 0;
    for _ in 0..5 {
        for fan in &mut fans {
            fan.send(Message::text("x")).await;
            let answer = fan.hear().await;
            throttled += usize::from(answer["message"] == "too many messages; send fewer a second");
        }
    }
    assert!(throttled > 0, "each alone was within its limit");
}

#[tokio::test]
async fn a_message_in_the_segment_of_the_handshake_is_heard() {
    let (_world, front, _ann) = beside_ann(|_| {}).await;
    let mut stream = TcpStream::connect(front.running.fans_address)
        .await
        .unwrap();
    let register = registration("bob", "final").to_string();
    let both = [HANDSHAKE.as_bytes(), &frame(0x81, register.as_bytes())].concat();
    stream.write_all(&both).await.unwrap();
    let mut heard = Vec::new();
    let hearing = async {
        while !heard.ends_with(br#"{"status": "success"}"#) {
            heard.push(stream.read_u8().await.unwrap());
        }
    };
    tokio::time::timeout(DEADLINE, hearing).await.unwrap();
}
