//! What this process, a push adapter or a gateway, tells its operators of itself. Moves nothing.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use touchline_admin::{Reload, Role, RoleStatus, span};
use touchline_proto::v1::{EventStatus, FanCount, PushStatus};
use touchline_store::{
    change::{Change, ChangeKind},
    session::Protocol,
    tables::Store,
};

use crate::{convert::position_to_proto, leader::Feeds, metrics::Metrics};

/// Events that are told of; there may be many more.
const EVENTS_MAX: usize = 100;
/// Who asks waits no longer for the lease's row.
const LEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// A push adapter or a gateway, to whom it is administered by.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) store: Store,
    pub(crate) feeds: Feeds,
    pub(crate) metrics: Arc<Metrics>,
}

impl Role for Push {
    async fn status(&self) -> RoleStatus {
        let (leader, fan_out) = (&self.metrics.leader, &self.metrics.fan_out);
        let (events, events_known) = match self.feeds.newest() {
            Some(feed) => feed.latest(EVENTS_MAX),
            None => (Vec::new(), 0),
        };
        let fans = |protocol| self.metrics.front.fans(protocol).get();
        RoleStatus::Push(PushStatus {
            leading: leader.is_leading.get() != 0,
            leader_address: self.leader_address().await,
            stream_age: self.metrics.stream.age().map(span),
            followers: self.metrics.feed_followers.get(),
            events: events.iter().filter_map(|change| event(change)).collect(),
            events_known: i64::try_from(events_known).unwrap_or(i64::MAX),
            fans: Some(FanCount {
                unregistered: fans(None),
                protocol_1: fans(Some(Protocol::V1)),
                protocol_2: fans(Some(Protocol::V2)),
            }),
            fan_outs: fan_out.begun.get(),
            fan_outs_superseded: fan_out.superseded.get(),
            pushes_delivered: fan_out.delivered(),
        })
    }

    async fn reload_policies(&self) -> Result<bool, Reload> {
        Err(Reload::Absent)
    }
}

impl Push {
    /// Empty where nobody leads, or where that cannot be read.
    async fn leader_address(&self) -> String {
        let row = timeout(LEASE_TIMEOUT, self.store.lease()).await;
        let row = row.ok().and_then(Result::ok).flatten();
        let led = row.filter(|row| !row.owner.is_empty());
        led.map(|row| row.address).unwrap_or_default()
    }
}

fn event(change: &Change) -> Option<EventStatus> {
    let ChangeKind::Put(state) = &change.kind else {
        return None;
    };
    Some(EventStatus {
        event_id: change.event_id.to_string(),
        version: state.version().as_str().to_owned(),
        position: change.position.as_ref().map(position_to_proto),
    })
}
