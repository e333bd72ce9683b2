//! Connections that API Gateway holds, or any front that speaks its `@connections` protocol, over
//! the AWS SDK. Does no retries of the SDK's kind: a throttled post is backed off here, within the
//! push's deadline.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use aws_sdk_apigatewaymanagement::{
    Client,
    config::{Builder, retry::RetryConfig},
    error::ProvideErrorMetadata,
    primitives::Blob,
};
use aws_smithy_runtime_api::{client::result::SdkError, http::Response};
use tokio::sync::Semaphore;
use touchline_store::{aws::sdk_config, ids::ConnectionId};

use super::{Connections, Frame, Limits, PostError};
use crate::fanout::backoff::Backoff;

/// Clients that are kept; each holds its endpoint's connection pool.
const CLIENTS_MAX: usize = 64;

/// Permits by connection: two connections that share one merely wait for each other.
const TURNS: usize = 4_096;

/// Attempts at an endpoint that cannot be reached: unlike a throttled one it may be gone for good,
/// and its sessions go by their TTL.
const UNREACHABLE_ATTEMPTS_MAX: u32 = 3;

/// How this process talks to API Gateway.
#[derive(Debug, Clone)]
pub struct ApiGatewayOptions {
    /// Where connections are posted to whose row names no endpoint.
    pub endpoint: Option<String>,
    /// One post's time.
    pub timeout: Duration,
    /// Posts in flight, in all.
    pub posts_at_once: usize,
}

/// Posts through `PostToConnection`.
#[derive(Debug)]
pub struct ApiGateway {
    options: ApiGatewayOptions,
    clients: Mutex<Clients>,
    in_flight: Semaphore,
    turns: Vec<Semaphore>,
}

#[derive(Debug, Default)]
struct Clients {
    by_endpoint: HashMap<Arc<str>, Client>,
    oldest_first: VecDeque<Arc<str>>,
}

/// What one attempt came to.
enum Attempt {
    Done,
    Failed(PostError),
    Throttled,
    Unreachable(String),
}

impl ApiGateway {
    /// No call is made.
    pub fn new(options: ApiGatewayOptions) -> Self {
        Self {
            in_flight: Semaphore::new(options.posts_at_once),
            turns: (0..TURNS).map(|_| Semaphore::new(1)).collect(),
            clients: Mutex::default(),
            options,
        }
    }

    /// Whether connections without an endpoint of their own can be posted to.
    pub fn has_default(&self) -> bool {
        self.options.endpoint.is_some()
    }

    async fn client(&self, endpoint: Option<&str>) -> Result<Client, PostError> {
        let endpoint = endpoint
            .or(self.options.endpoint.as_deref())
            .ok_or_else(|| {
                let reason = "its row names no endpoint and --api-gateway-endpoint is not given";
                PostError::Refused(reason.to_owned())
            })?;
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            let reason = "the endpoint in its row is no http:// or https:// URL";
            return Err(PostError::Refused(reason.to_owned()));
        }
        if let Some(client) = self.clients().by_endpoint.get(endpoint) {
            return Ok(client.clone());
        }
        let shared = sdk_config(region(endpoint), Some(endpoint), self.options.timeout).await;
        let config = Builder::from(&shared)
            .endpoint_url(endpoint)
            .retry_config(RetryConfig::disabled())
            .build();
        let client = Client::from_conf(config);
        self.clients().keep(endpoint, client.clone());
        Ok(client)
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, Clients> {
        // No code that holds the lock can panic half-way through a change.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, connection: &ConnectionId) -> &Semaphore {
        let mut hasher = DefaultHasher::new();
        connection.hash(&mut hasher);
        // The remainder is below TURNS, so it fits.
        &self.turns[(hasher.finish() % TURNS as u64) as usize]
    }

    async fn attempt(
        &self,
        client: &Client,
        connection: &ConnectionId,
        frame: &Frame,
        limits: &Limits,
    ) -> Attempt {
        let Ok(_in_flight) = self.in_flight.acquire().await else {
            return Attempt::Failed(PostError::Unavailable("shutting down".to_owned()));
        };
        // Looked at with the turn in hand: what superseded this cannot have been posted yet.
        if let Err(error) = limits.allow() {
            return Attempt::Failed(error);
        }
        let post = client
            .post_to_connection()
            .connection_id(connection.as_str())
            .data(Blob::new(frame.bytes()))
            .send();
        match tokio::time::timeout(self.options.timeout, post).await {
            Ok(Ok(_)) => Attempt::Done,
            Ok(Err(error)) => classify(&error),
            Err(_) => Attempt::Unreachable("no answer in time".to_owned()),
        }
    }
}

#[async_trait]
impl Connections for ApiGateway {
    async fn post(
        &self,
        connection: &ConnectionId,
        endpoint: Option<&str>,
        frame: Frame,
        limits: &Limits,
    ) -> Result<(), PostError> {
        let client = self.client(endpoint).await?;
        let _turn = tokio::select! {
            turn = self.turn(connection).acquire() => turn,
            () = limits.superseded.cancelled() => return Err(PostError::Superseded),
        };
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut unreachable = 0;
        loop {
            let error = match self.attempt(&client, connection, &frame, limits).await {
                Attempt::Done => {
                    frame.delivered();
                    return Ok(());
                }
                Attempt::Failed(error) => return Err(error),
                Attempt::Throttled => PostError::Throttled,
                Attempt::Unreachable(reason) => {
                    unreachable += 1;
                    if unreachable >= UNREACHABLE_ATTEMPTS_MAX {
                        return Err(PostError::Unavailable(reason));
                    }
                    PostError::Unavailable(reason)
                }
            };
            let pause = backoff.pause();
            if Instant::now() + pause >= limits.deadline {
                return Err(error);
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = limits.superseded.cancelled() => return Err(PostError::Superseded),
            }
        }
    }

    async fn close(
        &self,
        connection: &ConnectionId,
        endpoint: Option<&str>,
    ) -> Result<(), PostError> {
        let client = self.client(endpoint).await?;
        let delete = client
            .delete_connection()
            .connection_id(connection.as_str())
            .send();
        match tokio::time::timeout(self.options.timeout, delete).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(match classify(&error) {
                Attempt::Failed(error) => error,
                Attempt::Throttled => PostError::Throttled,
                Attempt::Unreachable(reason) => PostError::Unavailable(reason),
                Attempt::Done => return Ok(()),
            }),
            Err(_) => Err(PostError::Unavailable("no answer in time".to_owned())),
        }
    }
}

impl Clients {
    fn keep(&mut self, endpoint: &str, client: Client) {
        if self.by_endpoint.contains_key(endpoint) {
            return;
        }
        if self.oldest_first.len() >= CLIENTS_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.by_endpoint.remove(&oldest);
        }
        let endpoint: Arc<str> = endpoint.into();
        self.oldest_first.push_back(endpoint.clone());
        self.by_endpoint.insert(endpoint, client);
    }
}

/// The region that an API's own host name says it is in: requests are signed for it.
fn region(endpoint: &str) -> Option<&str> {
    let (_, rest) = endpoint.split_once(".execute-api.")?;
    let (region, _) = rest.split_once(".amazonaws.com")?;
    Some(region)
}

/// Sorts the protocol's answers by what can be done (API Gateway developer guide, `@connections`:
/// 410 gone, 413 too large, 403 forbidden, 429 limit exceeded).
fn classify<E>(error: &SdkError<E, Response>) -> Attempt
where
    E: ProvideErrorMetadata + std::fmt::Debug,
{
    let Some(response) = error.raw_response() else {
        let reason = match error {
            SdkError::DispatchFailure(_) => "it cannot be reached",
            SdkError::TimeoutError(_) => "no answer in time",
            SdkError::ConstructionFailure(_) => {
                let reason = "the request cannot be built or signed".to_owned();
                return Attempt::Failed(PostError::Refused(reason));
            }
            _ => "its answer cannot be understood",
        };
        return Attempt::Unreachable(reason.to_owned());
    };
    let status = response.status().as_u16();
    let code = match error {
        SdkError::ServiceError(service) => service.err().code().unwrap_or("none"),
        _ => "none",
    };
    match status {
        410 => Attempt::Failed(PostError::Gone),
        429 => Attempt::Throttled,
        500.. => Attempt::Unreachable(format!("status {status}, {code}")),
        _ => Attempt::Failed(PostError::Refused(format!("status {status}, {code}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_signed_for_the_region_in_the_endpoints_name() {
        let endpoint = "https://abc123.execute-api.eu-west-1.amazonaws.com/dev";
        assert_eq!(region(endpoint), Some("eu-west-1"));
        assert_eq!(region("http://127.0.0.1:8082/dev"), None);
    }
}
