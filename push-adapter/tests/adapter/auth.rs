//! Tokens of fans: what the front says of them before the upgrade, when they expire, and where they are
//! never seen. What each message answers each identity is in tests/conformance; who may follow the
//! change feed, here.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{
        Error,
        client::IntoClientRequest,
        http::{HeaderMap, Response},
    },
};
use tonic::{Code, Request, transport::Channel};
use touchline_auth::{
    AuthArgs,
    issue::{AUDIENCE, ISSUER, SigningKey, claims, key_set},
};
use touchline_proto::v1::{FollowRequest, change_feed_client::ChangeFeedClient};
use touchline_push::{PushArgs, expiry};
use touchline_store::ids::{ConnectionId, ConsumerId, ContentId, DeviceId};

use crate::support::{
    DEADLINE, Fan, World, connections::StandIn, eventually, process::Process, shown,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// Who issues tokens, and a file with its key.
pub(crate) struct Issuer {
    pub(crate) key: SigningKey,
    folder: tempfile::TempDir,
}

impl Issuer {
    pub(crate) fn new() -> Self {
        let issuer = Self {
            key: SigningKey::eddsa("key"),
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::write(issuer.file(), key_set(&[&issuer.key])).unwrap();
        issuer
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("jwks.json")
    }

    fn auth(&self) -> AuthArgs {
        AuthArgs {
            auth_jwks: Some(self.file().to_str().unwrap().parse().unwrap()),
            auth_issuer: vec![ISSUER.to_owned()],
            auth_audience: vec![AUDIENCE.to_owned()],
            auth_clock_skew: Duration::ZERO,
            ..AuthArgs::default()
        }
    }

    pub(crate) async fn world(&self) -> World {
        World::with(|args| args.auth = self.auth()).await
    }

    fn token(&self, consumer: &str) -> String {
        self.token_for(consumer, HOUR)
    }

    fn token_for(&self, consumer: &str, lifetime: Duration) -> String {
        self.key.sign(&claims(consumer, lifetime, ""))
    }
}

/// A connection with this query and these subprotocols, or the status of the refusal.
pub(crate) async fn connect(
    address: SocketAddr,
    query: &str,
    protocols: &str,
) -> Result<(Fan, HeaderMap), Response<Option<Vec<u8>>>> {
    let url = format!("ws://{address}/dev{query}");
    let mut request = url.into_client_request().unwrap();
    if !protocols.is_empty() {
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", protocols.parse().unwrap());
    }
    match connect_async(request).await {
        Ok((socket, answer)) => Ok((Fan { socket }, answer.headers().clone())),
        Err(Error::Http(answer)) => Err(*answer),
        Err(other) => panic!("{other:?}"),
    }
}

async fn with_token(world: &World, token: &str) -> Fan {
    let (fan, _) = connect(world.adapter.fans(), &format!("?token={token}"), "")
        .await
        .unwrap();
    fan
}

#[tokio::test]
async fn a_refusal_says_what_is_asked_for_and_accepts_no_subprotocol() {
    let issuer = Issuer::new();
    let world = issuer.world().await;
    let offered = "touchline, touchline.bearer.garbage";
    for protocols in ["", offered] {
        let refused = connect(world.adapter.fans(), "", protocols).await;
        let refused = refused.err().unwrap();
        assert_eq!(refused.headers()["www-authenticate"], "Bearer");
        assert!(refused.headers().get("sec-websocket-protocol").is_none());
        let body = refused.body().as_deref();
        assert_eq!(body, Some(&br#"{"message":"Unauthorized"}"#[..]));
    }
    assert_eq!(world.adapter.running.fans(), 0);
}

#[tokio::test]
async fn the_accepted_subprotocol_is_never_the_token() {
    let issuer = Issuer::new();
    let world = issuer.world().await;
    let token = issuer.token("ann");
    let offered = format!("touchline, touchline.bearer.{token}");
    let (mut fan, headers) = connect(world.adapter.fans(), "", &offered).await.unwrap();
    assert_eq!(headers["sec-websocket-protocol"], "touchline");
    fan.register("ann", "final").await;
    world.put("1", "GOAL").await;
    assert_eq!(fan.hear().await, shown("ann", "GOAL"));
    let (_, headers) = connect(world.adapter.fans(), &format!("?token={token}"), "")
        .await
        .unwrap();
    assert!(headers.get("sec-websocket-protocol").is_none());
}

#[tokio::test]
async fn a_connection_closes_with_4401_when_its_token_expires() {
    let issuer = Issuer::new();
    let world = issuer.world().await;
    let mut fan = with_token(&world, &issuer.token_for("ann", Duration::from_secs(2))).await;
    fan.register("ann", "final").await;
    assert_eq!(fan.close_code().await, 4401);
    eventually(|| async { world.adapter.running.fans() == 0 }).await;
}

#[tokio::test]
async fn a_token_that_is_refreshed_in_time_keeps_the_connection() {
    let issuer = Issuer::new();
    let world = issuer.world().await;
    let mut fan = with_token(&world, &issuer.token_for("ann", Duration::from_secs(3))).await;
    let mut other = with_token(&world, &issuer.token_for("ann", Duration::from_secs(3))).await;
    fan.register("ann", "final").await;
    fan.say(&json!({"action": "refresh", "token": issuer.token("ann")}))
        .await;
    assert_eq!(fan.hear().await["type"], "refreshed");
    // The other one's end shows that the time of both is over.
    assert_eq!(other.close_code().await, 4401);
    world.put("1", "GOAL").await;
    assert_eq!(fan.hear().await, shown("ann", "GOAL"));
}

#[tokio::test]
async fn connections_elsewhere_whose_token_has_expired_are_sent_nothing_and_closed() {
    use touchline_store::session::{Protocol, Registration, TokenHolder};
    let world = World::start().await;
    let stand_in = StandIn::start(&[]).await;
    let now = std::time::SystemTime::now();
    for (id, consumer, expires_at) in [
        ("good", "ann", now + HOUR),
        ("expired", "bob", now - Duration::from_secs(5)),
    ] {
        let connection = ConnectionId::new(id).unwrap();
        let holder = TokenHolder {
            consumer_id: ConsumerId::new(consumer).unwrap(),
            expires_at: Some(expires_at),
        };
        let endpoint = stand_in.endpoint("prod");
        let opened = world
            .store
            .open_session_of(&connection, &endpoint, Some(&holder));
        opened.await.unwrap();
        let registration = |consumer: &str| Registration {
            consumer_id: ConsumerId::new(consumer).unwrap(),
            device_id: DeviceId::new("phone").unwrap(),
            content_id: ContentId::new("final").unwrap(),
            protocol: Protocol::V1,
        };
        let registered = world
            .store
            .register_session(&connection, &registration(consumer))
            .await;
        registered.unwrap();
        // Nobody registers on another's row, whatever the route believed.
        let stolen = world
            .store
            .register_session(&connection, &registration("eve"))
            .await;
        assert!(
            matches!(stolen, Err(touchline_store::Error::Conflict(_))),
            "{stolen:?}"
        );
    }
    world.put("1", "GOAL").await;
    eventually(|| async { stand_in.posted_to("good").len() == 1 }).await;
    assert!(stand_in.posted_to("expired").is_empty());
    let front = touchline_push::connections::api_gateway::ApiGateway::new(
        touchline_push::connections::api_gateway::ApiGatewayOptions {
            endpoint: None,
            timeout: DEADLINE,
            posts_at_once: 4,
            posts_per_second: 1_000.0,
        },
    );
    expiry::sweep_once(&world.store, &front).await;
    assert_eq!(stand_in.closed(), ["expired"]);
    let rows = futures::StreamExt::collect::<Vec<_>>(world.store.expired_sessions(now)).await;
    assert!(rows.into_iter().all(|page| page.unwrap().is_empty()));
}

#[tokio::test]
async fn the_change_feed_is_for_who_may_read_events() {
    let issuer = Issuer::new();
    let world = issuer.world().await;
    let address = format!("http://{}", world.adapter.running.grpc_address);
    let channel = Channel::from_shared(address).unwrap().connect_lazy();
    for (what, token, code) in [
        ("nobody", None, Some(Code::Unauthenticated)),
        (
            "garbage",
            Some("garbage".to_owned()),
            Some(Code::Unauthenticated),
        ),
        (
            "no scope",
            Some(issuer.token("ann")),
            Some(Code::PermissionDenied),
        ),
        (
            "a reader",
            Some(
                issuer
                    .key
                    .sign(&claims("server", HOUR, "touchline:events:read")),
            ),
            None,
        ),
    ] {
        let mut request = Request::new(FollowRequest {});
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let answer = ChangeFeedClient::new(channel.clone()).follow(request).await;
        assert_eq!(answer.err().map(|status| status.code()), code, "{what}");
    }
}

#[tokio::test]
async fn fans_may_come_from_beyond_this_machine_once_they_present_tokens() {
    let issuer = Issuer::new();
    let beyond: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let args = |auth| PushArgs {
        fans_listen: beyond,
        auth,
        ..PushArgs::default()
    };
    assert!(args(AuthArgs::default()).validate().is_err());
    args(issuer.auth()).validate().unwrap();
    let management = PushArgs {
        management_listen: beyond,
        ..args(issuer.auth())
    };
    let refused = management.validate().unwrap_err().to_string();
    assert!(refused.starts_with("--management-listen"), "{refused}");
}

#[tokio::test]
async fn no_token_and_no_consumer_reaches_the_log_however_much_is_logged() {
    let issuer = Issuer::new();
    let (embedded, _store) = crate::support::store().await;
    let mut process = Process::start(&[
        "--dynamodb-endpoint",
        &format!("http://{}", embedded.address()),
        "--sole-leader",
        "--log",
        "debug",
        "--auth-jwks",
        issuer.file().to_str().unwrap(),
        "--auth-issuer",
        ISSUER,
        "--auth-audience",
        AUDIENCE,
    ])
    .await;
    let mut stderr = process.child.stderr.take().unwrap();
    let mut reading = tokio::task::JoinSet::new();
    reading.spawn(async move {
        let mut log = String::new();
        stderr.read_to_string(&mut log).await.unwrap();
        log
    });
    let (good, refreshed) = (issuer.token("annabel"), issuer.token("annabel"));
    let foreign = SigningKey::eddsa("key").sign(&claims("mallory", HOUR, ""));
    let bearer = |token: &str| format!("touchline, touchline.bearer.{token}");
    for (query, protocols) in [
        (format!("?token={foreign}"), String::new()),
        (String::new(), bearer(&foreign)),
    ] {
        assert!(connect(process.fans(), &query, &protocols).await.is_err());
    }
    let (mut fan, _) = connect(process.fans(), "", &bearer(&good)).await.unwrap();
    fan.register("annabel", "final").await;
    for token in [&refreshed, &foreign] {
        fan.say(&json!({"action": "refresh", "token": token})).await;
        fan.hear().await;
    }
    drop(fan);
    process.signal("-TERM").await;
    assert_eq!(process.ended().await, Some(0));
    let log = reading.join_next().await.unwrap().unwrap();
    assert!(log.contains("a fan's token is not accepted"), "{log}");
    for secret in [&good, &refreshed, &foreign]
        .into_iter()
        .flat_map(|token| token.split('.'))
    {
        assert!(!log.contains(secret), "{log}");
    }
    assert!(
        !log.contains("annabel") && !log.contains("mallory"),
        "{log}"
    );
}
