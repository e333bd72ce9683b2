//! Keeping the desk's picture current: the event's state as any client watches it, and the figures
//! of the fan-outs. Writes nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures::StreamExt;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::{MissedTickBehavior, interval, timeout},
};
use touchline_client::Watched;
use touchline_push::Round;

use super::{Desk, figures::Counted};

/// How often an event that has no row is looked for, when nobody here wrote one.
const ABSENT_INTERVAL: Duration = Duration::from_secs(1);
const FIGURES_INTERVAL: Duration = Duration::from_secs(1);

/// Follows the event for ever, also across its end.
pub(super) async fn state(desk: Arc<Desk>) {
    loop {
        let mut watched = desk.client.watch(&desk.event_id, None);
        while let Some(next) = watched.next().await {
            match next {
                Ok(Watched::State { state, .. }) => desk.show(state, SystemTime::now()),
                Ok(Watched::Interrupted { error, .. }) => {
                    tracing::debug!(%error, "the page's watch is interrupted");
                }
                Err(error) => tracing::debug!(%error, "the page's watch ended"),
            }
        }
        desk.show_nothing();
        // Either way it is looked for again.
        let _ = timeout(ABSENT_INTERVAL, desk.written.notified()).await;
    }
}

/// Counts the fan-outs until there can be no more.
pub(super) async fn rounds(desk: Arc<Desk>, mut rounds: broadcast::Receiver<Round>) {
    let mut counted = Counted::default();
    let mut tick = interval(FIGURES_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            round = rounds.recv() => match round {
                Ok(round) => counted.round(&round, Instant::now()),
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
            _ = tick.tick() => {}
        }
        let figures = counted.figures(desk.fans(), Instant::now());
        desk.figures
            .send_if_modified(|shown| std::mem::replace(shown, figures) != figures);
    }
}
