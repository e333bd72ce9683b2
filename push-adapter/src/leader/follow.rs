//! Follows the feed of whoever leads, for the front of a process that does not lead itself. Publishes
//! nothing to others and pushes nothing.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tonic::Status;
use touchline_auth::caller::Caller;
use touchline_proto::v1::{
    FollowRequest, FollowResponse, change_feed_client::ChangeFeedClient, follow_response::Message,
};
use touchline_runtime::backoff::Backoff;
use touchline_store::{change::Change, feed::Feed, tables::Store};

use super::Led;

use crate::convert;

/// A feed says nothing for hours; a connection that is silent for this long is dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How often it is looked whether another leads by now: a leader that sleeps, or whose machine died,
/// does not say that it leads no more.
const LEASE_EVERY: Duration = Duration::from_millis(500);

/// Longest pause before the leader is looked for again. A fan who registers here before it is found
/// is shown what was heard last, and found by the second look of its fan-out, which is due later.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What following needs.
#[derive(Debug)]
pub struct Following {
    /// Where the lease's row says who leads.
    pub store: Store,
    /// What the leader is shown.
    pub caller: Caller,
    /// Its feed, once that is known whole; the last one while nobody leads.
    pub followed: Led,
}

/// Follows whoever leads, for ever, and says by `vacant` when one was heard to leave. Drop it to
/// stop.
pub async fn follow(following: &Following, vacant: &Notify) {
    let mut pauses = pauses();
    loop {
        if let Ok(Some(row)) = following.store.lease().await
            && !row.owner.is_empty()
        {
            let ended = tokio::select! {
                ended = follow_one(following, row.address.clone(), &mut pauses) => ended,
                () = moved(following, &row.owner) => Err(Status::unavailable("another leads")),
            };
            if let Err(status) = ended {
                tracing::debug!(%status, "the leader's feed ended");
                vacant.notify_one();
            }
        }
        tokio::time::sleep(pauses.pause()).await;
    }
}

fn pauses() -> Backoff {
    Backoff::new(Duration::from_millis(100), PAUSE_MAX)
}

/// Waits until another holds the lease, or nobody. One that cannot be read says nothing.
async fn moved(following: &Following, owner: &str) {
    loop {
        tokio::time::sleep(LEASE_EVERY).await;
        if let Ok(row) = following.store.lease().await
            && row.is_none_or(|row| row.owner != owner)
        {
            return;
        }
    }
}

/// Follows a leader until its feed ends; once it was heard of, `pauses` begin anew.
async fn follow_one(
    following: &Following,
    address: String,
    pauses: &mut Backoff,
) -> Result<(), Status> {
    let invalid = |_| Status::invalid_argument("the leader's address is no URL");
    let url = address.parse().map_err(invalid)?;
    let channel = following.caller.channel(&url, None, |endpoint| {
        endpoint
            .connect_timeout(Duration::from_secs(1))
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true)
    });
    let channel = channel.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let mut client = ChangeFeedClient::new(channel);
    let mut messages = client.follow(FollowRequest {}).await?.into_inner();
    *pauses = self::pauses();
    // A new feed, which takes the old one's place once it knows as much.
    let feed = Arc::new(Feed::default());
    while let Some(message) = messages.message().await? {
        take(following, &feed, message)?;
    }
    Ok(())
}

fn take(following: &Following, feed: &Arc<Feed>, message: FollowResponse) -> Result<(), Status> {
    let heard = convert::heard_from_proto(&message);
    let change = match message.message {
        Some(Message::State(state)) => convert::put_from_proto(state),
        Some(Message::Ended(ended)) => convert::ended_from_proto(ended),
        Some(Message::CaughtUp(_)) => {
            following.followed.send_replace(Some(feed.clone()));
            return Ok(());
        }
        None => return Ok(()),
    };
    let change = change.map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
    feed.publish(Change { heard, ..change });
    Ok(())
}
