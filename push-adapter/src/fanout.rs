//! One change, from its audience to its connections: page by page, batch by batch, each connection
//! standing alone. Does not decide which change is worth it: that is the leader's.

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{Semaphore, broadcast};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use touchline_runtime::{backoff::Backoff, traces::Span};
use touchline_store::{
    event::Version,
    ids::{ContentId, EventId},
    position::Position,
    tables::Store,
};

pub mod components;
pub mod own;
pub mod question;
mod trace;
mod walk;

use components::{Components, Shown};

use crate::{
    connections::{
        Connections, Limits,
        delivery::{Measurement, measure},
    },
    leader::lease::Tenure,
    metrics::Metrics,
};
use trace::Part;
use walk::{Look, Tally, Walk};

/// How far a push's time grows when it is tried again.
const PUSH_TIME_FACTOR_MAX: u32 = 16;

/// Sessions that registered so long before a fan-out began are looked for again after it: the clock of
/// whoever wrote when may be behind by as much, and the index shows a row a moment after it is written.
const LATE_BEFORE: Duration = Duration::from_secs(30);

/// How long a round's report waits for fans who read slowly.
const REPORT_PATIENCE: Duration = Duration::from_secs(1);

/// What a finished fan-out came to.
#[derive(Debug, Clone)]
pub struct Round {
    /// The event.
    pub event_id: EventId,
    /// Its version; empty when the event ended.
    pub version: Version,
    /// Where the change stands; `None` for a state that was read from the table.
    pub position: Option<Position>,
    /// Sessions that the change reaches.
    pub audience: usize,
    /// Messages that were taken by their front.
    pub pushed: usize,
    /// Connections that were gone; their rows were removed.
    pub gone: usize,
    /// Sessions that did not get it.
    pub failed: usize,
    /// Whether a newer state ended it early.
    pub superseded: bool,
    /// From the reading of the stream that gave the change to the last message: the last write to a
    /// socket where this process is the front, the front's answer elsewhere.
    pub change_to_last: Duration,
}

/// What is fanned out.
#[derive(Debug, Clone)]
pub enum Task {
    /// A new state.
    Push(Arc<Shown>),
    /// The event's row was deleted.
    End {
        /// The event.
        event_id: EventId,
        /// Whom it reached.
        contents: BTreeSet<ContentId>,
        /// Where it ended.
        position: Option<Position>,
    },
}

impl Task {
    /// The event.
    pub fn event_id(&self) -> &EventId {
        match self {
            Self::Push(shown) => &shown.event_id,
            Self::End { event_id, .. } => event_id,
        }
    }

    /// Where the change stands.
    pub fn position(&self) -> Option<&Position> {
        match self {
            Self::Push(shown) => shown.position.as_ref(),
            Self::End { position, .. } => position.as_ref(),
        }
    }

    fn contents(&self) -> &BTreeSet<ContentId> {
        match self {
            Self::Push(shown) => &shown.state.contents,
            Self::End { contents, .. } => contents,
        }
    }

    fn version(&self) -> Version {
        match self {
            Self::Push(shown) => shown.version.clone(),
            Self::End { .. } => Version::from_text(""),
        }
    }
}

/// Limits of fanning out.
#[derive(Debug, Clone)]
pub struct FanOutOptions {
    /// Events that are fanned out at once.
    pub events_at_once: usize,
    /// Consumers a request to the server.
    pub batch_consumers: usize,
    /// Requests to the server in flight for one event.
    pub batches_at_once: usize,
    /// Posts in flight for one batch.
    pub posts_at_once: usize,
    /// One push's time.
    pub push_deadline: Duration,
    /// From the end of a fan-out to the look for those who registered meanwhile.
    pub second_look: Duration,
}

/// Fans changes out.
#[derive(Debug)]
pub struct FanOut {
    store: Store,
    components: Components,
    connections: Arc<dyn Connections>,
    options: FanOutOptions,
    events: Semaphore,
    /// Calls to the session table in flight, with the front's.
    session_calls: Arc<Semaphore>,
    life: Life,
}

/// What a fan-out has of the process that it runs in.
#[derive(Debug)]
pub struct Life {
    /// Whether posting is allowed.
    pub tenure: Tenure,
    /// Told of each finished fan-out.
    pub rounds: broadcast::Sender<Round>,
    /// Runs what outlives a fan-out.
    pub tracker: TaskTracker,
    /// Nothing is waited for any more that need not be.
    pub draining: CancellationToken,
    /// What happened.
    pub metrics: Arc<Metrics>,
}

impl FanOut {
    /// Fans nothing out yet.
    pub fn new(
        store: Store,
        components: Components,
        connections: Arc<dyn Connections>,
        options: FanOutOptions,
        session_calls: Arc<Semaphore>,
        life: Life,
    ) -> Self {
        Self {
            events: Semaphore::new(options.events_at_once),
            store,
            components,
            connections,
            options,
            session_calls,
            life,
        }
    }

    /// Fans out until every session that the change reaches was served or can never be, or until
    /// something newer supersedes it. `observed` is when the change was read, `change` the span that ends
    /// with its last fan.
    ///
    /// A session is served once, however often the walk has to begin again. Who registered shortly
    /// before or during the walk may have been missed, since the index shows a row late: a second look
    /// finds them.
    pub async fn reach(
        &self,
        task: &Task,
        observed: Instant,
        superseded: &CancellationToken,
        change: Span,
    ) {
        let since = SystemTime::now() - LATE_BEFORE;
        let change = Part::of(change);
        let mut walk = Walk::new(self, task);
        let everyone = self.walk(&mut walk, Look::Everyone, observed, superseded, &change);
        if everyone.await.is_break() {
            return;
        }
        let change = change.ended();
        tokio::select! {
            biased;
            () = superseded.cancelled() => return,
            () = self.life.draining.cancelled() => {}
            () = tokio::time::sleep(self.options.second_look) => {}
        }
        // Nothing follows from how it ends: whoever is left open is superseded.
        let late = Look::Late(since);
        let _ = self
            .walk(&mut walk, late, Instant::now(), superseded, &change)
            .await;
    }

    /// Walks until nobody is left. What is still open when the push's deadline passes is reported as
    /// failed and tried again, with longer pauses and more time: no fan ends behind because the server
    /// was away for longer than one push. Breaks when something newer took over.
    async fn walk(
        &self,
        walk: &mut Walk<'_>,
        look: Look,
        observed: Instant,
        superseded: &CancellationToken,
        change: &Part,
    ) -> ControlFlow<()> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let mut time = self.options.push_deadline;
        let mut deadline = Instant::now() + time;
        let (mut mark, mut measurement) = measure(observed);
        let mut span = change.begin(look);
        loop {
            let limits = Limits {
                deadline,
                superseded: superseded.clone(),
                tenure: self.life.tenure.clone(),
            };
            let complete = tokio::select! {
                biased;
                () = superseded.cancelled() => false,
                // A walk that waits for its turn has begun nothing yet.
                Ok(_turn) = self.events.acquire() => {
                    walk.run(look, &limits, &mark, &span.place()).await
                }
            };
            let over = superseded.is_cancelled();
            let late = Instant::now() >= deadline;
            if complete || over || late {
                drop(mark);
                let round = Round::new(walk.task(), &walk.tally.take(), over && !complete);
                let traced = (span, change.clone());
                match look {
                    Look::Everyone => self.report(round, complete, measurement, traced),
                    Look::Late(_) if round.audience > 0 => {
                        self.life.metrics.fan_out.second_look(round.audience);
                        self.report(round, false, measurement, traced);
                    }
                    // A second look that finds nobody is no round.
                    Look::Late(_) => {}
                }
                if complete {
                    return ControlFlow::Continue(());
                }
                if over {
                    return ControlFlow::Break(());
                }
                (mark, measurement) = measure(observed);
                span = change.begin(look);
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => {}
                () = superseded.cancelled() => {}
            }
            if late {
                // More time too, in case the crowd is what took it.
                time = (time * 2).min(self.options.push_deadline * PUSH_TIME_FACTOR_MAX);
                deadline = Instant::now() + time;
            }
        }
    }

    /// Tells of a round once its last message has arrived. `is_whole`: everybody has been reached who
    /// can be, so that this was a change's last fan.
    fn report(
        &self,
        mut round: Round,
        is_whole: bool,
        measurement: Measurement,
        (span, change): (Span, Part),
    ) {
        let (rounds, metrics) = (self.life.rounds.clone(), self.life.metrics.clone());
        self.life.tracker.spawn(async move {
            round.change_to_last = measurement.last(REPORT_PATIENCE).await;
            if is_whole && round.pushed > 0 {
                let seconds = round.change_to_last.as_secs_f64();
                metrics.fan_out.change_to_last.observe(seconds);
            }
            trace::finish(span, &round);
            drop(change);
            tracing::debug!(
                event_id = %round.event_id,
                version = round.version.as_str(),
                audience = round.audience,
                pushed = round.pushed,
                gone = round.gone,
                failed = round.failed,
                superseded = round.superseded,
                change_to_last_ms = round.change_to_last.as_millis(),
                "fanned out"
            );
            // Nobody has to listen.
            let _ = rounds.send(round);
        });
    }
}

impl Round {
    /// What a walk came to, before its last message has arrived.
    fn new(task: &Task, tally: &Tally, superseded: bool) -> Self {
        Self {
            event_id: task.event_id().clone(),
            version: task.version(),
            position: task.position().cloned(),
            audience: tally.audience(),
            pushed: tally.pushed(),
            gone: tally.gone(),
            failed: tally.failed(),
            superseded,
            change_to_last: Duration::ZERO,
        }
    }
}
