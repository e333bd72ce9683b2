//! Every RPC of the server against every kind of identity, over real sockets.

use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value;
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::{v1, v1alpha};
use tonic_types::StatusExt;
use touchline_auth::{
    AuthArgs,
    args::Open,
    issue::{AUDIENCE, ISSUER, SigningKey, claims, key_set},
};
use touchline_proto::v1::{
    BatchGetComponentsRequest, DeleteEventRequest, GetComponentsRequest, GetEventRequest,
    GetStatusRequest, Interaction, ListEventsRequest, PutEventRequest, RecordInteractionsRequest,
    Refinement, WatchEventRequest, admin_service_client::AdminServiceClient,
    component_service_client::ComponentServiceClient, event_service_client::EventServiceClient,
    feedback_service_client::FeedbackServiceClient,
};
use touchline_server::ServerArgs;

use crate::harness::{Server, by_context, by_event, event, soon};

const HOUR: Duration = Duration::from_secs(3_600);

/// A server that asks for tokens of one key, and what it stands on.
struct World {
    server: Server,
    key: SigningKey,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start(change: impl FnOnce(&mut AuthArgs)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::es256("key");
        let file = folder.path().join("jwks.json");
        std::fs::write(&file, key_set(&[&key])).unwrap();
        let mut auth = AuthArgs {
            auth_jwks: Some(file.to_str().unwrap().parse().unwrap()),
            auth_issuer: vec![ISSUER.to_owned()],
            auth_audience: vec![AUDIENCE.to_owned()],
            ..AuthArgs::default()
        };
        change(&mut auth);
        let args = ServerArgs {
            auth,
            ..ServerArgs::default()
        };
        Self {
            server: Server::with(args).await,
            key,
            _folder: folder,
        }
    }

    fn token(&self, consumer: &str, scopes: &str) -> String {
        self.key.sign(&claims(consumer, HOUR, scopes))
    }

    fn as_(&self, token: &str) -> As {
        As {
            channel: self.server.channel.clone(),
            token: token.to_owned(),
        }
    }
}

/// Calls with a token, or without where it is empty.
#[derive(Clone)]
struct As {
    channel: Channel,
    token: String,
}

impl As {
    fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if !self.token.is_empty() {
            let value: MetadataValue<_> = format!("Bearer {}", self.token).parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        request
    }
}

type Call = fn(As) -> BoxFuture<'static, Result<(), Status>>;

/// Every RPC; those that name a consumer twice, for `ann` and for `bob`.
const CALLS: [(&str, Call); 18] = [
    ("GetComponents of ann", |who| {
        Box::pin(get_components(who, "ann"))
    }),
    ("GetComponents of bob", |who| {
        Box::pin(get_components(who, "bob"))
    }),
    ("BatchGetComponents of ann", |who| {
        Box::pin(batch(who, &["ann"]))
    }),
    ("BatchGetComponents of ann and bob", |who| {
        Box::pin(batch(who, &["ann", "bob"]))
    }),
    ("WatchEvent", |who| Box::pin(watch(who, ""))),
    ("WatchEvent of ann", |who| Box::pin(watch(who, "ann"))),
    ("WatchEvent of bob", |who| Box::pin(watch(who, "bob"))),
    ("GetEvent", |who| {
        Box::pin(async move {
            let request = who.ask(GetEventRequest {
                event_id: "1".to_owned(),
            });
            EventServiceClient::new(who.channel)
                .get_event(request)
                .await
                .map(drop)
        })
    }),
    ("ListEvents", |who| {
        Box::pin(async move {
            let request = who.ask(ListEventsRequest::default());
            EventServiceClient::new(who.channel)
                .list_events(request)
                .await
                .map(drop)
        })
    }),
    ("PutEvent", |who| {
        Box::pin(async move {
            let state = Some(event("2", &[("match_event", "GOAL")]));
            let request = who.ask(PutEventRequest {
                event: state,
                merge: false,
            });
            EventServiceClient::new(who.channel)
                .put_event(request)
                .await
                .map(drop)
        })
    }),
    ("DeleteEvent", |who| {
        Box::pin(async move {
            let request = who.ask(DeleteEventRequest {
                event_id: "2".to_owned(),
            });
            let deleted = EventServiceClient::new(who.channel)
                .delete_event(request)
                .await;
            // Whether it is there is not what is asked here.
            match deleted {
                Err(status) if status.code() == Code::NotFound => Ok(()),
                other => other.map(drop),
            }
        })
    }),
    ("RecordInteractions of ann", |who| {
        Box::pin(record(who, "ann"))
    }),
    ("RecordInteractions of bob", |who| {
        Box::pin(record(who, "bob"))
    }),
    ("Health", |who| {
        Box::pin(async move {
            let request = who.ask(HealthCheckRequest::default());
            HealthClient::new(who.channel)
                .check(request)
                .await
                .map(drop)
        })
    }),
    ("reflection", |who| {
        Box::pin(async move {
            use v1::server_reflection_client::ServerReflectionClient;
            let request = who.ask(futures::stream::iter([]));
            ServerReflectionClient::new(who.channel)
                .server_reflection_info(request)
                .await
                .map(drop)
        })
    }),
    ("reflection, alpha", |who| {
        Box::pin(async move {
            use v1alpha::server_reflection_client::ServerReflectionClient;
            let request = who.ask(futures::stream::iter([]));
            ServerReflectionClient::new(who.channel)
                .server_reflection_info(request)
                .await
                .map(drop)
        })
    }),
    ("a call that nobody knows", |who| {
        Box::pin(async move {
            let mut grpc = tonic::client::Grpc::new(who.channel.clone());
            grpc.ready().await.unwrap();
            let request = who.ask(GetEventRequest::default());
            let codec = tonic_prost::ProstCodec::<GetEventRequest, GetEventRequest>::default();
            let path = "/touchline.v1.NobodysService/Nothing".parse().unwrap();
            match grpc.unary(request, path, codec).await {
                Err(status) if status.code() == Code::Unimplemented => Ok(()),
                other => other.map(drop),
            }
        })
    }),
    ("GetStatus", |who| {
        Box::pin(async move {
            let request = who.ask(GetStatusRequest {});
            AdminServiceClient::new(who.channel)
                .get_status(request)
                .await
                .map(drop)
        })
    }),
];

async fn get_components(who: As, consumer: &str) -> Result<(), Status> {
    let request = who.ask(by_event(consumer, "1"));
    ComponentServiceClient::new(who.channel)
        .get_components(request)
        .await
        .map(drop)
}

async fn batch(who: As, consumers: &[&str]) -> Result<(), Status> {
    let request = who.ask(BatchGetComponentsRequest {
        state: Some(event("1", &[("match_event", "GOAL")])),
        consumer_ids: consumers.iter().map(|id| (*id).to_owned()).collect(),
        ..BatchGetComponentsRequest::default()
    });
    let mut client = ComponentServiceClient::new(who.channel);
    let answer = client.batch_get_components(request).await?;
    answer.into_inner().message().await.map(drop)
}

async fn watch(who: As, consumer: &str) -> Result<(), Status> {
    let request = who.ask(WatchEventRequest {
        event_id: "1".to_owned(),
        consumer_id: consumer.to_owned(),
        set_id: String::new(),
    });
    let answer = ComponentServiceClient::new(who.channel)
        .watch_event(request)
        .await?;
    answer.into_inner().message().await.map(drop)
}

async fn record(who: As, consumer: &str) -> Result<(), Status> {
    let interaction = Interaction {
        consumer_id: consumer.to_owned(),
        interaction_id: format!("{consumer}-1"),
        event_type: "click".to_owned(),
        item_id: "a1".to_owned(),
        ..Interaction::default()
    };
    let request = who.ask(RecordInteractionsRequest {
        interactions: vec![interaction],
    });
    FeedbackServiceClient::new(who.channel)
        .record_interactions(request)
        .await
        .map(drop)
}

/// What each call answers, in the order of [`CALLS`]: `y` it is answered, `u` UNAUTHENTICATED,
/// `d` PERMISSION_DENIED.
async fn answers(who: &As) -> String {
    let mut answers = String::new();
    for (what, call) in CALLS {
        answers.push(match soon(call(who.clone())).await {
            Ok(()) => 'y',
            Err(status) => match status.code() {
                Code::Unauthenticated => 'u',
                Code::PermissionDenied => 'd',
                _ => panic!("{what}: {status:?}"),
            },
        });
    }
    answers
}

#[tokio::test]
async fn every_rpc_answers_each_identity_what_it_may_have_and_no_more() {
    let world = World::start(|_| {}).await;
    let state = event("1", &[("match_event", "GOAL")]);
    let writer = world.token("writer", "touchline:events:write");
    let request = world.as_(&writer).ask(PutEventRequest {
        event: Some(state),
        merge: false,
    });
    world.server.events().put_event(request).await.unwrap();
    let expired = claims("ann", Duration::ZERO, "touchline:components:any");
    let expired = {
        let mut claims = expired;
        claims["exp"] = Value::from(claims["exp"].as_u64().unwrap() - 60);
        world.key.sign(&claims)
    };
    let all =
        "touchline:components:any touchline:events:write touchline:feedback:any touchline:admin";
    // Components of ann, bob, batches, watches ×3, events read ×2, written ×2, feedback ×2, health,
    // reflection ×2, unknown, administering.
    for (what, token, expected) in [
        ("nobody", String::new(), "uuuuuuuuuuuuuyuuuu"),
        ("garbage", "garbage".to_owned(), "uuuuuuuuuuuuuyuuuu"),
        ("expired", expired, "uuuuuuuuuuuuuyuuuu"),
        (
            "another key",
            SigningKey::es256("key").sign(&claims("ann", HOUR, all)),
            "uuuuuuuuuuuuuyuuuu",
        ),
        ("no scope", world.token("ann", ""), "dddddddddddddyyydd"),
        (
            "a scope of others",
            world.token("ann", "components:any"),
            "dddddddddddddyyydd",
        ),
        (
            "oneself",
            world.token("ann", "touchline:components"),
            "ydddyydyyddddyyydd",
        ),
        (
            "anyone",
            world.token("push", "touchline:components:any"),
            "yyyyyyyyyddddyyydd",
        ),
        (
            "a reader",
            world.token("server", "touchline:events:read"),
            "ddddyddyyddddyyydd",
        ),
        (
            "a writer",
            world.token("feed", "touchline:events:write"),
            "ddddyddyyyyddyyydd",
        ),
        (
            "feedback",
            world.token("ann", "touchline:feedback"),
            "dddddddddddydyyydd",
        ),
        (
            "anyone's feedback",
            world.token("app", "touchline:feedback:any"),
            "dddddddddddyyyyydd",
        ),
        (
            "an administrator",
            world.token("ops", "touchline:admin"),
            "dddddddddddddyyyyy",
        ),
        ("everything", world.token("app", all), "yyyyyyyyyyyyyyyyyy"),
    ] {
        let found = answers(&world.as_(&token)).await;
        for ((call, found), expected) in CALLS
            .iter()
            .map(|(call, _)| call)
            .zip(found.chars())
            .zip(expected.chars())
        {
            assert_eq!(found, expected, "{what}: {call}");
        }
    }
    world.server.stop().await;
}

#[tokio::test]
async fn a_fan_cannot_ask_for_their_own_components_without_the_servers_filter() {
    let world = World::start(|_| {}).await;
    let asked = async |scopes: &str| {
        let request = GetComponentsRequest {
            refinement: Some(Refinement::default()),
            ..by_context("ann", &[])
        };
        let who = world.as_(&world.token("ann", scopes));
        let mut client = ComponentServiceClient::new(who.channel.clone());
        client.get_components(who.ask(request)).await
    };
    let refused = asked("touchline:components").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().starts_with("refinement:"), "{refused:?}");
    asked("touchline:components:any").await.unwrap();
    world.server.stop().await;
}

#[tokio::test]
async fn without_authentication_everybody_may_everything() {
    let server = Server::embedded().await;
    server.put(event("1", &[("match_event", "GOAL")])).await;
    for token in ["", "garbage"] {
        let who = As {
            channel: server.channel.clone(),
            token: token.to_owned(),
        };
        assert_eq!(answers(&who).await, "y".repeat(CALLS.len()));
    }
    server.stop().await;
}

#[tokio::test]
async fn health_and_reflection_are_open_if_one_says_so() {
    for (open, health, reflection) in [
        (vec![Open::Health, Open::Reflection], 'y', 'y'),
        (vec![Open::Reflection], 'u', 'y'),
        (vec![Open::None], 'u', 'u'),
    ] {
        let world = World::start(|auth| auth.auth_open = open).await;
        let nobody = answers(&world.as_("")).await;
        let of = |what: &str| {
            let place = CALLS.iter().position(|(call, _)| *call == what).unwrap();
            nobody.chars().nth(place).unwrap()
        };
        assert_eq!((of("Health"), of("reflection")), (health, reflection));
        world.server.stop().await;
    }
}

#[tokio::test]
async fn a_refusal_says_why_for_programs_and_for_people_and_names_no_token() {
    let world = World::start(|_| {}).await;
    let refused = async |token: &str| {
        let status = get_components(world.as_(token), "bob").await.unwrap_err();
        let details = status.get_error_details();
        let reason = details.error_info().unwrap().reason.clone();
        assert!(
            token.is_empty() || !format!("{status:?}").contains(token),
            "{status:?}"
        );
        (status.code(), reason, status.message().to_owned())
    };
    let (code, reason, _) = refused("").await;
    assert_eq!(
        (code, reason.as_str()),
        (Code::Unauthenticated, "TOKEN_MISSING")
    );
    let (code, reason, _) = refused("garbage").await;
    assert_eq!(
        (code, reason.as_str()),
        (Code::Unauthenticated, "TOKEN_MALFORMED")
    );
    let (code, reason, message) = refused(&world.token("ann", "")).await;
    assert_eq!(
        (code, reason.as_str()),
        (Code::PermissionDenied, "SCOPE_MISSING")
    );
    assert_eq!(message, "the caller lacks the scope components");
    let (code, reason, message) = refused(&world.token("ann", "touchline:components")).await;
    assert_eq!(
        (code, reason.as_str()),
        (Code::PermissionDenied, "NOT_YOURS")
    );
    assert!(
        message.starts_with("consumer_id: another consumer's"),
        "{message}"
    );
    world.server.stop().await;
}

#[tokio::test]
async fn a_watch_ends_when_its_token_expires() {
    let world = World::start(|auth| auth.auth_clock_skew = Duration::ZERO).await;
    let writer = world.as_(&world.token("writer", "touchline:events:write"));
    let state = Some(event("1", &[("match_event", "GOAL")]));
    let request = writer.ask(PutEventRequest {
        event: state,
        merge: false,
    });
    world.server.events().put_event(request).await.unwrap();
    let short = claims("ann", Duration::from_secs(3), "touchline:components");
    let request = world.as_(&world.key.sign(&short)).ask(WatchEventRequest {
        event_id: "1".to_owned(),
        consumer_id: "ann".to_owned(),
        set_id: String::new(),
    });
    let mut watch = world
        .server
        .components()
        .watch_event(request)
        .await
        .unwrap()
        .into_inner();
    assert!(soon(watch.message()).await.unwrap().is_some());
    let status = soon(watch.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "TOKEN_EXPIRED");
    world.server.stop().await;
}

#[tokio::test]
async fn a_server_with_authentication_may_listen_beyond_this_machine() {
    let mut args = ServerArgs {
        listen: "0.0.0.0:0".parse().unwrap(),
        ..ServerArgs::default()
    };
    let refused = args.validate().unwrap_err().to_string();
    assert!(
        refused.contains("--auth-jwks") && refused.contains("--insecure"),
        "{refused}"
    );
    args.auth = AuthArgs {
        auth_jwks: Some("jwks.json".parse().unwrap()),
        auth_issuer: vec![ISSUER.to_owned()],
        auth_audience: vec![AUDIENCE.to_owned()],
        ..AuthArgs::default()
    };
    args.validate().unwrap();
}
