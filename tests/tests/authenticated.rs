//! Server, push adapter, a producer and a fan who know each other by tokens, over mutual TLS: everything
//! that calls presents something, and the goal still reaches the screen.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use futures::{StreamExt, TryStreamExt};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_util::sync::CancellationToken;
use touchline_auth::{
    AuthArgs,
    issue::{AUDIENCE, ISSUER, SigningKey, claims, key_set},
};
use touchline_cli::fan::{Fan, Heard, Protocol, listen};
use touchline_client::{Caller, CallerArgs, Client, Error, Watched, proto::EventState};
use touchline_push::{PushArgs, config::LookupArgs};
use touchline_server::ServerArgs;
use touchline_store::{
    aws::AwsArgs,
    embedded::{Embedded, Place},
    tables::{Store, StoreArgs, TableNames},
};
use touchline_tests::DEADLINE;

/// Files of an installation: keys, certificates, tokens.
struct Secrets {
    folder: tempfile::TempDir,
    key: SigningKey,
}

impl Secrets {
    fn new() -> Self {
        let secrets = Self {
            folder: tempfile::tempdir().unwrap(),
            key: SigningKey::es256("key"),
        };
        fs::write(secrets.path("jwks.json"), key_set(&[&secrets.key])).unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = CertifiedIssuer::self_signed(authority, key).unwrap();
        fs::write(secrets.path("ca.pem"), authority.pem()).unwrap();
        let names = vec!["127.0.0.1".to_owned()];
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap();
        let certificate = certificate.signed_by(&key, &authority).unwrap();
        fs::write(secrets.path("pod.pem"), certificate.pem()).unwrap();
        fs::write(secrets.path("pod.key"), key.serialize_pem()).unwrap();
        secrets
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn auth(&self) -> AuthArgs {
        AuthArgs {
            auth_jwks: Some(self.path("jwks.json").to_str().unwrap().parse().unwrap()),
            auth_issuer: vec![ISSUER.to_owned()],
            auth_audience: vec![AUDIENCE.to_owned()],
            tls_certificate: Some(self.path("pod.pem")),
            tls_key: Some(self.path("pod.key")),
            tls_client_ca: Some(self.path("ca.pem")),
            ..AuthArgs::default()
        }
    }

    fn token(&self, who: &str, scopes: &str) -> String {
        self.key
            .sign(&claims(who, Duration::from_secs(3_600), scopes))
    }

    /// What somebody with these scopes calls with.
    fn caller(&self, who: &str, scopes: &str) -> CallerArgs {
        let token = self.path(who);
        fs::write(&token, self.token(who, scopes)).unwrap();
        CallerArgs {
            token_file: Some(token),
            ca_file: Some(self.path("ca.pem")),
            client_certificate: Some(self.path("pod.pem")),
            client_key: Some(self.path("pod.key")),
            ..CallerArgs::default()
        }
    }

    fn client(&self, server: SocketAddr, who: &str, scopes: &str) -> Client {
        let caller = Caller::open(&self.caller(who, scopes)).unwrap();
        Client::connect_as(&format!("https://{server}"), caller).unwrap()
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap()
}

#[tokio::test]
async fn a_goal_reaches_the_screen_where_everybody_must_say_who_they_are() {
    let secrets = Secrets::new();
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let embedded = Embedded::start(Place::Memory, loopback).await.unwrap();
    let store = Box::pin(Store::connect(&StoreArgs {
        aws: AwsArgs {
            region: None,
            dynamodb_endpoint: Some(format!("http://{}", embedded.address())),
        },
        names: TableNames {
            event: "rt_personalize_event_manager".to_owned(),
            session: "rt_personalize_user_session_store".to_owned(),
            item: "rt_personalize_soccer_ux_item".to_owned(),
            lease: "touchline_push_lease".to_owned(),
        },
    }))
    .await;
    store.prepare().await.unwrap();
    let items = touchline_cli::demo::items();
    store.put_items(&items, &[], &|_| {}).await.unwrap();

    let shutdown = CancellationToken::new();
    let server_args = ServerArgs {
        listen: loopback,
        metrics_listen: loopback,
        auth: secrets.auth(),
        caller: secrets.caller("server", "touchline:events:read"),
        ..ServerArgs::default()
    };
    let starting = touchline_server::start(server_args, store.clone(), shutdown.clone());
    let server = Box::pin(starting).await.unwrap();
    let push_args = PushArgs {
        listen: loopback,
        fans_listen: loopback,
        management_listen: loopback,
        metrics_listen: loopback,
        lookup: LookupArgs {
            server: format!("https://{}", server.grpc_address),
            ..PushArgs::default().lookup
        },
        sole_leader: true,
        poll_interval: Duration::from_millis(10),
        auth: secrets.auth(),
        caller: secrets.caller("push", "touchline:components:any"),
        ..PushArgs::default()
    };
    let starting = touchline_push::start(push_args, store.clone(), shutdown.clone());
    let push = Box::pin(starting).await.unwrap();
    soon(server.ready()).await.unwrap();

    // The fan says who they are by their token, and claims nothing else.
    let token = secrets.token("camille", "");
    let fan = Fan {
        consumer_id: "camille".to_owned(),
        device_id: "phone".to_owned(),
        content_id: "final".to_owned(),
        protocol: Protocol::V2,
        caller: Caller::default().with_token(&token).unwrap(),
    };
    let gateway = format!("ws://{}/dev", push.fans_address.unwrap());
    let mut heard = listen(gateway, fan).boxed();
    assert!(matches!(
        soon(heard.try_next()).await.unwrap(),
        Some(Heard::Connected)
    ));

    // A watcher is told through the change feed, which the server follows at the adapter.
    let producer = secrets.client(server.grpc_address, "feed", "touchline:events:write");
    let goal = |event: &str| EventState {
        event_id: "1".to_owned(),
        attributes: [("match_event".to_owned(), event.to_owned())].into(),
        ..EventState::default()
    };
    soon(producer.put_event(goal("GOAL"), false)).await.unwrap();
    let own = secrets.client(server.grpc_address, "camille", "touchline:components");
    let mut watch = own.watch("1", Some("camille"));
    let watched = soon(watch.try_next()).await.unwrap().unwrap();
    assert!(
        matches!(
            watched,
            Watched::State {
                component_set: Some(_),
                ..
            }
        ),
        "{watched:?}"
    );
    let message = soon(async {
        loop {
            if let Some(Heard::Message(text)) = heard.try_next().await.unwrap()
                && text.contains(r#""type":"components""#)
            {
                return text;
            }
        }
    });
    assert!(message.await.contains(r#""event_id":"1""#));
    soon(async {
        while !server.events.following() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;

    // And who may not, may not.
    let denied = own.put_event(goal("PENALTY"), false).await;
    assert!(matches!(denied, Err(Error::Denied(_))), "{denied:?}");
    let plain = Client::connect(&format!("http://{}", server.grpc_address)).unwrap();
    assert!(soon(plain.get_event("1")).await.is_err());

    drop((heard, watch, own, producer));
    shutdown.cancel();
    soon(push.stopped()).await.unwrap();
    soon(server.stopped()).await.unwrap();
    embedded.stop().await;
}
