//! Following one event for as long as it lasts. Shows nothing twice and nothing older than what was
//! shown; does not remember states, only where the last one stood.

use std::time::Duration;

use async_stream::stream;
use futures::Stream;
use tonic::transport::Channel;
use touchline_proto::v1::{self as proto, component_service_client::ComponentServiceClient};

use crate::{Error, backoff::Backoff};

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
    position: Option<proto::Position>,
    set_id: String,
    version: String,
}

impl Shown {
    /// Takes a message, or drops it because it is older than what is shown, or the same again.
    fn take(&mut self, message: proto::WatchEventResponse) -> Option<Watched> {
        let state = message.state?;
        let set_id = message
            .component_set
            .as_ref()
            .map_or("", |set| set.set_id.as_str());
        let same = state.version == self.version && set_id == self.set_id;
        if let (Some(shown), Some(new)) = (&self.position, &state.position)
            && shown.epoch == new.epoch
            && (new.sequence < shown.sequence || (new.sequence == shown.sequence && same))
        {
            return None;
        }
        set_id.clone_into(&mut self.set_id);
        self.version.clone_from(&state.version);
        if state.position.is_some() {
            self.position.clone_from(&state.position);
        }
        Some(Watched::State {
            state,
            component_set: message.component_set,
        })
    }
}

pub(crate) fn watch(
    mut components: ComponentServiceClient<Channel>,
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
                set_id: shown.set_id.clone(),
            };
            let broken: Error = match components.watch_event(request).await {
                Err(status) => status.into(),
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
                            Err(status) => break status.into(),
                        }
                    }
                }
            };
            if !broken.is_transient() {
                yield Err(broken);
                return;
            }
            let retry_in = backoff.wait().max(broken.retry_after().unwrap_or_default());
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
    fn the_same_state_is_shown_once_and_a_display_change_is_shown() {
        let mut shown = Shown::default();
        assert!(shown.take(message("2", "b")).is_some());
        assert!(shown.take(message("2", "b")).is_none());
        assert!(shown.take(message("3", "b")).is_some());
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
