//! While this process stands by, follows the leader's feed, so that its front can show a fan who
//! registers the newest state. Publishes nothing to others and pushes nothing.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tonic::{Status, transport::Endpoint};
use touchline_proto::v1::{
    FollowRequest, FollowResponse, change_feed_client::ChangeFeedClient, follow_response::Message,
};
use touchline_store::feed::Feed;

use super::Leader;
use crate::{convert, fanout::backoff::Backoff};

/// A feed says nothing for hours; a connection that is silent for this long is dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Follows whoever leads, for ever, and says by `vacant` when one was heard to leave. Drop it to
/// stop.
pub(super) async fn follow(leader: &Leader, vacant: &Notify) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    loop {
        if let Ok(Some(row)) = leader.store.lease().await
            && !row.owner.is_empty()
            && let Err(status) = follow_one(leader, row.address).await
        {
            tracing::debug!(%status, "the leader's feed ended");
            vacant.notify_one();
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn follow_one(leader: &Leader, address: String) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(address)
        .map_err(|error| Status::invalid_argument(error.to_string()))?
        .connect_timeout(Duration::from_secs(1))
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let mut client = ChangeFeedClient::new(endpoint.connect_lazy());
    let mut messages = client.follow(FollowRequest {}).await?.into_inner();
    // A new feed, which takes the old one's place once it knows as much.
    let feed = Arc::new(Feed::default());
    while let Some(message) = messages.message().await? {
        take(leader, &feed, message)?;
    }
    Ok(())
}

fn take(leader: &Leader, feed: &Arc<Feed>, message: FollowResponse) -> Result<(), Status> {
    let change = match message.message {
        Some(Message::State(state)) => convert::put_from_proto(state),
        Some(Message::Ended(ended)) => convert::ended_from_proto(ended),
        Some(Message::CaughtUp(_)) => {
            leader.followed.send_replace(Some(feed.clone()));
            return Ok(());
        }
        None => return Ok(()),
    };
    let change = change.map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
    feed.publish(change);
    Ok(())
}
