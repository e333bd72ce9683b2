//! Following one event for as long as it lasts. Shows nothing twice and nothing older than what was
//! shown; does not remember states, only where the last one stood.

use std::time::Duration;

use async_stream::stream;
use futures::Stream;
use touchline_proto::v1 as proto;
use touchline_runtime::backoff::Backoff;

use crate::{
    Error,
    client::components,
    error::fails_over,
    replicas::{Replica, Replicas},
};

/// What a watch has to say.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are states, and one is held at a time"
)]
pub enum Watched {
    /// The event has this state now.
    State {
        /// The newest state.
        state: proto::EventState,
        /// What the consumer is shown in it; `None` without a consumer.
        component_set: Option<proto::ComponentSet>,
    },
    /// The connection broke or the service cannot serve: what was shown last may be old.
    Interrupted {
        /// Why.
        error: Error,
        /// When the next attempt is made.
        retry_in: Duration,
    },
}

/// What the reader of a watch has seen last.
#[derive(Debug, Default)]
struct Shown {
    state: Option<proto::EventState>,
    set_id: String,
    position: Option<proto::Position>,
}

impl Shown {
    /// Takes a message, or drops it because it is older than what is shown, or the same again.
    fn take(&mut self, message: proto::WatchEventResponse) -> Option<Watched> {
        let state = message.state?;
        let set = message.component_set.as_ref();
        let set_id = set.map_or("", |set| set.set_id.as_str());
        if self.is_after(&state) || self.is_same(&state, set_id) {
            return None;
        }
        set_id.clone_into(&mut self.set_id);
        if state.position.is_some() {
            self.position.clone_from(&state.position);
        }
        self.state = Some(state.clone());
        Some(Watched::State {
            state,
            component_set: message.component_set,
        })
    }

    /// Only positions of one epoch can be compared; anything else is taken as news.
    fn is_after(&self, state: &proto::EventState) -> bool {
        match (&self.position, &state.position) {
            (Some(shown), Some(new)) => shown.epoch == new.epoch && shown.sequence > new.sequence,
            _ => false,
        }
    }

    /// Where a state stands makes no difference to who reads it.
    fn is_same(&self, state: &proto::EventState, set_id: &str) -> bool {
        self.set_id == set_id
            && self.state.as_ref().is_some_and(|shown| {
                shown.version == state.version
                    && shown.attributes == state.attributes
                    && shown.content_ids == state.content_ids
            })
    }
}

pub(crate) fn watch(
    replicas: Replicas,
    event_id: String,
    consumer_id: String,
) -> impl Stream<Item = Result<Watched, Error>> + Send {
    stream! {
        let mut shown = Shown::default();
        let mut backoff = Backoff::default();
        loop {
            let request = proto::WatchEventRequest {
                event_id: event_id.clone(),
                consumer_id: consumer_id.clone(),
                // Naming the set that is shown would keep back a state that changed while the
                // connection was gone and decides the same set. What is the same is dropped here.
                set_id: String::new(),
            };
            // A watch of the state alone is anybody's.
            let replica = match consumer_id.as_str() {
                "" => None,
                consumer_id => replicas.of(consumer_id).await.into_iter().next(),
            };
            let channel = replica.as_ref().map_or_else(|| replicas.any(), Replica::channel);
            let broken = match components(channel).watch_event(request).await {
                Err(status) => status,
                Ok(answer) => {
                    let mut messages = answer.into_inner();
                    loop {
                        match messages.message().await {
                            Ok(Some(message)) => {
                                backoff.reset();
                                if let Some(watched) = shown.take(message) {
                                    yield Ok(watched);
                                }
                            }
                            Ok(None) => return,
                            Err(status) => break status,
                        }
                    }
                }
            };
            if let Some(replica) = replica
                && fails_over(&broken)
            {
                replica.failed();
            }
            let broken = Error::from(broken);
            // The row was deleted while nobody was listening.
            if matches!(broken, Error::NotFound(_)) && shown.state.is_some() {
                return;
            }
            if !broken.is_transient() {
                yield Err(broken);
                return;
            }
            let retry_in = backoff.pause().max(broken.retry_after().unwrap_or_default());
            yield Ok(Watched::Interrupted { error: broken, retry_in });
            tokio::time::sleep(retry_in).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sequence: &str, version: &str) -> proto::WatchEventResponse {
        proto::WatchEventResponse {
            state: Some(proto::EventState {
                version: version.to_owned(),
                position: Some(proto::Position {
                    epoch: "e".to_owned(),
                    sequence: sequence.to_owned(),
                }),
                ..Default::default()
            }),
            component_set: None,
        }
    }

    #[test]
    fn what_is_older_than_what_is_shown_is_dropped() {
        let mut shown = Shown::default();
        assert!(shown.take(message("2", "b")).is_some());
        assert!(shown.take(message("1", "a")).is_none());
        assert!(shown.take(message("3", "c")).is_some());
    }

    #[test]
    fn the_same_state_is_shown_once_wherever_it_stands_and_a_display_change_is_shown() {
        let mut shown = Shown::default();
        assert!(shown.take(message("2", "b")).is_some());
        assert!(shown.take(message("2", "b")).is_none());
        assert!(shown.take(message("3", "b")).is_none());
        let mut clock = message("3", "b");
        if let Some(state) = &mut clock.state {
            let name = "display_clock".to_owned();
            state.attributes.insert(name, "23'".to_owned());
        }
        assert!(shown.take(clock).is_some());
    }

    #[test]
    fn another_set_in_the_same_state_is_shown() {
        let mut shown = Shown::default();
        assert!(shown.take(message("2", "b")).is_some());
        let mut other = message("2", "b");
        other.component_set = Some(proto::ComponentSet {
            set_id: "new".to_owned(),
            ..Default::default()
        });
        assert!(shown.take(other).is_some());
    }

    #[test]
    fn another_epoch_always_applies() {
        let mut shown = Shown::default();
        assert!(shown.take(message("2", "b")).is_some());
        let mut other = message("1", "a");
        if let Some(position) = other.state.as_mut().and_then(|s| s.position.as_mut()) {
            position.epoch = "other".to_owned();
        }
        assert!(shown.take(other).is_some());
    }
}
