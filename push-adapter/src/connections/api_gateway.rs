//! Connections that API Gateway holds, or any front that speaks its `@connections` protocol, over
//! the AWS SDK. Does no retries of the SDK's kind: posts are made at a pace that follows the account's
//! quota, and one that is limited is backed off here, within the push's deadline. Whoever hangs, errs
//! or is limited costs itself only: attempts after the first have a lane of their own.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError, RwLock},
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

use super::{
    Connections, Frame, Limits, PostError,
    pace::{Limited, Pace},
    turns::Turns,
};
use crate::fanout::backoff::Backoff;

/// Clients that are kept; each holds its endpoint's connection pool.
const CLIENTS_MAX: usize = 64;

/// Attempts at an endpoint that cannot be reached: unlike a throttled one it may be gone for good,
/// and its sessions go by their TTL.
const UNREACHABLE_ATTEMPTS_MAX: u32 = 3;

/// Of the posts in flight, one in so many may be another attempt.
const AGAIN_SHARE: usize = 8;

/// Pause before it is looked whether a connection that is said to be gone is there: for one that has
/// just been opened API Gateway is sometimes wrong.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// How often it is said that a front refuses.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// How this process talks to API Gateway.
#[derive(Debug, Clone)]
pub struct ApiGatewayOptions {
    /// Where connections are posted to whose row names no endpoint.
    pub endpoint: Option<String>,
    /// One post's time.
    pub timeout: Duration,
    /// Posts in flight, in all.
    pub posts_at_once: usize,
    /// Posts a second at most: the account's quota.
    pub posts_per_second: u32,
}

/// Posts through `PostToConnection`.
#[derive(Debug)]
pub struct ApiGateway {
    options: ApiGatewayOptions,
    /// Where connections are posted to whose row names no endpoint; may move while others post.
    default: RwLock<Option<Arc<str>>>,
    clients: Mutex<Clients>,
    in_flight: Semaphore,
    /// The same for attempts after the first.
    again: Semaphore,
    turns: Turns,
    pace: Mutex<Pace>,
    reported_at: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Clients {
    by_endpoint: HashMap<Arc<str>, Client>,
    oldest_first: VecDeque<Arc<str>>,
}

/// What one attempt came to.
enum Attempt {
    Done,
    Gone,
    Failed(PostError),
    Throttled,
    Unreachable(String),
}

/// What a look at a connection came to that was said to be gone.
enum Look {
    Open,
    Gone,
    Unknown(String),
}

impl ApiGateway {
    /// No call is made.
    pub fn new(options: ApiGatewayOptions) -> Self {
        Self {
            in_flight: Semaphore::new(options.posts_at_once),
            again: Semaphore::new((options.posts_at_once / AGAIN_SHARE).max(1)),
            turns: Turns::default(),
            pace: Mutex::new(Pace::new(options.posts_per_second, Instant::now())),
            reported_at: Mutex::default(),
            clients: Mutex::default(),
            default: RwLock::new(options.endpoint.as_deref().map(Arc::from)),
            options,
        }
    }

    /// Whether connections without an endpoint of their own can be posted to.
    pub fn has_default(&self) -> bool {
        self.default().is_some()
    }

    /// Connections without an endpoint of their own are posted to there from now on.
    pub fn move_default(&self, endpoint: Option<&str>) {
        // No code that holds the lock can panic half-way through a change.
        let mut default = self.default.write().unwrap_or_else(PoisonError::into_inner);
        *default = endpoint.map(Arc::from);
    }

    fn default(&self) -> Option<Arc<str>> {
        let default = self.default.read().unwrap_or_else(PoisonError::into_inner);
        default.clone()
    }

    async fn client(&self, endpoint: Option<&str>) -> Result<Client, PostError> {
        let default = self.default();
        let endpoint = endpoint.or(default.as_deref()).ok_or_else(|| {
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

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        // No code that holds the lock can panic half-way through a change.
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next place in the account's quota.
    async fn paced(&self, limits: &Limits) -> Result<(), PostError> {
        let place = self.pace().reserve(Instant::now(), limits.deadline);
        let place = place.ok_or(PostError::Throttled)?;
        tokio::select! {
            () = tokio::time::sleep_until(place.into()) => Ok(()),
            () = limits.superseded.cancelled() => Err(PostError::Superseded),
        }
    }

    /// Whether a connection that is said to be gone is there after all.
    async fn look(&self, client: &Client, connection: &ConnectionId) -> Look {
        tokio::time::sleep(LOOK_PAUSE).await;
        let look = client.get_connection().connection_id(connection.as_str());
        match tokio::time::timeout(self.options.timeout, look.send()).await {
            Ok(Ok(_)) => Look::Open,
            Ok(Err(error)) => match classify(&error) {
                // Who may not look, as the functions may not, has the first answer to go by.
                Attempt::Gone | Attempt::Failed(_) | Attempt::Done => Look::Gone,
                Attempt::Throttled => Look::Unknown("the look was limited".to_owned()),
                Attempt::Unreachable(reason) => Look::Unknown(reason),
            },
            Err(_) => Look::Unknown("no answer in time".to_owned()),
        }
    }

    /// Says that a front refuses, which a person must mend, but not for each of its fans.
    fn report(&self, error: &PostError) {
        let mut reported_at = self
            .reported_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if matches!(error, PostError::Refused(_))
            && reported_at.is_none_or(|at| at.elapsed() >= REPORT_EVERY)
        {
            *reported_at = Some(Instant::now());
            tracing::error!(%error, "messages to fans are refused; more of it is counted only");
        }
    }

    async fn attempt(
        &self,
        client: &Client,
        connection: &ConnectionId,
        frame: &Frame,
        limits: &Limits,
        is_first: bool,
    ) -> Attempt {
        let lane = match is_first {
            true => &self.in_flight,
            false => &self.again,
        };
        let Ok(_in_flight) = lane.acquire().await else {
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
            turn = self.turns.take(connection) => turn,
            () = limits.superseded.cancelled() => return Err(PostError::Superseded),
        };
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let (mut attempts, mut unreachable, mut looked) = (0, 0, false);
        loop {
            self.paced(limits).await?;
            let is_first = attempts == 0;
            attempts += 1;
            let attempt = self.attempt(&client, connection, &frame, limits, is_first);
            let error = match attempt.await {
                Attempt::Done => {
                    self.pace().taken(Instant::now());
                    frame.delivered();
                    return Ok(());
                }
                Attempt::Failed(error) => {
                    self.report(&error);
                    return Err(error);
                }
                Attempt::Gone if looked => return Err(PostError::Gone),
                Attempt::Gone => match self.look(&client, connection).await {
                    Look::Gone => return Err(PostError::Gone),
                    Look::Open => {
                        looked = true;
                        PostError::Unavailable("said to be gone, and is there".to_owned())
                    }
                    // Nothing is removed on a word that could not be confirmed.
                    Look::Unknown(reason) => PostError::Unavailable(reason),
                },
                Attempt::Throttled => {
                    match self.pace().limited(Instant::now(), hash(connection)) {
                        Limited::Connection => tracing::debug!("a connection is limited"),
                        Limited::Account => tracing::debug!("the account is limited"),
                    }
                    PostError::Throttled
                }
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
                Attempt::Gone => PostError::Gone,
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

fn hash(connection: &ConnectionId) -> u64 {
    let mut hasher = DefaultHasher::new();
    connection.hash(&mut hasher);
    hasher.finish()
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
        410 => Attempt::Gone,
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
