//! One walk over an event's audience. Keeps which sessions were served, so that a walk which has to
//! begin again serves nobody twice; decides nothing about when that is.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use futures::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use touchline_runtime::traces::Place;
use touchline_store::{
    ids::ConsumerId,
    session::{Protocol, Session},
    sessions::AudiencePage,
};

use super::{FanOut, Task, components::Shown, question::Question, trace::Posts};
use crate::{
    connections::{Frame, Limits, PostError, StateOf, delivery::Mark},
    messages,
};

/// Counts of one round.
#[derive(Debug, Default)]
pub(super) struct Tally {
    audience: AtomicUsize,
    pushed: AtomicUsize,
    gone: AtomicUsize,
    /// Failed for good.
    failed: AtomicUsize,
    /// Failed in the last walk, and can be tried again.
    open: AtomicUsize,
}

impl Tally {
    pub(super) fn audience(&self) -> usize {
        self.audience.load(Ordering::Relaxed)
    }

    pub(super) fn pushed(&self) -> usize {
        self.pushed.load(Ordering::Relaxed)
    }

    pub(super) fn gone(&self) -> usize {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed) + self.open.load(Ordering::Relaxed)
    }

    /// The counts so far; counting starts anew.
    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

/// A walk over the audience of one change.
pub(super) struct Walk<'a> {
    fan_out: &'a FanOut,
    task: &'a Task,
    pub(super) tally: Tally,
    /// Hashes of the sessions that were served, or are being served.
    claimed: Mutex<HashSet<u64>>,
    hasher: RandomState,
    /// Something failed that can be tried again.
    open: AtomicBool,
}

/// Hands messages to those who post. What is superseded meanwhile is dropped here, or there.
async fn hand_over(messages: Vec<Post>, limits: &Limits, posts: &mpsc::Sender<Post>) {
    for message in messages {
        tokio::select! {
            // They take messages until the last sender is gone.
            _ = posts.send(message) => {}
            () = limits.superseded.cancelled() => return,
        }
    }
}

/// Whom a walk looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The whole audience.
    Everyone,
    /// Those who registered since then.
    Late(SystemTime),
}

/// A message for a session, and the posts that it is one of.
type Post = (Session, Utf8Bytes, Posts);

/// Sessions by consumer: one question to the server.
type Batch = Vec<(ConsumerId, Vec<Session>)>;

impl<'a> Walk<'a> {
    pub(super) fn new(fan_out: &'a FanOut, task: &'a Task) -> Self {
        Self {
            fan_out,
            task,
            tally: Tally::default(),
            claimed: Mutex::default(),
            hasher: RandomState::new(),
            open: AtomicBool::new(false),
        }
    }

    /// What is fanned out.
    pub(super) fn task(&self) -> &'a Task {
        self.task
    }

    /// Walks the audience once and serves who was not served yet. Says whether nobody is left.
    pub(super) async fn run(
        &self,
        look: Look,
        limits: &Limits,
        mark: &Mark,
        place: &Place,
    ) -> bool {
        self.open.store(false, Ordering::Relaxed);
        self.tally.open.store(0, Ordering::Relaxed);
        let (store, contents) = (&self.fan_out.store, self.task.contents());
        let pages = match look {
            Look::Everyone => store.audience(contents),
            Look::Late(since) => store.late_audience(contents, since),
        };
        let batches = pages
            .take_until(limits.superseded.cancelled())
            .flat_map(|page| {
                let batches = match page {
                    Ok(page) => self.batches(page),
                    Err(error) => {
                        tracing::warn!(%error, "a page of an audience could not be read");
                        self.open.store(true, Ordering::Relaxed);
                        Vec::new()
                    }
                };
                stream::iter(batches)
            });
        // A post that takes its time holds up its own place there, and no question.
        let (posts, posted) = mpsc::channel(self.fan_out.options.posts_at_once);
        let asking = async {
            let posts = posts;
            batches
                .for_each_concurrent(self.fan_out.options.batches_at_once, |batch| {
                    let posts = posts.clone();
                    async move {
                        match self.task {
                            Task::Push(shown) => {
                                self.serve(shown, batch, limits, &posts, place).await;
                            }
                            Task::End { .. } => self.end(batch, limits, &posts, place).await,
                        }
                    }
                })
                .await;
        };
        let posting = self.post_all(posted, limits, mark).boxed();
        tokio::join!(asking, posting);
        !self.open.load(Ordering::Relaxed) && !limits.superseded.is_cancelled()
    }

    /// The sessions of a page that nobody has served yet, in questions to the server.
    fn batches(&self, page: AudiencePage) -> Vec<Batch> {
        let ended = matches!(self.task, Task::End { .. });
        let mut claimed = self.claimed();
        let mut sessions: Vec<_> = page
            .sessions
            .into_iter()
            // The prototype's fans are told nothing when an event ends.
            .filter(|session| !ended || session.protocol == Protocol::V2)
            .filter(|session| claimed.insert(self.hasher.hash_one(&session.connection_id)))
            .collect();
        drop(claimed);
        self.tally
            .audience
            .fetch_add(sessions.len(), Ordering::Relaxed);
        sessions.sort_by(|a, b| a.consumer_id.cmp(&b.consumer_id));
        let mut batches: Vec<Batch> = Vec::new();
        for session in sessions {
            let full = self.fan_out.options.batch_consumers;
            match batches.last_mut() {
                Some(batch)
                    if batch
                        .last()
                        .is_some_and(|(consumer, _)| *consumer == session.consumer_id) =>
                {
                    let (_, sessions) = batch.last_mut().expect("the guard looked at it");
                    sessions.push(session);
                }
                Some(batch) if batch.len() < full => {
                    batch.push((session.consumer_id.clone(), vec![session]));
                }
                _ => batches.push(vec![(session.consumer_id.clone(), vec![session])]),
            }
        }
        batches
    }

    /// Asks for a batch until each consumer is answered, and posts as the answers come.
    async fn serve(
        &self,
        shown: &Arc<Shown>,
        batch: Batch,
        limits: &Limits,
        posts: &mpsc::Sender<Post>,
        place: &Place,
    ) {
        let components = &self.fan_out.components;
        let mut question = Question::new(
            components,
            shown,
            limits.deadline,
            &limits.superseded,
            batch,
        )
        .at(place);
        let mut posted = None;
        while let Some(answers) = question.next().await {
            let posted = posted.get_or_insert_with(|| Posts::begin(place));
            let mut messages = Vec::new();
            for (sessions, set) in answers {
                match set {
                    Ok((set, recommendation_id)) => {
                        messages.extend(sessions.into_iter().map(|session| {
                            let text = set.message(session.protocol, &recommendation_id);
                            (session, text, posted.clone())
                        }));
                    }
                    Err(status) => {
                        tracing::debug!(%status, "a consumer has no answer");
                        self.tally
                            .failed
                            .fetch_add(sessions.len(), Ordering::Relaxed);
                    }
                }
            }
            hand_over(messages, limits, posts).await;
        }
        if !limits.superseded.is_cancelled() {
            let left: Vec<_> = question.left().flatten().collect();
            if !left.is_empty() {
                self.leave_open(left.iter());
            }
        }
    }

    async fn end(&self, batch: Batch, limits: &Limits, posts: &mpsc::Sender<Post>, place: &Place) {
        let posted = Posts::begin(place);
        let text = messages::ended(self.task.event_id(), self.task.position());
        let messages = batch
            .into_iter()
            .flat_map(|(_, sessions)| sessions)
            .map(|session| (session, text.clone(), posted.clone()))
            .collect();
        hand_over(messages, limits, posts).await;
    }

    async fn post_all(&self, posts: mpsc::Receiver<Post>, limits: &Limits, mark: &Mark) {
        let at_once = self.fan_out.options.posts_at_once;
        ReceiverStream::new(posts)
            .for_each_concurrent(at_once, |post| self.post(post, limits, mark))
            .await;
    }

    async fn post(&self, (session, text, posts): Post, limits: &Limits, mark: &Mark) {
        let of = StateOf {
            event_id: self.task.event_id().clone(),
            consumer_id: session.consumer_id.clone(),
            position: self.task.position().cloned(),
            answers: false,
        };
        let frame = Frame::state(text, of).measured(mark.clone());
        let connections = &self.fan_out.connections;
        let endpoint = session.endpoint.as_deref();
        let posted = connections
            .post(&session.connection_id, endpoint, frame, limits)
            .await;
        posts.count(&posted);
        self.count(&session, posted).await;
    }

    async fn count(&self, session: &Session, posted: Result<(), PostError>) {
        self.fan_out.life.metrics.fan_out.pushed(&posted);
        let count = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::Relaxed);
        match posted {
            Ok(()) => {
                count(&self.tally.pushed);
            }
            Err(PostError::Gone) => {
                count(&self.tally.gone);
                let _permit = self.fan_out.session_calls.acquire().await;
                // A row that stays is met again by the next change, or goes by its TTL.
                if let Err(error) = self
                    .fan_out
                    .store
                    .close_session(&session.connection_id)
                    .await
                {
                    tracing::debug!(%error, "a gone session could not be removed");
                }
            }
            Err(PostError::Superseded) => {}
            // Whoever leads now serves them, or this process does when it leads again.
            Err(PostError::Throttled | PostError::Lapsed) => {
                self.leave_open(std::iter::once(session));
            }
            Err(error @ (PostError::Full | PostError::Refused(_) | PostError::Unavailable(_))) => {
                tracing::debug!(%error, "a message was not taken");
                count(&self.tally.failed);
            }
        }
    }

    /// These were not served and can be tried again.
    fn leave_open<'s>(&self, sessions: impl Iterator<Item = &'s Session>) {
        let mut claimed = self.claimed();
        let mut left = 0;
        for session in sessions {
            claimed.remove(&self.hasher.hash_one(&session.connection_id));
            left += 1;
        }
        drop(claimed);
        self.open.store(true, Ordering::Relaxed);
        self.tally.open.fetch_add(left, Ordering::Relaxed);
        // They are counted again by the walk that finds them again.
        self.tally.audience.fetch_sub(left, Ordering::Relaxed);
    }

    fn claimed(&self) -> MutexGuard<'_, HashSet<u64>> {
        // No code that holds the lock can panic half-way through a change.
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
