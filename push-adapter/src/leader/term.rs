//! One term of leadership: from taking the lease to its loss, or to a graceful end. The decisions are
//! made in `course`; this is their shell.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use touchline_store::{
    Error,
    change::{Change, ChangeKind},
    event::Version,
    feed::Feed,
    ids::EventId,
    lease::{Applied, LeaseRow, Progress},
    stream::{Checkpoint, Polled},
};

use super::{
    Leader,
    catch_up::Opened,
    course::{Begun, Course, What},
    reader::{self, Reading},
    trace::Begins,
};
use touchline_runtime::{backoff::Backoff, traces::Span};

use crate::fanout::{Task, components::Shown};

/// A fan-out that ended by itself.
struct Finished {
    event_id: EventId,
    batch: u64,
}

struct Term<'a> {
    leader: &'a Arc<Leader>,
    held: watch::Receiver<LeaseRow>,
    lost: &'a CancellationToken,
    feed: Arc<Feed>,
    course: Course,
    /// The batch of the fan-out that runs, and what ends it early, by event.
    running: HashMap<EventId, (u64, CancellationToken)>,
    fan_outs: JoinSet<Finished>,
    /// The record that is being written, one at a time: what is through meanwhile is in the next.
    recording: JoinSet<Result<Checkpoint, LeaseLost>>,
    recorded: Option<Checkpoint>,
}

/// Somebody else may lead.
struct LeaseLost;

/// Leads until the lease is `lost` or `shutdown` begins.
pub(super) async fn work(
    leader: &Arc<Leader>,
    held: watch::Receiver<LeaseRow>,
    lost: &CancellationToken,
    shutdown: &CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let progress = tokio::select! {
            biased;
            () = lost.cancelled() => return,
            () = shutdown.cancelled() => return,
            progress = leader.store.progress() => progress,
        };
        match progress {
            Ok(progress) => {
                return Term::new(leader, held, lost, &progress)
                    .run(progress, shutdown)
                    .await;
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

impl<'a> Term<'a> {
    fn new(
        leader: &'a Arc<Leader>,
        held: watch::Receiver<LeaseRow>,
        lost: &'a CancellationToken,
        progress: &Progress,
    ) -> Self {
        Self {
            leader,
            held,
            lost,
            feed: Arc::new(Feed::default()),
            course: Course::new(progress),
            running: HashMap::new(),
            fan_outs: JoinSet::new(),
            recording: JoinSet::new(),
            recorded: None,
        }
    }

    async fn run(mut self, progress: Progress, shutdown: &CancellationToken) {
        let (sender, mut readings) = mpsc::channel(1);
        let mut reading = JoinSet::new();
        reading.spawn(reader::read(
            self.leader.store.clone(),
            progress.checkpoint,
            self.leader.options.reader,
            self.leader.metrics.clone(),
            sender,
        ));
        loop {
            tokio::select! {
                biased;
                () = self.lost.cancelled() => {
                    // Nothing may be posted any more, not even what has begun.
                    self.fan_outs.shutdown().await;
                    return;
                }
                () = shutdown.cancelled() => break,
                Some(recorded) = self.recording.join_next() => {
                    if self.recorded(recorded).is_err() {
                        self.fan_outs.shutdown().await;
                        return;
                    }
                }
                Some(finished) = self.fan_outs.join_next() => self.finished(finished),
                Some(reading) = readings.recv() => match reading {
                    Reading::Opened(opened) => self.opened(opened),
                    Reading::Read(polled, checkpoint, observed) => {
                        if self.read(polled, checkpoint, observed).await.is_err() {
                            self.fan_outs.shutdown().await;
                            return;
                        }
                    }
                },
            }
            self.record();
        }
        reading.shutdown().await;
        self.drain().await;
    }

    /// The stream is open and the rows were read: the feed shows them at once.
    fn opened(&mut self, opened: Opened) {
        let held = self.held.borrow().clone();
        for change in self.course.opened(opened, &held) {
            self.feed.publish(change);
        }
        self.leader.led.send_if_modified(|led| {
            let is_news = led.is_none();
            led.get_or_insert_with(|| self.feed.clone());
            is_news
        });
    }

    /// One reading of the stream: to the feed, to the fans, into the ledger. An error says that the
    /// lease is lost.
    async fn read(
        &mut self,
        polled: Polled,
        checkpoint: Checkpoint,
        observed: Instant,
    ) -> Result<(), LeaseLost> {
        let metrics = &self.leader.metrics;
        metrics.stream.read(&polled);
        let turn = self
            .course
            .read(polled.changes, polled.is_at_tip, checkpoint);
        let (published, begun) = (turn.published.len(), turn.begun.len());
        metrics.stream.conflated.inc_by(turn.conflated as u64);
        metrics
            .stream
            .display_only
            .inc_by((published - begun) as u64);
        metrics.fan_out.begun.inc_by(begun as u64);
        let superseded = turn.superseded.len() as u64;
        metrics.fan_out.superseded.inc_by(superseded);
        let mut traced = Begins::of(&turn.begun, observed, &self.leader.traces);
        for change in turn.published {
            tell(&change);
            self.feed.publish(traced.heard(change));
        }
        if turn.is_caught_up {
            self.feed.set_caught_up();
        }
        for event_id in turn.superseded {
            if let Some((_, superseded)) = self.running.remove(&event_id) {
                superseded.cancel();
            }
        }
        if !turn.announced.is_empty() {
            // After what is being recorded, which may say of the same event that it has ended.
            while let Some(recorded) = self.recording.join_next().await {
                self.recorded(recorded)?;
            }
            write(self.leader, self.lost, None, &turn.announced).await?;
        }
        for begun in turn.begun {
            let span = traced.take(&begun.change.event_id);
            self.start(begun, observed, span);
        }
        Ok(())
    }

    fn start(&mut self, begun: Begun, observed: Instant, span: Span) {
        let Begun {
            batch,
            change,
            what,
        } = begun;
        let (event_id, position) = (change.event_id, change.position);
        let task = match (what, change.kind) {
            (What::State(_), ChangeKind::Put(state)) => {
                Task::Push(Arc::new(Shown::new(state, position)))
            }
            (What::End(contents), _) => Task::End {
                event_id: event_id.clone(),
                contents,
                position,
            },
            (What::State(_), ChangeKind::Removed) => return,
        };
        // Losing the lease ends a fan-out as something newer does.
        let superseded = self.lost.child_token();
        let running = (batch, superseded.clone());
        self.running.insert(event_id.clone(), running);
        let fan_out = self.leader.fan_out.clone();
        self.fan_outs.spawn(async move {
            fan_out.reach(&task, observed, &superseded, span).await;
            Finished { event_id, batch }
        });
    }

    fn finished(&mut self, finished: Result<Finished, tokio::task::JoinError>) {
        match finished {
            Ok(Finished { event_id, batch }) => {
                // One that was superseded is not the one that runs.
                let runs = self.running.get(&event_id);
                if runs.is_some_and(|(number, _)| *number == batch) {
                    self.running.remove(&event_id);
                }
                self.course.finished(&event_id, batch);
            }
            // The checkpoint stays before it: whoever leads next shows the state again.
            Err(error) => tracing::error!(%error, "a fan-out failed"),
        }
    }

    /// Begins to record what is through, beside everything else: a store that is slow to take it holds
    /// no newer state up.
    fn record(&mut self) {
        if !self.recording.is_empty() {
            return;
        }
        let Some(done) = self.course.take_done() else {
            return;
        };
        if done.applied.is_empty() && self.recorded.as_ref() == Some(&done.checkpoint) {
            return;
        }
        let (leader, lost) = (self.leader.clone(), self.lost.clone());
        self.recording.spawn(async move {
            write(&leader, &lost, Some(&done.checkpoint), &done.applied).await?;
            Ok(done.checkpoint)
        });
    }

    fn recorded(
        &mut self,
        recorded: Result<Result<Checkpoint, LeaseLost>, tokio::task::JoinError>,
    ) -> Result<(), LeaseLost> {
        let recorded = recorded.unwrap_or_else(|error| {
            tracing::error!(%error, "recording failed");
            Err(LeaseLost)
        });
        self.recorded = Some(recorded?);
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
        let recording = async {
            self.record();
            while let Some(recorded) = self.recording.join_next().await {
                if self.recorded(recorded).is_err() {
                    return;
                }
                self.record();
            }
        };
        if tokio::time::timeout(Duration::from_secs(1), recording)
            .await
            .is_err()
        {
            tracing::warn!("the last checkpoint could not be recorded in time");
        }
        let metrics = &self.leader.metrics;
        tracing::info!(
            superseded = metrics.fan_out.superseded.get(),
            conflated = metrics.stream.conflated.get(),
            poison = metrics.stream.poison.get(),
            "the term ends"
        );
    }
}

/// Says what was read, to whoever looks closely.
fn tell(change: &Change) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let version = match &change.kind {
        ChangeKind::Put(state) => Some(state.version()),
        ChangeKind::Removed => None,
    };
    tracing::debug!(
        event_id = %change.event_id,
        version = version.as_ref().map_or("", Version::as_str),
        "a change"
    );
}

/// Writes progress, however often it takes.
async fn write(
    leader: &Leader,
    lost: &CancellationToken,
    checkpoint: Option<&Checkpoint>,
    applied: &[(EventId, Applied)],
) -> Result<(), LeaseLost> {
    let owner = &leader.options.owner;
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        let writing = leader.store.record_progress(owner, checkpoint, applied);
        let result = tokio::select! {
            result = writing => result,
            () = lost.cancelled() => return Err(LeaseLost),
        };
        match result {
            Ok(()) => return Ok(()),
            Err(Error::Conflict(_)) => return Err(LeaseLost),
            Err(error) => tracing::warn!(%error, "progress could not be recorded"),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => {}
            () = lost.cancelled() => return Err(LeaseLost),
        }
    }
}
