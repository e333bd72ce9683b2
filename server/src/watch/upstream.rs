//! Where states come from: the change feed of the push adapter's leader, found by the lease row and
//! found again when it moves; while there is none, the rows that are watched and only these.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use touchline_auth::caller::Caller;
use touchline_proto::v1::{
    FollowRequest, FollowResponse, change_feed_client::ChangeFeedClient, follow_response::Message,
};
use touchline_runtime::backoff::Backoff;
use touchline_store::{ids::EventId, lease::LeaseRow};

use super::{Change, Events};
use crate::service::convert;

/// How often watched rows are read while no feed is followed.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Rows that are read at the same time.
const POLL_CONCURRENCY: usize = 16;
/// How often the lease row is read while a feed is followed: a leader that sleeps, or whose machine
/// died, does not say that it leads no more.
const LEASE_EVERY: Duration = Duration::from_secs(1);
/// Finding and reaching the leader takes at most this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A leader that is silent on the wire for this long, twice, is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// The first pause before the leader is looked for again, doubled up to [`BACK_OFF_MAX`].
const BACK_OFF_MIN: Duration = Duration::from_millis(200);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// Without a feed for this long, it is worth a line in the log.
const LOG_AFTER: Duration = Duration::from_secs(3);

/// Why no feed is followed (any more).
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("nobody leads")]
    NoLeader,
    #[error("the lease cannot be read: {0}")]
    Lease(String),
    #[error("the leader's address is no URL")]
    Address,
    #[error("the leader cannot be reached: {0}")]
    Connect(String),
    #[error("the feed broke: {0}")]
    Broken(String),
    #[error("another one leads")]
    Moved,
}

impl Events {
    /// Follows the change feed, wherever it is, until shutdown.
    pub async fn keep_following(self: Arc<Self>, caller: Caller, shutdown: CancellationToken) {
        let following = async {
            let mut backoff = Backoff::new(BACK_OFF_MIN, BACK_OFF_MAX);
            let mut lost_at = Instant::now();
            let mut logged = false;
            loop {
                let mut caught_up = false;
                let lost = self.follow_once(&caller, &mut caught_up).await;
                self.lost();
                if caught_up {
                    backoff.reset();
                    (lost_at, logged) = (Instant::now(), false);
                }
                if !logged && lost_at.elapsed() >= LOG_AFTER {
                    logged = true;
                    tracing::warn!(
                        reason = %lost,
                        "no change feed can be reached: polling the watched rows once a second"
                    );
                }
                sleep(backoff.pause()).await;
            }
        };
        shutdown.run_until_cancelled(following).await;
    }

    /// Polls the watched rows while no feed is followed, until shutdown.
    pub async fn keep_polling(self: Arc<Self>, shutdown: CancellationToken) {
        let polling = async {
            let mut tick = interval(POLL_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                if !self.following() {
                    let watched = self.lock().watched.keys().cloned().collect();
                    self.poll_all(watched).await;
                }
            }
        };
        shutdown.run_until_cancelled(polling).await;
    }

    pub(super) async fn poll_all(&self, event_ids: Vec<EventId>) {
        stream::iter(&event_ids)
            .for_each_concurrent(POLL_CONCURRENCY, |event_id| async move {
                if let Err(error) = self.poll(event_id).await {
                    tracing::debug!(%error, "a watched row cannot be read; the next poll tries");
                }
            })
            .await;
    }

    async fn follow_once(&self, caller: &Caller, caught_up: &mut bool) -> Lost {
        let leader = match self.leader().await {
            Ok(leader) => leader,
            Err(lost) => return lost,
        };
        let mut messages = match connect(caller, &leader.address).await {
            Ok(messages) => messages,
            Err(lost) => return lost,
        };
        let mut shown = Some(HashSet::new());
        let mut lease = interval(LEASE_EVERY);
        lease.reset();
        loop {
            tokio::select! {
                message = messages.message() => match message {
                    Ok(Some(message)) => {
                        if self.take(message, &mut shown).await {
                            *caught_up = true;
                            tracing::info!(leader = leader.address, "following the change feed");
                        }
                    }
                    Ok(None) => return Lost::Broken("it ended".to_owned()),
                    Err(status) => return Lost::Broken(status.message().to_owned()),
                },
                _ = lease.tick() => {
                    // A lease that cannot be read says nothing about the feed.
                    if let Ok(now) = self.leader().await
                        && (&now.owner, &now.address) != (&leader.owner, &leader.address)
                    {
                        return Lost::Moved;
                    }
                }
            }
        }
    }

    /// Takes a message; says whether it is the one that all events were shown. `shown` collects the
    /// events until then.
    async fn take(&self, message: FollowResponse, shown: &mut Option<HashSet<EventId>>) -> bool {
        match message.message {
            Some(Message::State(state)) => match convert::seen(state) {
                Ok(seen) => {
                    if let Some(shown) = shown {
                        shown.insert(seen.state.event_id.clone());
                    }
                    self.apply(Change::State(seen));
                }
                Err(error) => tracing::warn!(%error, "the feed sent a state without a usable id"),
            },
            Some(Message::Ended(ended)) => {
                if let Ok(event_id) = EventId::new(ended.event_id) {
                    if let Some(shown) = shown {
                        shown.remove(&event_id);
                    }
                    self.apply(Change::Ended(event_id));
                }
            }
            Some(Message::CaughtUp(_)) => {
                if let Some(shown) = shown.take() {
                    self.caught_up(&shown).await;
                    return true;
                }
            }
            None => {}
        }
        false
    }

    async fn leader(&self) -> Result<LeaseRow, Lost> {
        let row = timeout(CONNECT_TIMEOUT, self.store.lease())
            .await
            .map_err(|_| Lost::Lease("no answer".to_owned()))?
            .map_err(|error| Lost::Lease(error.to_string()))?;
        row.filter(|row| !row.owner.is_empty() && !row.address.is_empty())
            .ok_or(Lost::NoLeader)
    }
}

async fn connect(caller: &Caller, address: &str) -> Result<tonic::Streaming<FollowResponse>, Lost> {
    let url = address.parse().map_err(|_| Lost::Address)?;
    let channel = caller.channel(&url, None, |endpoint| {
        endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
    });
    let mut client = ChangeFeedClient::new(channel.map_err(|_| Lost::Address)?);
    let following = async {
        let answer = client
            .follow(FollowRequest {})
            .await
            .map_err(|status| Lost::Connect(status.message().to_owned()))?;
        Ok(answer.into_inner())
    };
    timeout(CONNECT_TIMEOUT * 2, following)
        .await
        .map_err(|_| Lost::Connect("no answer".to_owned()))?
}
