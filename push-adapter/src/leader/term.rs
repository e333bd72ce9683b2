//! One term of leadership: from opening the stream to the loss of the lease, or to a graceful end.
//! The decisions are made in `decide` and `ledger`; this is their shell.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use touchline_store::{
    Error, Result,
    change::{Change, ChangeKind},
    event::EventState,
    feed::Feed,
    ids::EventId,
    stream::{ChangeStream, Checkpoint},
};

use super::{
    Counts, Leader,
    decide::{Known, Worth, applied},
    ledger::{Ending, Ledger},
    reader::{self, Reading},
};
use crate::fanout::{Task, backoff::Backoff, components::Shown};

/// Rows a page when the event table is read.
const PAGE: u32 = 500;

/// A fan-out that ended by itself.
struct Finished {
    event_id: EventId,
    batch: u64,
}

struct Running {
    batch: u64,
    superseded: CancellationToken,
}

struct Term<'a> {
    leader: &'a Arc<Leader>,
    lost: &'a CancellationToken,
    feed: Arc<Feed>,
    known: Known,
    ledger: Ledger,
    running: HashMap<EventId, Running>,
    fan_outs: JoinSet<Finished>,
    recorded: Option<Checkpoint>,
    /// Rows that the last leader did not show, until the first reading says where they stand.
    unseen: Option<BTreeMap<EventId, EventState>>,
}

/// Leads until the lease is `lost` or `shutdown` begins.
pub(super) async fn work(
    leader: &Arc<Leader>,
    lost: &CancellationToken,
    shutdown: &CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let begun = tokio::select! {
            biased;
            () = lost.cancelled() => return,
            () = shutdown.cancelled() => return,
            begun = begin(leader, lost) => begun,
        };
        match begun {
            Ok((mut term, stream)) => {
                term.run(stream, shutdown).await;
                return;
            }
            Err(error) => tracing::warn!(%error, "leading cannot begin yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => {}
            () = lost.cancelled() => return,
            () = shutdown.cancelled() => return,
        }
    }
}

/// Opens the stream before the rows are read: whatever is written meanwhile is in the stream.
async fn begin<'a>(
    leader: &'a Arc<Leader>,
    lost: &'a CancellationToken,
) -> Result<(Term<'a>, ChangeStream)> {
    let progress = leader.store.progress().await?;
    let stream = ChangeStream::open(&leader.store, progress.checkpoint.as_ref()).await?;
    let mut rows = BTreeMap::new();
    let mut after = None;
    loop {
        let page = leader.store.events(PAGE, after.as_ref()).await?;
        rows.extend(
            page.states
                .into_iter()
                .map(|state| (state.event_id.clone(), state)),
        );
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut known = Known::new(&progress);
    let feed = Arc::new(Feed::default());
    publish_rows(&feed, &mut known, &rows);
    if stream.resumed() {
        // What the last leader did show need not be shown again.
        rows.retain(|event_id, state| !known.is(event_id, &state.version()));
    }
    tracing::info!(
        resumed = stream.resumed(),
        to_show = rows.len(),
        "the stream is open"
    );
    let term = Term {
        leader,
        lost,
        feed,
        known,
        ledger: Ledger::default(),
        running: HashMap::new(),
        fan_outs: JoinSet::new(),
        recorded: None,
        unseen: Some(rows),
    };
    Ok((term, stream))
}

/// Publishes the rows in the order in which they were last applied; those of which that is not known
/// come last, as the newest.
fn publish_rows(feed: &Feed, known: &mut Known, rows: &BTreeMap<EventId, EventState>) {
    let mut changes: Vec<_> = rows
        .values()
        .map(|state| {
            known.reaches(&state.event_id, &state.contents);
            Change {
                event_id: state.event_id.clone(),
                position: known.position(&state.event_id, &state.version()).cloned(),
                kind: ChangeKind::Put(state.clone()),
            }
        })
        .collect();
    changes.sort_by_key(|change| {
        let sequence = change.position.as_ref().map(|at| at.sequence().to_owned());
        (sequence.is_none(), sequence)
    });
    for change in changes {
        feed.publish(change);
    }
}

impl Term<'_> {
    async fn run(&mut self, stream: ChangeStream, shutdown: &CancellationToken) {
        let (sender, mut readings) = mpsc::channel(1);
        let mut reading = JoinSet::new();
        reading.spawn(reader::read(
            stream,
            self.leader.options.poll_interval,
            sender,
        ));
        self.leader.led.send_replace(Some(self.feed.clone()));
        loop {
            tokio::select! {
                biased;
                () = self.lost.cancelled() => {
                    // Nothing may be posted any more, not even what has begun.
                    self.fan_outs.shutdown().await;
                    return;
                }
                () = shutdown.cancelled() => break,
                Some(finished) = self.fan_outs.join_next() => self.finished(finished),
                Some(reading) = readings.recv() => self.take(reading),
            }
            if self.record().await.is_err() {
                self.fan_outs.shutdown().await;
                return;
            }
        }
        reading.shutdown().await;
        self.drain().await;
    }

    /// One reading of the stream: to the feed, to the fans, into the ledger.
    fn take(&mut self, reading: Reading) {
        let counts = &self.leader.counts;
        Counts::add(&counts.poison, reading.polled.poison);
        Counts::add(&counts.conflated, reading.polled.changes.dropped);
        let certain = self.unseen.is_none();
        let mut changes = reading.polled.changes.changes;
        if let Some(unseen) = self.unseen.take() {
            changes.extend(self.left_over(unseen, &changes));
        }
        let mut tasks = Vec::new();
        let mut through = Vec::new();
        for change in changes {
            let worth = self.known.judge(&change, certain);
            if worth == Worth::Nothing {
                continue;
            }
            through.extend(applied(&change));
            let event_id = change.event_id.clone();
            let position = change.position.clone();
            let task = match (worth, &change.kind) {
                (Worth::Push(_), ChangeKind::Put(state)) => {
                    Some(Task::Push(Arc::new(Shown::new(state.clone(), position))))
                }
                (Worth::End(contents), _) => Some(Task::End {
                    event_id,
                    contents,
                    position,
                }),
                _ => {
                    Counts::add(&self.leader.counts.display_only, 1);
                    None
                }
            };
            tasks.extend(task);
            self.feed.publish(change);
        }
        if !certain {
            self.feed.set_caught_up();
        }
        let in_flight = tasks.iter().map(|task| task.event_id().clone());
        let batch = self.ledger.open(reading.checkpoint, through, in_flight);
        for task in tasks {
            self.start(task, batch, reading.observed);
        }
    }

    /// Rows that the first reading says nothing about, and events that ended while nobody led.
    fn left_over(&self, unseen: BTreeMap<EventId, EventState>, changes: &[Change]) -> Vec<Change> {
        let read = |event_id: &EventId| changes.iter().any(|change| change.event_id == *event_id);
        let ended = self
            .known
            .events()
            .filter(|event_id| self.feed.get(event_id).is_none() && !read(event_id))
            .map(|event_id| Change {
                event_id: event_id.clone(),
                position: None,
                kind: ChangeKind::Removed,
            });
        let ended: Vec<_> = ended.collect();
        unseen
            .into_values()
            .filter(|state| !read(&state.event_id))
            .map(|state| Change {
                event_id: state.event_id.clone(),
                position: None,
                kind: ChangeKind::Put(state),
            })
            .chain(ended)
            .collect()
    }

    /// Begins a fan-out; an older one of the same event is superseded.
    fn start(&mut self, task: Task, batch: u64, observed: Instant) {
        let event_id = task.event_id().clone();
        // Losing the lease ends a fan-out as something newer does.
        let superseded = self.lost.child_token();
        let running = Running {
            batch,
            superseded: superseded.clone(),
        };
        if let Some(older) = self.running.insert(event_id.clone(), running) {
            older.superseded.cancel();
            self.ledger
                .finish(older.batch, &event_id, Ending::Superseded);
            Counts::add(&self.leader.counts.superseded, 1);
        }
        let fan_out = self.leader.fan_out.clone();
        self.fan_outs.spawn(async move {
            fan_out.reach(&task, observed, &superseded).await;
            Finished { event_id, batch }
        });
    }

    fn finished(&mut self, finished: Result<Finished, tokio::task::JoinError>) {
        let finished = match finished {
            Ok(finished) => finished,
            Err(error) => {
                // The checkpoint stays before it: whoever leads next shows the state again.
                tracing::error!(%error, "a fan-out failed");
                return;
            }
        };
        let batch = finished.batch;
        if self
            .running
            .get(&finished.event_id)
            .is_some_and(|running| running.batch == batch)
        {
            self.running.remove(&finished.event_id);
            self.ledger
                .finish(batch, &finished.event_id, Ending::Complete);
        }
    }

    /// Records what is through. An error says that the lease is lost.
    async fn record(&mut self) -> Result<(), ()> {
        let Some(done) = self.ledger.take_done() else {
            return Ok(());
        };
        if done.applied.is_empty() && self.recorded.as_ref() == Some(&done.checkpoint) {
            return Ok(());
        }
        let owner = &self.leader.options.owner;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let recording =
                self.leader
                    .store
                    .record_progress(owner, &done.checkpoint, &done.applied);
            let result = tokio::select! {
                result = recording => result,
                () = self.lost.cancelled() => return Err(()),
            };
            match result {
                Ok(()) => break,
                Err(Error::Conflict(_)) => return Err(()),
                Err(error) => tracing::warn!(%error, "the checkpoint could not be recorded"),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => {}
                () = self.lost.cancelled() => return Err(()),
            }
        }
        self.recorded = Some(done.checkpoint);
        Ok(())
    }

    /// A graceful end: what has begun may finish, for a while.
    async fn drain(&mut self) {
        let deadline = Instant::now() + self.leader.options.drain_timeout;
        while let Ok(Some(finished)) =
            tokio::time::timeout_at(deadline.into(), self.fan_outs.join_next()).await
        {
            self.finished(finished);
        }
        let left = self.fan_outs.len();
        if left > 0 {
            tracing::warn!(
                left,
                "fan-outs were cut short; they are resumed by whoever leads next"
            );
        }
        self.fan_outs.shutdown().await;
        let recording = self.record();
        if tokio::time::timeout(Duration::from_secs(1), recording)
            .await
            .is_err()
        {
            tracing::warn!("the last checkpoint could not be recorded in time");
        }
        let counts = &self.leader.counts;
        tracing::info!(
            superseded = counts.superseded.load(Ordering::Relaxed),
            conflated = counts.conflated.load(Ordering::Relaxed),
            poison = counts.poison.load(Ordering::Relaxed),
            "the term ends"
        );
    }
}
