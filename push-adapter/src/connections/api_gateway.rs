//! Connections that API Gateway holds, or any front that speaks its `@connections` protocol, over
//! the AWS SDK. Does no retries of the SDK's kind: a throttled post is backed off here, within the
//! push's deadline, at the pace that the front bears ([`pace`]).

use std::{
    collections::{HashMap, VecDeque},
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
use touchline_runtime::backoff::Backoff;
use touchline_store::{aws::sdk_config, ids::ConnectionId};

use self::{
    pace::{Fault, Pace},
    turns::Turns,
};
use super::{Connections, Frame, Limits, PostError};

mod pace;
mod turns;

/// Clients that are kept; each holds its endpoint's connection pool.
const CLIENTS_MAX: usize = 64;

/// Attempts at an endpoint that cannot be reached: unlike a throttled one it may be gone for good,
/// and its sessions go by their TTL.
const UNREACHABLE_ATTEMPTS_MAX: u32 = 3;

/// Attempts at a connection that does not read; after them it is left for the next walk.
const SLOW_ATTEMPTS_MAX: u32 = 2;

/// Slow connections have this part of the posts that may be in flight.
const SLOW_PART: usize = 8;

/// Before a connection that is said to be gone is looked at: one that opened just now may be said to be.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// How this process talks to API Gateway.
#[derive(Debug, Clone)]
pub struct ApiGatewayOptions {
    /// Where connections are posted to whose row names no endpoint.
    pub endpoint: Option<String>,
    /// One post's time.
    pub timeout: Duration,
    /// Posts in flight, in all.
    pub posts_at_once: usize,
    /// Posts a second to the APIs of one region, which share an account's quota.
    pub posts_per_second: f64,
}

/// Posts through `PostToConnection`.
#[derive(Debug)]
pub struct ApiGateway {
    options: ApiGatewayOptions,
    /// Where connections are posted to whose row names no endpoint; may move while others post.
    default: RwLock<Option<Arc<str>>>,
    clients: Mutex<Clients>,
    in_flight: Semaphore,
    slow: Semaphore,
    turns: Turns,
}

#[derive(Debug, Default)]
struct Clients {
    by_endpoint: HashMap<Arc<str>, (Client, Arc<Pace>)>,
    oldest_first: VecDeque<Arc<str>>,
}

/// What one attempt came to.
enum Attempt {
    Done,
    Failed(PostError),
    Gone,
    Throttled,
    Hung,
    Unreachable(String),
}

impl ApiGateway {
    /// No call is made.
    pub fn new(options: ApiGatewayOptions) -> Self {
        Self {
            in_flight: Semaphore::new(options.posts_at_once),
            slow: Semaphore::new((options.posts_at_once / SLOW_PART).max(1)),
            turns: Turns::default(),
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

    async fn client(&self, endpoint: Option<&str>) -> Result<(Client, Arc<Pace>), PostError> {
        let default = self.default();
        let endpoint = endpoint.or(default.as_deref()).ok_or_else(|| {
            let reason = "its row names no endpoint and --api-gateway-endpoint is not given";
            PostError::Refused(reason.to_owned())
        })?;
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            let reason = "the endpoint in its row is no http:// or https:// URL";
            return Err(PostError::Refused(reason.to_owned()));
        }
        if let Some(known) = self.clients().by_endpoint.get(endpoint) {
            return Ok(known.clone());
        }
        let shared = sdk_config(region(endpoint), Some(endpoint), self.options.timeout).await;
        let config = Builder::from(&shared)
            .endpoint_url(endpoint)
            .retry_config(RetryConfig::disabled())
            .build();
        let client = Client::from_conf(config);
        let limit = self.options.posts_per_second;
        Ok(self.clients().keep(endpoint, client, limit))
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, Clients> {
        // No code that holds the lock can panic half-way through a change.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One post, in its turn and at the front's pace.
    async fn attempt(
        &self,
        (client, pace): &(Client, Arc<Pace>),
        connection: &ConnectionId,
        frame: &Frame,
        limits: &Limits,
    ) -> Attempt {
        let in_flight = match pace.is_slow(connection, now()) {
            // Who does not read holds up others of its kind only.
            true => match self.slow.try_acquire() {
                Ok(permit) => Ok(permit),
                Err(_) => return Attempt::Failed(PostError::Throttled),
            },
            false => self.in_flight.acquire().await,
        };
        let Ok(_in_flight) = in_flight else {
            return Attempt::Failed(PostError::Unavailable("shutting down".to_owned()));
        };
        if let Err(error) = token(pace, limits).await {
            return Attempt::Failed(error);
        }
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
            Err(_) => Attempt::Hung,
        }
    }

    /// Whether a connection that is said to be gone is.
    async fn is_gone(
        &self,
        (client, pace): &(Client, Arc<Pace>),
        connection: &ConnectionId,
        limits: &Limits,
    ) -> Result<bool, PostError> {
        tokio::select! {
            () = tokio::time::sleep(LOOK_PAUSE) => {}
            () = limits.superseded.cancelled() => return Err(PostError::Superseded),
        }
        token(pace, limits).await?;
        let look = client
            .get_connection()
            .connection_id(connection.as_str())
            .send();
        match tokio::time::timeout(self.options.timeout, look).await {
            Ok(Ok(_)) => Ok(false),
            Ok(Err(error)) => match classify(&error) {
                // Who may not look has the front's first word to go by.
                Attempt::Gone | Attempt::Failed(_) => Ok(true),
                Attempt::Done => Ok(false),
                Attempt::Throttled => Err(PostError::Throttled),
                // Nothing is removed on a word that could not be confirmed.
                Attempt::Hung => Err(PostError::Unavailable("no answer in time".to_owned())),
                Attempt::Unreachable(reason) => Err(PostError::Unavailable(reason)),
            },
            Err(_) => Err(PostError::Unavailable("no answer in time".to_owned())),
        }
    }
}

/// Waits for leave to post.
async fn token(pace: &Pace, limits: &Limits) -> Result<(), PostError> {
    let waiting = async {
        let _turn = pace.turn.lock().await;
        while let Err(pause) = pace.take(now()) {
            // The timer has whole milliseconds; less than one would spin.
            tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
        }
    };
    tokio::select! {
        () = waiting => Ok(()),
        () = limits.superseded.cancelled() => Err(PostError::Superseded),
        () = tokio::time::sleep_until(limits.deadline.into()) => Err(PostError::Throttled),
    }
}

fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
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
        let front = self.client(endpoint).await?;
        let pace = &front.1;
        let _turn = tokio::select! {
            turn = self.turns.take(connection) => turn,
            () = limits.superseded.cancelled() => return Err(PostError::Superseded),
        };
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let (mut unreachable, mut slow, mut looked) = (0, 0, false);
        loop {
            let error = match self.attempt(&front, connection, &frame, limits).await {
                Attempt::Done => {
                    pace.answered(connection);
                    frame.delivered();
                    return Ok(());
                }
                Attempt::Failed(error) => return Err(error),
                Attempt::Gone if looked => return Err(PostError::Gone),
                Attempt::Gone => {
                    looked = true;
                    if self.is_gone(&front, connection, limits).await? {
                        return Err(PostError::Gone);
                    }
                    continue;
                }
                Attempt::Throttled => {
                    if pace.throttled(connection, now()) == Fault::Connection {
                        slow += 1;
                    }
                    PostError::Throttled
                }
                Attempt::Hung => {
                    pace.hung(connection, now());
                    slow += 1;
                    PostError::Unavailable("no answer in time".to_owned())
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
            if slow >= SLOW_ATTEMPTS_MAX || Instant::now() + pause >= limits.deadline {
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
        let (client, _) = self.client(endpoint).await?;
        let delete = client
            .delete_connection()
            .connection_id(connection.as_str())
            .send();
        match tokio::time::timeout(self.options.timeout, delete).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(match classify(&error) {
                Attempt::Failed(error) => error,
                Attempt::Gone => PostError::Gone,
                Attempt::Throttled => PostError::Throttled,
                Attempt::Hung => PostError::Unavailable("no answer in time".to_owned()),
                Attempt::Unreachable(reason) => PostError::Unavailable(reason),
                Attempt::Done => return Ok(()),
            }),
            Err(_) => Err(PostError::Unavailable("no answer in time".to_owned())),
        }
    }
}

impl Clients {
    fn keep(&mut self, endpoint: &str, client: Client, limit: f64) -> (Client, Arc<Pace>) {
        if let Some(known) = self.by_endpoint.get(endpoint) {
            return known.clone();
        }
        if self.oldest_first.len() >= CLIENTS_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.by_endpoint.remove(&oldest);
        }
        // The APIs of an account in one region share its quota.
        let shared = region(endpoint).and_then(|here| {
            let mut others = self.by_endpoint.iter();
            let other = others.find(|(other, _)| region(other) == Some(here));
            other.map(|(_, (_, pace))| pace.clone())
        });
        let pace = shared.unwrap_or_else(|| Arc::new(Pace::new(limit, now())));
        let endpoint: Arc<str> = endpoint.into();
        self.oldest_first.push_back(endpoint.clone());
        self.by_endpoint
            .insert(endpoint, (client.clone(), pace.clone()));
        (client, pace)
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
            SdkError::TimeoutError(_) => return Attempt::Hung,
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
