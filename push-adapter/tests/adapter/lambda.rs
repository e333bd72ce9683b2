//! The compiled Lambda binaries over the real runtime interface, which a server here implements: API
//! Gateway's events in, its answers out. What a fan sees of them is in tests/conformance.

use std::{process::Stdio, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::{Mutex, mpsc},
    task::JoinSet,
};
use touchline_auth::issue::{AUDIENCE, ISSUER, SigningKey, claims, key_set};
use touchline_store::{embedded::Embedded, ids::ConnectionId, tables::Store};

use crate::support::{DEADLINE, connections::StandIn, loopback, store};

const CONNECTION: &str = "L0SM9cOFvHcCIhw=";
const HOUR: Duration = Duration::from_secs(3_600);

/// The runtime interface (AWS Lambda developer guide, "Using the Lambda runtime API") for one function.
struct Runtime {
    events: mpsc::Sender<Value>,
    answers: Mutex<mpsc::Receiver<Result<Value, Value>>>,
    _function: Child,
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Shared {
    events: Arc<Mutex<mpsc::Receiver<Value>>>,
    answers: mpsc::Sender<Result<Value, Value>>,
}

async fn next(State(shared): State<Shared>) -> Response {
    let Some(event) = shared.events.lock().await.recv().await else {
        // The test is over; the function is about to be killed.
        return std::future::pending().await;
    };
    let mut headers = HeaderMap::new();
    headers.insert("lambda-runtime-aws-request-id", "request".parse().unwrap());
    headers.insert(
        "lambda-runtime-deadline-ms",
        "4102444800000".parse().unwrap(),
    );
    let arn = "arn:aws:lambda:us-east-1:123456789012:function:f";
    headers.insert("lambda-runtime-invoked-function-arn", arn.parse().unwrap());
    (headers, event.to_string()).into_response()
}

async fn answer(State(shared): State<Shared>, Path(what): Path<String>, body: Bytes) -> StatusCode {
    let body = serde_json::from_slice(&body).unwrap();
    let answer = if what == "response" {
        Ok(body)
    } else {
        Err(body)
    };
    let _ = shared.answers.send(answer).await;
    StatusCode::ACCEPTED
}

impl Runtime {
    async fn start(binary: &str, environment: &[(&str, String)]) -> Self {
        let (events, to_send) = mpsc::channel(8);
        let (sender, answers) = mpsc::channel(8);
        let shared = Shared {
            events: Arc::new(Mutex::new(to_send)),
            answers: sender,
        };
        let base = "/2018-06-01/runtime";
        let router = Router::new()
            .route(&format!("{base}/invocation/next"), get(next))
            .route(&format!("{base}/invocation/request/{{what}}"), post(answer))
            .route(&format!("{base}/init/{{what}}"), post(answer))
            .with_state(shared);
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let function = Command::new(binary)
            .env_clear()
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .env("AWS_LAMBDA_FUNCTION_NAME", "f")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("AWS_REGION", "us-east-1")
            .envs(environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            events,
            answers: Mutex::new(answers),
            _function: function,
            _serving: serving,
        }
    }

    async fn invoke(&self, event: Value) -> Result<Value, Value> {
        self.events.send(event).await.unwrap();
        let answer = async { self.answers.lock().await.recv().await.unwrap() };
        tokio::time::timeout(DEADLINE, answer).await.unwrap()
    }
}

/// The functions behind one API, its tables, and its `@connections`.
struct Api {
    store: Store,
    stand_in: StandIn,
    environment: Vec<(&'static str, String)>,
    _embedded: Embedded,
}

impl Api {
    async fn new() -> Self {
        let (embedded, store) = store().await;
        let stand_in = StandIn::start(&[]).await;
        let endpoint = stand_in.endpoint("{stage}");
        Self {
            environment: vec![
                (
                    "TOUCHLINE_DYNAMODB_ENDPOINT",
                    format!("http://{}", embedded.address()),
                ),
                ("TOUCHLINE_API_GATEWAY_ENDPOINT", endpoint),
            ],
            store,
            stand_in,
            _embedded: embedded,
        }
    }

    async fn function(&self, binary: &str) -> Runtime {
        Runtime::start(binary, &self.environment).await
    }

    async fn session(&self) -> Option<touchline_store::session::Session> {
        let connection = ConnectionId::new(CONNECTION).unwrap();
        self.store.session(&connection).await.unwrap()
    }
}

/// What API Gateway sends, with the fields that the developer guide shows.
fn event(route: &str, body: Option<&str>) -> Value {
    let event_type = match route {
        "$connect" => "CONNECT",
        "$disconnect" => "DISCONNECT",
        _ => "MESSAGE",
    };
    json!({
        "requestContext": {
            "routeKey": route,
            "eventType": event_type,
            "extendedRequestId": "x=",
            "requestTime": "21/Nov/2022:18:00:00 +0000",
            "messageDirection": "IN",
            "stage": "dev",
            "connectedAt": 1_669_053_600_000_u64,
            "requestTimeEpoch": 1_669_053_600_000_u64,
            "identity": {"sourceIp": "192.0.2.1"},
            "requestId": "r-1",
            "domainName": "abc123.execute-api.us-east-1.amazonaws.com",
            "connectionId": CONNECTION,
            "apiId": "abc123",
        },
        "body": body,
        "isBase64Encoded": false,
    })
}

fn registration(consumer: &str) -> String {
    crate::support::fan::registration(consumer, "final").to_string()
}

const PROCESSED: &str = "\"successfully processed client message...\"";

#[tokio::test]
async fn a_connections_whole_life_goes_through_the_functions() {
    let api = Api::new().await;
    let connect = api.function(env!("CARGO_BIN_EXE_connect")).await;
    let sendmessage = api.function(env!("CARGO_BIN_EXE_sendmessage")).await;
    let disconnect = api.function(env!("CARGO_BIN_EXE_disconnect")).await;
    let default = api.function(env!("CARGO_BIN_EXE_default")).await;

    let answer = connect.invoke(event("$connect", None)).await.unwrap();
    assert_eq!(answer, json!({"statusCode": 200, "body": PROCESSED}));
    assert_eq!(api.session().await, None, "it is no audience yet");

    let body = registration("ann");
    let answer = sendmessage
        .invoke(event("sendmessage", Some(&body)))
        .await
        .unwrap();
    assert_eq!(answer, json!({"statusCode": 200, "body": PROCESSED}));
    let session = api.session().await.unwrap();
    assert_eq!(session.consumer_id.as_str(), "ann");
    assert_eq!(session.endpoint, Some(api.stand_in.endpoint("dev")));
    assert_eq!(
        api.stand_in.posted_to(CONNECTION),
        [r#"{"status": "success"}"#]
    );

    let answer = default
        .invoke(event("$default", Some("hello")))
        .await
        .unwrap();
    let body = "\"successfully handled default route\"";
    assert_eq!(answer, json!({"statusCode": 200, "body": body}));
    let text = "\"this is default route. please use right action key\"";
    assert_eq!(api.stand_in.posted_to(CONNECTION)[1], text);

    for _ in 0..2 {
        let answer = disconnect.invoke(event("$disconnect", None)).await.unwrap();
        let body = "\"successfully deleted session on disconnect\"";
        assert_eq!(answer, json!({"statusCode": 200, "body": body}));
        assert_eq!(api.session().await, None);
    }

    // A late message never brings a closed session back.
    let late = event("sendmessage", Some(&registration("ann")));
    assert_eq!(sendmessage.invoke(late).await.unwrap()["statusCode"], 410);
    assert_eq!(api.session().await, None);
}

#[tokio::test]
async fn a_message_that_names_a_connections_route_neither_opens_nor_closes_it() {
    let api = Api::new().await;
    let connect = api.function(env!("CARGO_BIN_EXE_connect")).await;
    let sendmessage = api.function(env!("CARGO_BIN_EXE_sendmessage")).await;
    let disconnect = api.function(env!("CARGO_BIN_EXE_disconnect")).await;
    connect.invoke(event("$connect", None)).await.unwrap();
    let registration = registration("ann");
    let registered = event("sendmessage", Some(&registration));
    sendmessage.invoke(registered).await.unwrap();
    let session = api.session().await;
    assert!(session.is_some());
    for (function, route) in [(&connect, "$connect"), (&disconnect, "$disconnect")] {
        let mut message = event(route, Some("{}"));
        message["requestContext"]["eventType"] = "MESSAGE".into();
        let answer = function.invoke(message).await.unwrap();
        assert_eq!(answer["statusCode"], 200);
        assert_eq!(api.session().await, session);
    }
}

#[tokio::test]
async fn no_body_and_a_binary_one_are_bad_registrations() {
    let api = Api::new().await;
    let connect = api.function(env!("CARGO_BIN_EXE_connect")).await;
    let sendmessage = api.function(env!("CARGO_BIN_EXE_sendmessage")).await;
    connect.invoke(event("$connect", None)).await.unwrap();
    let answer = sendmessage.invoke(event("sendmessage", None)).await;
    assert_eq!(answer.unwrap()["statusCode"], 400);
    let posted: Value = serde_json::from_str(&api.stand_in.posted_to(CONNECTION)[0]).unwrap();
    assert_eq!(posted["connectionId"], CONNECTION);
    assert_eq!(posted["requestId"], "r-1");
    // A body in base64 is a binary message, which is none.
    let mut binary = event("sendmessage", Some("e30="));
    binary["isBase64Encoded"] = true.into();
    assert_eq!(sendmessage.invoke(binary).await.unwrap()["statusCode"], 400);
    assert_eq!(api.session().await, None);
}

#[tokio::test]
async fn a_connection_that_has_gone_fails_no_invocation() {
    let mut api = Api::new().await;
    api.stand_in = StandIn::start(&[410, 410, 410]).await;
    api.environment[1].1 = api.stand_in.endpoint("{stage}");
    let default = api.function(env!("CARGO_BIN_EXE_default")).await;
    let answer = default.invoke(event("$default", None)).await.unwrap();
    assert_eq!(answer["statusCode"], 200);
}

#[tokio::test]
async fn an_event_that_is_none_of_api_gateways_is_an_error_and_the_next_one_is_served() {
    let api = Api::new().await;
    let disconnect = api.function(env!("CARGO_BIN_EXE_disconnect")).await;
    for junk in [
        json!({}),
        json!({"requestContext": {"connectionId": ""}}),
        json!("text"),
    ] {
        disconnect.invoke(junk).await.unwrap_err();
    }
    let answer = disconnect.invoke(event("$disconnect", None)).await.unwrap();
    assert_eq!(answer["statusCode"], 200);
}

/// An event of the authorizer.
fn asking(query: Value, headers: Value) -> Value {
    let mut event = event("$connect", None);
    event["type"] = "REQUEST".into();
    event["methodArn"] = METHOD.into();
    event["queryStringParameters"] = query;
    event["headers"] = headers;
    event
}

const METHOD: &str = "arn:aws:execute-api:us-east-1:123456789012:abc123/dev/$connect";

#[tokio::test]
async fn the_authorizer_knows_good_tokens_and_the_routes_know_whose_they_are() {
    let mut api = Api::new().await;
    let (folder, key) = (tempfile::tempdir().unwrap(), SigningKey::rs256("key"));
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, key_set(&[&key])).unwrap();
    api.environment.extend([
        ("TOUCHLINE_AUTH_JWKS", file.to_str().unwrap().to_owned()),
        ("TOUCHLINE_AUTH_ISSUER", ISSUER.to_owned()),
        ("TOUCHLINE_AUTH_AUDIENCE", AUDIENCE.to_owned()),
    ]);
    let authorizer = api.function(env!("CARGO_BIN_EXE_authorizer")).await;
    let token = key.sign(&claims("ann", HOUR, ""));
    let nobody = {
        let mut claims = claims("ann", HOUR, "");
        claims.as_object_mut().unwrap().shift_remove("sub");
        key.sign(&claims)
    };
    let from_query = asking(json!({"token": token}), Value::Null);
    let offered = format!("touchline, touchline.bearer.{token}");
    let from_header = asking(Value::Null, json!({"Sec-WebSocket-Protocol": offered}));
    let mut context = Value::Null;
    for event in [from_query, from_header] {
        let policy = authorizer.invoke(event).await.unwrap();
        assert_eq!(policy["principalId"], "ann");
        let statement = json!([{
            "Action": "execute-api:Invoke", "Effect": "Allow", "Resource": METHOD,
        }]);
        assert_eq!(policy["policyDocument"]["Statement"], statement);
        context = policy["context"].clone();
    }
    let denied = authorizer
        .invoke(asking(json!({"token": nobody}), Value::Null))
        .await
        .unwrap();
    assert_eq!(denied["policyDocument"]["Statement"][0]["Effect"], "Deny");
    let foreign = SigningKey::es256("key").sign(&claims("ann", HOUR, ""));
    for bad in [
        Value::Null,
        json!({}),
        json!({"token": "garbage"}),
        json!({"token": foreign}),
    ] {
        let error = authorizer
            .invoke(asking(bad, Value::Null))
            .await
            .unwrap_err();
        assert_eq!(error["errorMessage"], "Unauthorized");
    }

    let connect = api.function(env!("CARGO_BIN_EXE_connect")).await;
    let sendmessage = api.function(env!("CARGO_BIN_EXE_sendmessage")).await;
    let with = |mut event: Value| {
        event["requestContext"]["authorizer"] = context.clone();
        event
    };
    let mut opening = with(event("$connect", None));
    opening["headers"] = json!({"sec-websocket-protocol": offered});
    let answer = connect.invoke(opening).await.unwrap();
    assert_eq!(
        answer["headers"],
        json!({"Sec-WebSocket-Protocol": "touchline"})
    );
    let bob = event("sendmessage", Some(&registration("bob")));
    assert_eq!(
        sendmessage.invoke(with(bob.clone())).await.unwrap()["statusCode"],
        403
    );
    // The row knows whose it is, should API Gateway not say it.
    assert_eq!(sendmessage.invoke(bob).await.unwrap()["statusCode"], 410);
    assert_eq!(api.session().await, None);
    let nameless = r#"{"action":"sendmessage","device_id":"d","content_id":"final"}"#;
    let answer = sendmessage
        .invoke(with(event("sendmessage", Some(nameless))))
        .await
        .unwrap();
    assert_eq!(answer["statusCode"], 200);
    assert_eq!(api.session().await.unwrap().consumer_id.as_str(), "ann");
    for (token, code) in [(token.as_str(), 200), (foreign.as_str(), 401)] {
        let body = json!({"action": "refresh", "token": token}).to_string();
        let answer = sendmessage
            .invoke(event("refresh", Some(&body)))
            .await
            .unwrap();
        assert_eq!(answer["statusCode"], code);
    }
}

#[tokio::test]
async fn a_function_that_is_set_up_wrongly_says_which_variable_is_wrong() {
    let failing = |variable: &'static str, value: &'static str| async move {
        let output = Command::new(env!("CARGO_BIN_EXE_authorizer"))
            .env_clear()
            .env("AWS_REGION", "us-east-1")
            .env(variable, value)
            .output();
        let output = tokio::time::timeout(DEADLINE, output)
            .await
            .unwrap()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = failing("TOUCHLINE_AUTH_JWKS", "http://issuer.example/jwks").await;
    assert!(
        said.contains("--auth-jwks") && said.contains("https:// URL"),
        "{said}"
    );
    let said = failing("TOUCHLINE_AUTH_JWKS", "https://issuer.example/jwks").await;
    assert!(said.contains("--auth-issuer"), "{said}");
    let said = failing("TOUCHLINE_LOG", "info").await;
    assert!(said.contains("TOUCHLINE_AUTH_JWKS is not set"), "{said}");
}
