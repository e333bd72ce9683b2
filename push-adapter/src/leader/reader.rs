//! Reads the stream, beside everything else: fanning out never holds it up. Decides nothing.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use touchline_store::stream::{ChangeStream, Checkpoint, Polled};

use super::pace::Pace;
use crate::fanout::backoff::Backoff;

/// One reading.
pub(super) struct Reading {
    pub(super) polled: Polled,
    pub(super) checkpoint: Checkpoint,
    /// When the stream was asked for it.
    pub(super) observed: Instant,
}

/// Reads for ever, at a pace that follows what comes; ends when nobody takes the readings any more.
pub(super) async fn read(
    mut stream: ChangeStream,
    floor: Duration,
    readings: mpsc::Sender<Reading>,
) {
    let mut pace = Pace::new(floor);
    let backoff = || Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut failing = backoff();
    loop {
        let observed = Instant::now();
        let pause = match stream.poll().await {
            Ok(polled) => {
                failing = backoff();
                let moved = !polled.changes.changes.is_empty() || polled.poison > 0;
                let reading = Reading {
                    polled,
                    checkpoint: stream.checkpoint(),
                    observed,
                };
                if readings.send(reading).await.is_err() {
                    return;
                }
                pace.next(moved)
            }
            Err(error) => {
                tracing::warn!(%error, "the stream could not be read");
                failing.pause()
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = readings.closed() => return,
        }
    }
}
