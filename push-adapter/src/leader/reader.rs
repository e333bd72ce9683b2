//! Reads the stream and, whenever it is opened, the rows: beside everything else, so that fanning out
//! never holds it up. Decides nothing.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use touchline_store::{
    Result,
    stream::{ChangeStream, Checkpoint, PollError, Polled, Quota},
    tables::Store,
};

use super::{catch_up::Opened, pace::Pace};
use touchline_runtime::backoff::Backoff;

use crate::metrics::Metrics;

/// Rows a page when the event table is read.
const PAGE: u32 = 500;

/// How the stream is read.
#[derive(Debug, Clone, Copy)]
pub struct ReaderOptions {
    /// The fastest pace.
    pub poll_interval: Duration,
    /// What the store allows.
    pub quota: Quota,
}

/// What the reader found.
pub(super) enum Reading {
    /// The stream was opened, and after that the rows were read: whatever is written meanwhile is in
    /// the stream.
    Opened(Opened),
    /// The stream was read on.
    Read(Polled, Checkpoint, Instant),
}

/// Reads for ever, from `checkpoint` on, at a pace that follows what comes; ends when nobody takes
/// the readings any more.
pub(super) async fn read(
    store: Store,
    checkpoint: Option<Checkpoint>,
    options: ReaderOptions,
    metrics: Arc<Metrics>,
    readings: mpsc::Sender<Reading>,
) {
    let mut checkpoint = checkpoint;
    let mut failing = backoff();
    loop {
        match open(&store, checkpoint.as_ref(), options.quota).await {
            Ok((stream, opened)) => {
                // What is unknown after a gap is what the rows say, not what an older checkpoint does.
                checkpoint = None;
                failing = backoff();
                tracing::info!(
                    resumed = opened.is_resumed,
                    epoch = stream.epoch(),
                    events = opened.rows.len(),
                    "the stream is open"
                );
                if readings.send(Reading::Opened(opened)).await.is_err() {
                    return;
                }
                let following = follow(stream, options.poll_interval, &metrics, &readings);
                if let Left::Unheard = following.await {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the stream could not be opened");
                if pause(failing.pause(), &readings).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Why a stream is read no further.
enum Left {
    /// It must be opened anew.
    Behind,
    /// Nobody takes the readings.
    Unheard,
}

async fn follow(
    mut stream: ChangeStream,
    floor: Duration,
    metrics: &Metrics,
    readings: &mpsc::Sender<Reading>,
) -> Left {
    let mut pace = Pace::new(floor);
    let mut failing = backoff();
    loop {
        let observed = Instant::now();
        let polled = stream.poll().await;
        metrics.stream.reading(&polled);
        let wait = match polled {
            Ok(polled) => {
                failing = backoff();
                let moved = !polled.changes.changes.is_empty() || polled.poison > 0;
                let is_behind = !polled.is_at_tip && !polled.is_hindered;
                let reading = Reading::Read(polled, stream.checkpoint(), observed);
                if readings.send(reading).await.is_err() {
                    return Left::Unheard;
                }
                match is_behind {
                    true => Duration::ZERO,
                    false => pace.next(moved),
                }
            }
            Err(PollError::Store(error)) => {
                tracing::warn!(%error, "the stream could not be read");
                failing.pause()
            }
            Err(lost @ (PollError::Gap | PollError::Replaced)) => {
                tracing::warn!(reason = %lost, "the stream is opened anew, and the rows are read");
                return Left::Behind;
            }
        };
        if pause(wait, readings).await.is_err() {
            return Left::Unheard;
        }
    }
}

/// Opens the stream before the rows are read.
async fn open(
    store: &Store,
    checkpoint: Option<&Checkpoint>,
    quota: Quota,
) -> Result<(ChangeStream, Opened)> {
    let stream = ChangeStream::open(store, checkpoint, quota).await?;
    let (mut rows, mut unreadable) = (BTreeMap::new(), HashSet::new());
    let mut after = None;
    loop {
        let page = store.events(PAGE, after.as_ref()).await?;
        let states = page.states.into_iter();
        rows.extend(states.map(|state| (state.event_id.clone(), state)));
        unreadable.extend(page.unreadable);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let opened = Opened {
        is_resumed: stream.resumed(),
        checkpoint: stream.checkpoint(),
        rows,
        unreadable,
    };
    Ok((stream, opened))
}

/// Waits; an error says that nobody takes the readings any more.
async fn pause(wait: Duration, readings: &mpsc::Sender<Reading>) -> Result<(), ()> {
    tokio::select! {
        () = tokio::time::sleep(wait) => Ok(()),
        () = readings.closed() => Err(()),
    }
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(5))
}
