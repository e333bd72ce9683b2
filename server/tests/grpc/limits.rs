//! What bounds a call: deadlines, calls in flight, message sizes, connections.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, codec::CompressionEncoding};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use touchline_proto::v1::{GetEventRequest, PutEventRequest};
use touchline_server::ServerArgs;

use crate::{
    harness::{Server, asking, by_context, event, reason, says_when_to_retry, soon, until},
    standin::{Answer, Standin},
};

#[tokio::test]
async fn a_call_without_a_deadline_ends_at_the_servers_default() {
    let standin = Standin::start(|_| Answer::Silence).await;
    let server = Server::with(ServerArgs {
        personalize_timeout: Duration::from_secs(30),
        default_deadline: Duration::from_millis(200),
        ..asking(&standin)
    })
    .await;
    let mut client = server.components();
    let answer = client.get_components(by_context("fan", &[]));
    let status = soon(answer).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    server.stop().await;
}

#[tokio::test]
async fn calls_over_the_limit_are_shed_at_once_and_health_never() {
    let standin = Standin::start(|_| Answer::Silence).await;
    let server = Server::with(ServerArgs {
        max_calls: 1,
        default_deadline: Duration::from_secs(2),
        personalize_timeout: Duration::from_secs(30),
        ..asking(&standin)
    })
    .await;
    let mut client = server.components();
    let slow = client.get_components(by_context("fan", &[]));
    let others = async {
        until(|| async { standin.questions() == 1 }).await;
        let request = GetEventRequest {
            event_id: "1".to_owned(),
        };
        let status = server.events().get_event(request).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(reason(&status), "OVERLOADED");
        assert!(says_when_to_retry(&status));
        let health = HealthCheckRequest::default();
        let mut client = HealthClient::new(server.channel.clone());
        client.check(health).await.unwrap();
    };
    let (slow, ()) = tokio::join!(slow, others);
    assert_eq!(slow.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(server.running.counters.calls_shed.get(), 1);
    // The slow call's place is free again.
    let request = GetEventRequest {
        event_id: "1".to_owned(),
    };
    let status = server.events().get_event(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn a_huge_message_is_refused_packed_or_not() {
    let server = Server::embedded().await;
    let huge = "v".repeat(2 << 20);
    let put = || PutEventRequest {
        event: Some(event("1", &[("a", &huge)])),
        merge: false,
    };
    let plain = server.events().put_event(put()).await.unwrap_err();
    let packed = server
        .events()
        .send_compressed(CompressionEncoding::Gzip)
        .put_event(put())
        .await
        .unwrap_err();
    for status in [plain, packed] {
        let code = status.code();
        assert!(
            matches!(code, Code::OutOfRange | Code::ResourceExhausted),
            "{status:?}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn gzip_works_both_ways() {
    let server = Server::embedded().await;
    let text = "v".repeat(8_000);
    let request = PutEventRequest {
        event: Some(event("1", &[("a", &text)])),
        merge: false,
    };
    let answer = server
        .events()
        .send_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Gzip)
        .put_event(request)
        .await
        .unwrap();
    assert_eq!(answer.metadata().get("grpc-encoding").unwrap(), "gzip");
    assert_eq!(answer.into_inner().state.unwrap().attributes["a"], text);
    server.stop().await;
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_at_once() {
    let server = Server::with(ServerArgs {
        max_connections: 1,
        ..ServerArgs::default()
    })
    .await;
    server.put(event("1", &[])).await;
    let mut second = tokio::net::TcpStream::connect(server.running.grpc_address)
        .await
        .unwrap();
    let mut bytes = Vec::new();
    // Closed with or without a reset: either way at once.
    let _ = soon(second.read_to_end(&mut bytes)).await;
    assert!(bytes.is_empty());
    until(|| async { server.running.counters.connections_shed.get() == 1 }).await;
    server.put(event("1", &[])).await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_grpc_harms_nobody() {
    let server = Server::embedded().await;
    let mut junk = tokio::net::TcpStream::connect(server.running.grpc_address)
        .await
        .unwrap();
    junk.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut bytes = Vec::new();
    let _ = soon(junk.read_to_end(&mut bytes)).await;
    server.put(event("1", &[])).await;
    server.stop().await;
}

#[tokio::test]
async fn a_connection_that_does_not_end_is_closed_when_the_time_to_drain_is_over() {
    let standin = Standin::start(|_| Answer::Silence).await;
    let server = Server::with(ServerArgs {
        drain: Duration::from_millis(200),
        default_deadline: Duration::from_secs(600),
        personalize_timeout: Duration::from_secs(30),
        ..asking(&standin)
    })
    .await;
    let mut client = server.components();
    let endless = client.get_components(by_context("fan", &[]));
    let stopping = async {
        until(|| async { standin.questions() == 1 }).await;
        server.shutdown.cancel();
    };
    let (ended, ()) = soon(async { tokio::join!(endless, stopping) }).await;
    ended.unwrap_err();
    server.stop().await;
}
