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
    change::ChangeKind,
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
};
use crate::fanout::{Task, backoff::Backoff, components::Shown};

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
    recorded: Option<Checkpoint>,
}

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
            if self.record().await.is_err() {
                self.fan_outs.shutdown().await;
                return;
            }
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
    ) -> Result<(), ()> {
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
        for change in turn.published {
            self.feed.publish(change);
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
            self.write_progress(None, &turn.announced).await?;
        }
        for begun in turn.begun {
            self.start(begun, observed);
        }
        Ok(())
    }

    fn start(&mut self, begun: Begun, observed: Instant) {
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
            fan_out.reach(&task, observed, &superseded).await;
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

    /// Records what is through. An error says that the lease is lost.
    async fn record(&mut self) -> Result<(), ()> {
        let Some(done) = self.course.take_done() else {
            return Ok(());
        };
        if done.applied.is_empty() && self.recorded.as_ref() == Some(&done.checkpoint) {
            return Ok(());
        }
        self.write_progress(Some(&done.checkpoint), &done.applied)
            .await?;
        self.recorded = Some(done.checkpoint);
        Ok(())
    }

    /// Writes until it is written. An error says that the lease is lost.
    async fn write_progress(
        &self,
        checkpoint: Option<&Checkpoint>,
        applied: &[(EventId, Applied)],
    ) -> Result<(), ()> {
        let owner = &self.leader.options.owner;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let writing = self
                .leader
                .store
                .record_progress(owner, checkpoint, applied);
            let result = tokio::select! {
                result = writing => result,
                () = self.lost.cancelled() => return Err(()),
            };
            match result {
                Ok(()) => return Ok(()),
                Err(Error::Conflict(_)) => return Err(()),
                Err(error) => tracing::warn!(%error, "progress could not be recorded"),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => {}
                () = self.lost.cancelled() => return Err(()),
            }
        }
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
        let metrics = &self.leader.metrics;
        tracing::info!(
            superseded = metrics.fan_out.superseded.get(),
            conflated = metrics.stream.conflated.get(),
            poison = metrics.stream.poison.get(),
            "the term ends"
        );
    }
}
