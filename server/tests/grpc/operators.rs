//! What orchestrators and people with a terminal use: health and reflection.

use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb;
use touchline_server::{ServerArgs, start};
use touchline_store::tables::Store;

use crate::harness::{Server, Tables, soon, store_args};

const SERVICES: [&str; 3] = [
    "touchline.v1.ComponentService",
    "touchline.v1.EventService",
    "touchline.v1.FeedbackService",
];

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn each_service_is_healthy_until_shutdown_and_watchers_are_told() {
    let server = Server::embedded().await;
    let mut client = HealthClient::new(server.channel.clone());
    for service in SERVICES.into_iter().chain([""]) {
        let answer = client.check(of(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let mut watching = client.watch(of("")).await.unwrap().into_inner();
    let first = soon(watching.next()).await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    server.shutdown.cancel();
    let last = soon(watching.next()).await.unwrap().unwrap();
    assert_eq!(last.status(), ServingStatus::NotServing);
    assert!(soon(watching.next()).await.is_none());
    server.stop().await;
}

#[tokio::test]
async fn seed_15_a_server_starts_before_its_store_and_is_ready_once_that_is_there() {
    // A port that nobody listens on for now.
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let store = Store::connect(&store_args(address)).await;
    let shutdown = CancellationToken::new();
    let args = ServerArgs {
        listen: ([127, 0, 0, 1], 0).into(),
        metrics_listen: ([127, 0, 0, 1], 0).into(),
        ..ServerArgs::default()
    };
    let running = start(args, store, shutdown.clone()).await.unwrap();
    let grpc = format!("http://{}", running.grpc_address);
    let channel = Channel::from_shared(grpc).unwrap().connect_lazy();
    let mut client = HealthClient::new(channel);
    let answer = client.check(of(SERVICES[0])).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);

    let place = touchline_store::embedded::Place::Memory;
    let embedded = touchline_store::embedded::Embedded::start(place, address)
        .await
        .unwrap();
    soon(running.ready()).await.unwrap();
    let answer = client.check(of(SERVICES[0])).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    shutdown.cancel();
    drop(client);
    soon(running.stopped()).await.unwrap();
    embedded.stop().await;
}

#[tokio::test]
async fn a_taken_address_is_named_with_the_flag_that_moves_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let tables = Tables::start().await;
    let free = ([127, 0, 0, 1], 0).into();
    for (flag, listen, metrics_listen) in [
        ("--listen", address, free),
        ("--metrics-listen", free, address),
    ] {
        let args = ServerArgs {
            listen,
            metrics_listen,
            ..ServerArgs::default()
        };
        let started = start(args, tables.store.clone(), CancellationToken::new()).await;
        let error = format!("{:#}", started.unwrap_err());
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(error.contains(&format!("; {flag} ")), "{error}");
    }
    tables.embedded.stop().await;
}

macro_rules! reflection {
    ($name:ident, $version:ident) => {
        #[tokio::test]
        async fn $name() {
            use pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest,
                server_reflection_response::MessageResponse,
            };
            let server = Server::embedded().await;
            let ask = |message| {
                let request = ServerReflectionRequest {
                    host: String::new(),
                    message_request: Some(message),
                };
                let mut client = ServerReflectionClient::new(server.channel.clone());
                async move {
                    let requests = tokio_stream::once(request);
                    let mut answers = client
                        .server_reflection_info(requests)
                        .await
                        .unwrap()
                        .into_inner();
                    soon(answers.next())
                        .await
                        .unwrap()
                        .unwrap()
                        .message_response
                }
            };
            let listed = ask(MessageRequest::ListServices(String::new())).await;
            let Some(MessageResponse::ListServicesResponse(listed)) = listed else {
                panic!("no list of services");
            };
            let names: Vec<_> = listed
                .service
                .into_iter()
                .map(|service| service.name)
                .collect();
            for service in SERVICES.into_iter().chain(["grpc.health.v1.Health"]) {
                assert!(
                    names.iter().any(|name| name == service),
                    "{service} in {names:?}"
                );
                let symbol = MessageRequest::FileContainingSymbol(service.to_owned());
                let Some(MessageResponse::FileDescriptorResponse(_)) = ask(symbol).await else {
                    panic!("{service} is not described");
                };
            }
            server.stop().await;
        }
    };
}

reflection!(reflection_v1_describes_every_service, v1);
reflection!(reflection_v1alpha_describes_every_service, v1alpha);
