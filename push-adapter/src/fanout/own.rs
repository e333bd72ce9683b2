//! Fanning out to the sessions in this process's memory: follows the change feed of whoever leads, and
//! shows each change to the connections of this front. Every front does this for its own; nothing is
//! posted anywhere else, and no table is read.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use touchline_runtime::{
    backoff::Backoff,
    traces::{Kind, Place, Traces},
};
use touchline_store::{
    change::{Change, ChangeKind},
    feed::Feed,
    ids::{ConsumerId, EventId},
    session::Protocol,
};

use super::{
    PUSH_TIME_FACTOR_MAX, REPORT_PATIENCE, Task,
    components::{Components, Shown},
    question::Question,
    trace::Posts,
};
use crate::{
    config::LookupArgs,
    connections::{
        Frame, StateOf,
        delivery::{Mark, measure},
    },
    leader::{
        Led,
        decide::{Known, Worth},
    },
    messages,
    metrics::Metrics,
    sessions::memory::{Memory, Watcher, Watchers},
};

/// Messages that are posted before others have a turn.
const TURN: usize = 64;

/// What fanning out needs.
#[derive(Debug)]
pub struct OwnFanOut {
    /// Who watches what.
    pub sessions: Arc<Memory>,
    /// Who gives component sets.
    pub components: Components,
    /// Limits.
    pub options: LookupArgs,
    /// What happened.
    pub metrics: Arc<Metrics>,
    /// What led to what.
    pub traces: Traces,
}

/// Where the audience of an event begins: after whoever was served by a fan-out that was cut short, else
/// with anybody. So nobody is always last, and nobody is passed over again and again where changes come
/// faster than fan-outs end.
#[derive(Debug, Clone)]
struct Turn(Arc<AtomicUsize>);

impl Turn {
    fn anybodys() -> Self {
        Self(Arc::new(AtomicUsize::new(rand::random_range(..1 << 30))))
    }

    /// The place of the first of so many.
    fn first(&self, audience: usize) -> usize {
        self.0.load(Ordering::Relaxed) % audience.max(1)
    }

    /// So many more were served.
    fn pass(&self, served: usize) {
        self.0.fetch_add(served, Ordering::Relaxed);
    }
}

/// How a state is brought to those who are open.
struct Serving<'a> {
    shown: &'a Arc<Shown>,
    /// Cancelled when a newer state comes.
    superseded: &'a CancellationToken,
    mark: &'a Mark,
    turn: &'a Turn,
    /// Where in a trace.
    place: &'a Place,
}

/// Fans that are to be served.
type Open = Vec<(ConsumerId, Watchers)>;

/// Fans out what `followed` shows, for ever.
pub async fn follow(fan_out: Arc<OwnFanOut>, followed: &Led) {
    let mut followed = followed.subscribe();
    let mut pushing = Pushing {
        fan_out,
        known: Known::default(),
        running: HashMap::new(),
        fan_outs: JoinSet::new(),
        begun: 0,
        is_first: true,
    };
    // A front has no record of what was shown before it: what it learns first was nobody's news.
    pushing.known.settle();
    loop {
        let feed = followed.borrow_and_update().clone();
        tokio::select! {
            () = pushing.follow_one(feed) => {}
            changed = followed.changed() => {
                // Whoever follows holds the sender for as long as this runs.
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

struct Pushing {
    fan_out: Arc<OwnFanOut>,
    /// What fans were shown, or are being shown.
    known: Known,
    /// The fan-out of an event that runs, and what ends it early.
    running: HashMap<EventId, (u64, CancellationToken, Turn)>,
    fan_outs: JoinSet<(EventId, u64)>,
    begun: u64,
    /// Nothing was heard yet.
    is_first: bool,
}

impl Pushing {
    /// Follows one leader's feed for ever. It comes here only once it is known whole.
    async fn follow_one(&mut self, feed: Option<Arc<Feed>>) {
        let Some(feed) = feed else {
            return std::future::pending().await;
        };
        'anew: loop {
            let mut follower = feed.follow();
            let mut is_whole = true;
            loop {
                let news = tokio::select! {
                    news = follower.next() => news,
                    Some(ended) = self.fan_outs.join_next() => {
                        self.ended(ended);
                        continue;
                    }
                };
                // So much happened that ends may have been missed: all of it is looked at again.
                let Ok(news) = news else {
                    continue 'anew;
                };
                let observed = Instant::now();
                if is_whole {
                    self.end_missing(&news.changes, observed);
                    is_whole = false;
                }
                for change in news.changes {
                    self.take(&change, observed);
                }
                self.is_first = false;
            }
        }
    }

    /// Events that are on as far as is known and that the newest feed does not name are over.
    fn end_missing(&mut self, named: &[Arc<Change>], observed: Instant) {
        let missing: Vec<_> = self
            .known
            .events()
            .filter(|event_id| named.iter().all(|change| change.event_id != **event_id))
            .cloned()
            .collect();
        for event_id in missing {
            let ended = Change {
                event_id,
                position: None,
                kind: ChangeKind::Removed,
                heard: Default::default(),
            };
            self.take(&ended, observed);
        }
    }

    /// A change that was heard of at `observed`. Its fans have waited since the leader read it.
    fn take(&mut self, change: &Change, observed: Instant) {
        let observed = change.heard.read_at.unwrap_or(observed);
        let place = self
            .fan_out
            .traces
            .place(change.heard.traceparent.as_deref());
        let worth = self.known.judge(change);
        let position = change.position.clone();
        let task = match (worth, &change.kind) {
            (Worth::Push(_), ChangeKind::Put(state)) => {
                Task::Push(Arc::new(Shown::new(state.clone(), position)))
            }
            (Worth::End(contents), _) => Task::End {
                event_id: change.event_id.clone(),
                contents,
                position,
            },
            _ => return,
        };
        if self.is_first {
            return;
        }
        self.fan_out.metrics.fan_out.begun.inc();
        self.begun += 1;
        let (event_id, number) = (change.event_id.clone(), self.begun);
        let superseded = CancellationToken::new();
        let before = self.running.remove(&event_id);
        let turn = before
            .as_ref()
            .map_or_else(Turn::anybodys, |(_, _, turn)| turn.clone());
        if let Some((_, before, _)) = before {
            before.cancel();
        }
        let running = (number, superseded.clone(), turn.clone());
        self.running.insert(event_id.clone(), running);
        let fan_out = self.fan_out.clone();
        self.fan_outs.spawn(async move {
            fan_out
                .reach(&task, observed, &superseded, &turn, &place)
                .await;
            (event_id, number)
        });
    }

    fn ended(&mut self, ended: Result<(EventId, u64), JoinError>) {
        match ended {
            Ok((event_id, number)) => {
                // One that was superseded is not the one that runs.
                if self
                    .running
                    .get(&event_id)
                    .is_some_and(|(running, ..)| *running == number)
                {
                    self.running.remove(&event_id);
                }
            }
            Err(error) => tracing::error!(%error, "a fan-out failed"),
        }
    }
}

impl OwnFanOut {
    /// Fans out until everybody was served whom the change reaches, or something newer supersedes it.
    /// Who registers from now on is answered with this state, or a newer one.
    async fn reach(
        &self,
        task: &Task,
        observed: Instant,
        superseded: &CancellationToken,
        turn: &Turn,
        place: &Place,
    ) {
        let mut span = self.traces.begin("fan_out", Kind::Internal, place);
        let mut open = self.sessions.audience(task.contents());
        let audience = open.len();
        span.count("touchline.consumers", audience);
        open.rotate_left(turn.first(audience));
        let (mark, measurement) = measure(observed);
        let reached = match task {
            Task::Push(shown) => {
                let serving = Serving {
                    shown,
                    superseded,
                    mark: &mark,
                    turn,
                    place: &span.place(),
                };
                self.push(&serving, open).await
            }
            Task::End { .. } => self.end(task, open, superseded, &mark, &span.place()).await,
        };
        drop(mark);
        let metrics = &self.metrics.fan_out;
        if reached.is_break() {
            metrics.superseded.inc();
            span.say("touchline.outcome", "superseded");
            return;
        }
        let last = measurement.last(REPORT_PATIENCE).await;
        if audience > 0 {
            metrics.change_to_last.observe(last.as_secs_f64());
        }
        let milliseconds = last.as_millis();
        let version = task.version();
        span.count(
            "touchline.change_to_last_ms",
            usize::try_from(milliseconds).unwrap_or(usize::MAX),
        );
        tracing::debug!(
            event_id = %task.event_id(),
            version = version.as_str(),
            audience,
            change_to_last_ms = milliseconds,
            "fanned out"
        );
    }

    /// Whoever has no answer when the push's deadline passes is asked for again, with longer pauses and
    /// more time: no fan ends behind because the server was away for longer than one push.
    async fn push(&self, serving: &Serving<'_>, mut open: Open) -> ControlFlow<()> {
        let superseded = serving.superseded;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let mut time = self.options.push_deadline;
        loop {
            let deadline = Instant::now() + time;
            let batches: Vec<Open> = open
                .chunks(self.options.batch_consumers)
                .map(<[_]>::to_vec)
                .collect();
            open = stream::iter(batches)
                .map(|batch| self.serve(serving, batch, deadline))
                .buffer_unordered(self.options.batches_at_once)
                .concat()
                .await;
            if superseded.is_cancelled() {
                return ControlFlow::Break(());
            }
            if open.is_empty() {
                return ControlFlow::Continue(());
            }
            tracing::warn!(left = open.len(), "fans wait for the server's answer");
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => {}
                () = superseded.cancelled() => return ControlFlow::Break(()),
            }
            time = (time * 2).min(self.options.push_deadline * PUSH_TIME_FACTOR_MAX);
        }
    }

    /// Asks for a batch and posts as the answers come; gives back who has none.
    async fn serve(&self, serving: &Serving<'_>, batch: Open, deadline: Instant) -> Open {
        let Serving {
            shown,
            superseded,
            mark,
            turn,
            place,
        } = *serving;
        let batch = batch
            .into_iter()
            .map(|(consumer, watchers)| (consumer.clone(), (consumer, watchers)));
        let question = Question::new(&self.components, shown, deadline, superseded, batch);
        let mut question = question.at(place);
        let mut posts = None;
        let mut posted = 0;
        while let Some(answers) = question.next().await {
            // Batches are asked for in order, so that these are about the first of them.
            turn.pass(answers.len());
            let posts = posts.get_or_insert_with(|| Posts::begin(place));
            for ((consumer_id, watchers), set) in answers {
                let (set, recommendation_id) = match set {
                    Ok(answer) => answer,
                    Err(status) => {
                        tracing::debug!(%status, "a consumer has no answer");
                        continue;
                    }
                };
                let of = StateOf {
                    event_id: shown.event_id.clone(),
                    consumer_id,
                    position: shown.position.clone(),
                    answers: false,
                };
                for watcher in watchers.iter() {
                    let text = set.message(watcher.protocol, &recommendation_id);
                    self.post(watcher, Frame::state(text, of.clone()), mark, posts);
                    posted += 1;
                    if posted % TURN == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
        question.left().collect()
    }

    async fn end(
        &self,
        task: &Task,
        open: Open,
        superseded: &CancellationToken,
        mark: &Mark,
        place: &Place,
    ) -> ControlFlow<()> {
        let posts = Posts::begin(place);
        let text = messages::ended(task.event_id(), task.position());
        let mut posted = 0;
        for (consumer_id, watchers) in open {
            let of = StateOf {
                event_id: task.event_id().clone(),
                consumer_id,
                position: task.position().cloned(),
                answers: false,
            };
            // The prototype's fans are told nothing when an event ends.
            let told = |watcher: &&Watcher| watcher.protocol == Protocol::V2;
            for watcher in watchers.iter().filter(told) {
                self.post(
                    watcher,
                    Frame::state(text.clone(), of.clone()),
                    mark,
                    &posts,
                );
                posted += 1;
                if posted % TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
            if superseded.is_cancelled() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn post(&self, watcher: &Watcher, frame: Frame, mark: &Mark, posts: &Posts) {
        let posted = watcher.connection.post(frame.measured(mark.clone()));
        posts.count(&posted);
        self.metrics.fan_out.pushed(&posted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_passed_over_comes_first_the_next_time() {
        let turn = Turn(Arc::new(AtomicUsize::new(7)));
        assert_eq!(turn.first(10), 7);
        turn.pass(6);
        assert_eq!(turn.first(10), 3);
        assert_eq!(turn.first(0), 0);
    }
}
