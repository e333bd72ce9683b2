//! The Lambda functions behind API Gateway's WebSocket routes: events of API Gateway in, its answers
//! out. What a route does is in [`routes`], for the gateway and for these alike. Clients are made once a
//! container, at its start.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use clap::Parser;
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use touchline_auth::{AuthArgs, Identity, Refused, Scopes, Verifier, offer::Offer};
use touchline_runtime::log::LogArgs;
use touchline_store::{
    ids::ConnectionId,
    tables::{Store, StoreArgs},
};

use crate::{
    connections::{
        Connections, Frame, Limits,
        api_gateway::{ApiGateway, ApiGatewayOptions},
    },
    leader::lease::Tenure,
    routes::{self, Outcome},
};

/// One post's time: an answer to a fan who has just said something.
const POST_TIMEOUT: Duration = Duration::from_secs(2);
/// Trying to answer ends then; the functions have ten seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Names of what the authorizer hands on to the routes.
const CONSUMER_ID: &str = "consumer_id";
const EXPIRES_AT: &str = "expires_at";

/// What a function is set up with: environment variables, since a Lambda has no command line.
#[derive(Debug, Parser)]
struct LambdaArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    auth: AuthArgs,
    #[command(flatten)]
    log: LogArgs,
    /// Management endpoint of the API, where messages are posted; {api}, {region} and {stage} stand for
    /// those of the connection
    #[arg(
        long,
        env = "TOUCHLINE_API_GATEWAY_ENDPOINT",
        default_value = "https://{api}.execute-api.{region}.amazonaws.com/{stage}",
        value_name = "URL"
    )]
    api_gateway_endpoint: String,
}

/// What every function of a container shares.
struct Function {
    store: Store,
    verifier: Option<Verifier>,
    api_gateway: ApiGateway,
    endpoint: String,
    region: String,
}

/// What API Gateway sends, as far as it is read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    request_context: RequestContext,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
    #[serde(default, deserialize_with = "null_is_none")]
    headers: HashMap<String, String>,
    #[serde(default, deserialize_with = "null_is_none")]
    query_string_parameters: HashMap<String, String>,
    /// Of the authorizer's events alone.
    #[serde(default)]
    method_arn: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext {
    connection_id: String,
    #[serde(default)]
    route_key: String,
    /// CONNECT, MESSAGE or DISCONNECT.
    #[serde(default)]
    event_type: String,
    #[serde(default)]
    request_id: String,
    #[serde(default)]
    api_id: String,
    #[serde(default)]
    stage: String,
    #[serde(default, deserialize_with = "null_is_none")]
    authorizer: HashMap<String, Value>,
}

/// API Gateway writes `null` where there is nothing.
fn null_is_none<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What API Gateway takes from a route's function.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    status_code: u16,
    body: String,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    headers: HashMap<&'static str, &'static str>,
}

/// `$connect`: opens the session.
pub async fn connect() -> Result<(), Error> {
    let function = Function::start().await?;
    let function = &function;
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Event>| {
        let event = event.payload;
        if event.is_message() {
            return Ok(Answer::of(routes::nothing()));
        }
        let identity = event.identity();
        let endpoint = function.endpoint_of(&event);
        let connection = event.connection()?;
        let connected = routes::connect(&function.store, &connection, &endpoint, identity.as_ref());
        let mut answer = Answer::of(connected.await);
        if let Some(accept) = event.offer().accept {
            // Without it a browser that offered any takes the connection for refused.
            answer.headers.insert("Sec-WebSocket-Protocol", accept);
        }
        Ok::<_, Error>(answer)
    }))
    .await
}

/// `sendmessage` registers the fan, and `refresh` takes a token in place of the one before.
pub async fn sendmessage() -> Result<(), Error> {
    let function = Function::start().await?;
    let function = &function;
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Event>| {
        let event = event.payload;
        let (connection, body) = (event.connection()?, event.text());
        let store = &function.store;
        let outcome = match (event.request_context.route_key.as_str(), &function.verifier) {
            ("refresh", Some(verifier)) => {
                routes::refresh(store, verifier, &connection, &body).await
            }
            ("refresh", None) => routes::default(),
            _ => {
                let (id, identity) = (&event.request_context.request_id, event.identity());
                routes::sendmessage(store, &connection, id, &body, identity.as_ref()).await
            }
        };
        Ok::<_, Error>(function.answer(&event, &connection, outcome).await)
    }))
    .await
}

/// `$default`: tells the fan which key to use.
pub async fn default() -> Result<(), Error> {
    let function = Function::start().await?;
    let function = &function;
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Event>| {
        let event = event.payload;
        let connection = event.connection()?;
        Ok::<_, Error>(
            function
                .answer(&event, &connection, routes::default())
                .await,
        )
    }))
    .await
}

/// `$disconnect`: deletes the session.
pub async fn disconnect() -> Result<(), Error> {
    let function = Function::start().await?;
    let function = &function;
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Event>| {
        let connection = event.payload.connection()?;
        if event.payload.is_message() {
            return Ok(Answer::of(routes::nothing()));
        }
        let disconnected = routes::disconnect(&function.store, &connection).await;
        Ok::<_, Error>(Answer::of(disconnected))
    }))
    .await
}

/// The authorizer of `$connect`: whose token it is. API Gateway answers 401 to the fan for the error
/// `Unauthorized`, 403 for a policy that denies, and 500 for anything else.
pub async fn authorize() -> Result<(), Error> {
    let function = Function::start().await?;
    let Some(verifier) = &function.verifier else {
        return Err("TOUCHLINE_AUTH_JWKS is not set: an authorizer needs the issuer's keys".into());
    };
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Event>| {
        let event = event.payload;
        let token = event.offer().token.unwrap_or_default();
        let verified = verifier.verify(&token).await;
        decide(&event.method_arn, verified)
    }))
    .await
}

/// The policy, or the error that stands for 401.
fn decide(method_arn: &str, verified: Result<Identity, Refused>) -> Result<Value, Diagnostic> {
    let failed = |message: &str, kind: &str| Diagnostic {
        error_type: kind.to_owned(),
        error_message: message.to_owned(),
    };
    let identity = verified.map_err(|refused| {
        tracing::info!(reason = refused.reason(), "a fan's token is not accepted");
        match refused {
            Refused::Unavailable => failed(&refused.to_string(), "KeysUnavailable"),
            // API Gateway looks for this very text.
            _ => failed("Unauthorized", "Unauthorized"),
        }
    })?;
    let (effect, consumer_id) = match &identity.consumer_id {
        Some(consumer_id) => ("Allow", consumer_id.as_str()),
        None => ("Deny", "nobody"),
    };
    let expires_at = identity
        .expires_at
        .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let mut context = json!({ CONSUMER_ID: consumer_id });
    if let Some(expires_at) = expires_at {
        context[EXPIRES_AT] = expires_at.as_secs().into();
    }
    Ok(json!({
        "principalId": consumer_id,
        "policyDocument": {
            "Version": "2012-10-17",
            "Statement": [{
                "Action": "execute-api:Invoke",
                "Effect": effect,
                "Resource": method_arn,
            }],
        },
        "context": context,
    }))
}

impl Function {
    async fn start() -> Result<Self, Error> {
        let args = LambdaArgs::try_parse_from(["touchline"])?;
        args.auth.validate()?;
        args.log.begin();
        let verifier = Verifier::open(&args.auth)?;
        let store = Box::pin(Store::connect(&args.store)).await;
        Ok(Self {
            store,
            verifier,
            api_gateway: ApiGateway::new(ApiGatewayOptions {
                endpoint: None,
                timeout: POST_TIMEOUT,
                // A function serves one event at a time.
                posts_at_once: 1,
                posts_per_second: 1_000.0,
            }),
            endpoint: args.api_gateway_endpoint,
            region: args.store.aws.region.unwrap_or_default(),
        })
    }

    /// Where messages for the connection are posted, with this API and by this stage.
    fn endpoint_of(&self, event: &Event) -> String {
        self.endpoint
            .replace("{api}", &event.request_context.api_id)
            .replace("{region}", &self.region)
            .replace("{stage}", &event.request_context.stage)
    }

    /// Posts what the fan is to be told, and answers API Gateway.
    async fn answer(&self, event: &Event, connection: &ConnectionId, outcome: Outcome) -> Answer {
        if let Some(text) = &outcome.post {
            let deadline = Instant::now() + ANSWER_TIMEOUT;
            // Nobody else posts on behalf of this fan's message, so no lease stands behind it.
            let tenure = Tenure::ended();
            tenure.extend(deadline);
            let limits = Limits {
                deadline,
                superseded: CancellationToken::new(),
                tenure,
            };
            let endpoint = self.endpoint_of(event);
            let frame = Frame::reply(text.clone());
            let posted = self
                .api_gateway
                .post(connection, Some(&endpoint), frame, &limits);
            if let Err(error) = posted.await {
                tracing::info!(%error, "a fan could not be answered");
            }
        }
        Answer::of(outcome)
    }
}

impl Event {
    /// Whether a fan's message selected the route, as an `action` of that name might: connections are
    /// opened and closed by API Gateway alone.
    fn is_message(&self) -> bool {
        self.request_context.event_type == "MESSAGE"
    }

    fn connection(&self) -> Result<ConnectionId, Error> {
        Ok(ConnectionId::new(&self.request_context.connection_id)?)
    }

    /// The message. API Gateway encodes binary ones only, and those are no messages.
    fn text(&self) -> String {
        match self.is_base64_encoded {
            true => String::new(),
            false => self.body.clone().unwrap_or_default(),
        }
    }

    fn offer(&self) -> Offer {
        let protocols = self
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-protocol"));
        let mut offer = Offer::read(None, protocols.map(|(_, value)| value.as_str()));
        if offer.token.is_none() {
            offer.token = self.query_string_parameters.get("token").cloned();
        }
        offer
    }

    /// Who the authorizer says it is; `None` where there is none. Its context holds text and numbers,
    /// and API Gateway may hand a number on as text.
    fn identity(&self) -> Option<Identity> {
        let authorizer = &self.request_context.authorizer;
        let consumer_id = authorizer.get(CONSUMER_ID)?.as_str()?;
        let expires_at = authorizer.get(EXPIRES_AT).and_then(|value| match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        });
        Some(Identity {
            consumer_id: Some(consumer_id.to_owned()),
            scopes: Scopes::NONE,
            expires_at: expires_at.map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at)),
        })
    }
}

impl Answer {
    fn of(outcome: Outcome) -> Self {
        Self {
            status_code: outcome.status,
            body: outcome.body,
            headers: HashMap::new(),
        }
    }
}
