//! A gateway that ends TLS itself: the same messages, over the same sockets that are never waited for.

use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::ring::default_provider},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Message,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

use crate::support::{DEADLINE, Front, World, fan::registration, shown};

type Socket = WebSocketStream<TlsStream<TcpStream>>;

async fn connect(front: &Front, certified: &CertifiedKey<rcgen::KeyPair>) -> Socket {
    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // As a browser says.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let address = front.running.fans_address;
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.unwrap();
    let (socket, _) = client_async(format!("wss://localhost:{}/dev", address.port()), stream)
        .await
        .unwrap();
    socket
}

async fn next(socket: &mut Socket) -> Message {
    let next = tokio::time::timeout(DEADLINE, socket.next());
    next.await.unwrap().unwrap().unwrap()
}

async fn hear(socket: &mut Socket) -> Value {
    let message = next(socket).await;
    serde_json::from_str(message.to_text().unwrap()).unwrap()
}

#[tokio::test]
async fn fans_are_served_over_tls_from_the_first_message_to_the_goodbye() {
    let folder = tempfile::tempdir().unwrap();
    let certified = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (
        folder.path().join("fans.pem"),
        folder.path().join("fans.key"),
    );
    std::fs::write(&certificate, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let world = World::start().await;
    let front = Front::with(&world, |args| {
        args.fan_access.fans_tls_certificate = Some(certificate);
        args.fan_access.fans_tls_key = Some(key);
    })
    .await;
    let mut ann = connect(&front, &certified).await;
    let register = registration("ann", "final").to_string();
    ann.send(Message::text(register)).await.unwrap();
    assert_eq!(hear(&mut ann).await, json!({"status": "success"}));
    // More than TLS puts into a record, and than is read at once.
    for index in 0..4 {
        let code = if index == 0 {
            Data::Text
        } else {
            Data::Continue
        };
        let frame = Frame::message(vec![b'x'; 32 << 10], OpCode::Data(code), index == 3);
        ann.send(Message::Frame(frame)).await.unwrap();
    }
    assert!(hear(&mut ann).await.is_string());
    ann.send(Message::Ping("marco".into())).await.unwrap();
    assert_eq!(next(&mut ann).await, Message::Pong("marco".into()));
    for match_event in ["GOAL", "CORNER"] {
        world.put("1", match_event).await;
        assert_eq!(hear(&mut ann).await, shown("ann", match_event));
    }
    front.shutdown.cancel();
    let Message::Close(Some(frame)) = next(&mut ann).await else {
        panic!("no goodbye");
    };
    assert_eq!(u16::from(frame.code), 1012);
    drop(ann);
    front.stop().await;
}
