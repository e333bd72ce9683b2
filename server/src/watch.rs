//! The newest state of each event, kept up to date by one upstream a replica and read by any number
//! of callers. Keeps no history: a reader that is slow finds the newest state and nothing else.
//!
//! While a change feed is followed ([`upstream`]), states come from it and reads cost nothing. While
//! none can be reached, reads ask the table, and the rows that are watched are polled.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use prost::bytes::Bytes;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use touchline_runtime::metrics::Held;
use touchline_store::{
    event::{Context, EventState, Version},
    ids::EventId,
    position::Position,
    tables::Store,
};

use crate::{counters::Counters, error::Error};

#[cfg(test)]
mod tests;
pub mod upstream;

/// States that are remembered; events beyond are read from the table.
const NEWEST_MAX: usize = 100_000;
/// Own writes that are remembered until the feed shows them.
const WRITTEN_MAX: usize = 10_000;
/// A write that the feed has not shown by then was overtaken by somebody else's.
const WRITTEN_FOR: Duration = Duration::from_secs(5);
/// How long the feed may need to show a state that was read from the table.
const AHEAD_FOR: Duration = Duration::from_secs(1);
/// One read of a row takes at most this long.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// One state of an event, as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The state.
    pub state: EventState,
    /// Its version.
    pub version: Version,
    /// Where in the event's history it stands, where that is known.
    pub position: Option<Position>,
    /// What is made of it once for everybody.
    pub made: Made,
}

/// What is made of one state for everybody who asks: by the first who does. It follows from the state,
/// so it makes no difference to anybody who compares two, and a copy makes its own.
#[derive(Debug, Default)]
pub struct Made {
    pub(crate) context: OnceLock<Arc<Context>>,
    /// The state as a message, and the part of it that a component set repeats.
    pub(crate) encoded: OnceLock<Encoded>,
}

/// Parts of messages.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) state: Bytes,
    pub(crate) of_set: Bytes,
}

impl Clone for Made {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Made {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Made {}

impl Seen {
    /// A state that was read from the table.
    pub fn from_table(state: EventState) -> Self {
        Self {
            version: state.version(),
            state,
            position: None,
            made: Made::default(),
        }
    }

    /// Whether nobody could tell the two states apart, by what the change feed carries.
    fn looks_like(&self, other: &EventState) -> bool {
        self.state.contents == other.contents && self.state.texts().eq(other.texts())
    }
}

/// The events that this server knows of.
#[derive(Debug)]
pub struct Events {
    store: Store,
    counters: Arc<Counters>,
    inner: Mutex<Inner>,
    observer: Observer,
}

/// Told of each change that a feed tells.
pub type OnChange = Box<dyn Fn(&Change) + Send + Sync>;

#[derive(Default)]
struct Observer(Option<OnChange>);

impl std::fmt::Debug for Observer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Observer")
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// Whether a change feed is followed and has shown every event that exists.
    following: bool,
    newest: HashMap<EventId, Arc<Seen>>,
    watched: HashMap<EventId, Watched>,
    /// Writes through this server that the feed has not shown yet.
    written: HashMap<EventId, Written>,
}

/// The one-slot mailbox of all watchers of one event.
#[derive(Debug)]
struct Watched {
    mailbox: Arc<watch::Sender<Observed>>,
    /// How often it was filled: a read that began before the last time comes too late.
    fillings: u64,
}

#[derive(Debug)]
struct Written {
    /// What was written; `None`: deleted.
    state: Option<EventState>,
    until: Instant,
}

#[derive(Debug, Clone)]
enum Observed {
    /// Nothing was seen since the first watcher came.
    Nothing,
    State(Arc<Seen>),
    Ended,
}

/// A change as the feed tells it.
#[derive(Debug, Clone)]
pub enum Change {
    /// The event has this state.
    State(Seen),
    /// The event's row was deleted.
    Ended(EventId),
}

impl Events {
    /// Knows nothing yet.
    pub fn new(store: Store, counters: Arc<Counters>) -> Self {
        Self {
            store,
            counters,
            inner: Mutex::default(),
            observer: Observer::default(),
        }
    }

    /// Somebody is told of each change that a feed tells.
    pub fn told(mut self, on_change: OnChange) -> Self {
        self.observer = Observer(Some(on_change));
        self
    }

    /// The newest state of an event: from the feed while one is followed, otherwise from the table.
    pub async fn current(&self, event_id: &EventId) -> Result<Arc<Seen>, Error> {
        if let Some(seen) = self.lock().trusted(event_id) {
            return Ok(seen);
        }
        // An event that the feed has not shown may have been written a moment ago.
        let state = self.read(event_id).await?;
        state.map(Arc::new).ok_or(Error::EventNotFound)
    }

    /// The row of an event as it is now, with its position where the feed has shown this very state.
    pub async fn stored(&self, event_id: &EventId) -> Result<Arc<Seen>, Error> {
        let stored = self.read(event_id).await?.ok_or(Error::EventNotFound)?;
        let known = self.lock().newest.get(event_id).cloned();
        Ok(match known {
            Some(known) if known.looks_like(&stored.state) => known,
            _ => Arc::new(stored),
        })
    }

    /// Forgets what is known of an event that was written (or deleted: `None`) through this server,
    /// so that its caller reads his own write.
    pub async fn written(&self, event_id: &EventId, state: Option<EventState>) {
        let poll = {
            let mut inner = self.lock();
            inner.newest.remove(event_id);
            inner.remember_written(event_id, state);
            !inner.following && inner.watched.contains_key(event_id)
        };
        if poll && let Err(error) = self.poll(event_id).await {
            tracing::debug!(%error, "a written row cannot be read back; the next poll does");
        }
    }

    /// Watches an event. Its first state is asked for with [`Watcher::first`].
    pub fn watch(self: &Arc<Self>, event_id: &EventId) -> Watcher {
        let mut inner = self.lock();
        let watched = inner.watched.entry(event_id.clone()).or_insert_with(|| {
            let mailbox = Arc::new(watch::Sender::new(Observed::Nothing));
            Watched {
                mailbox,
                fillings: 0,
            }
        });
        Watcher {
            receiver: watched.mailbox.subscribe(),
            mailbox: watched.mailbox.clone(),
            event_id: event_id.clone(),
            events: self.clone(),
            is_polled: false,
            last: None,
            ahead_until: None,
            _counted: Held::in_gauge(&self.counters.watchers),
        }
    }

    /// How many events are watched.
    pub fn watched(&self) -> usize {
        self.lock().watched.len()
    }

    /// How many events' newest states are known.
    pub fn known(&self) -> usize {
        self.lock().newest.len()
    }

    /// Whether states come from a change feed.
    pub fn following(&self) -> bool {
        self.lock().following
    }

    /// Takes a change from the feed. One that is older than what is known is ignored.
    fn apply(&self, change: Change) {
        if let Observer(Some(on_change)) = &self.observer {
            on_change(&change);
        }
        let mut inner = self.lock();
        match change {
            Change::Ended(event_id) => inner.end(&event_id),
            Change::State(seen) => {
                let known = inner.newest.get(&seen.state.event_id);
                if known.is_some_and(|known| is_older(&seen, known)) {
                    return;
                }
                inner.observe(Arc::new(seen));
            }
        }
    }

    /// The feed has shown every event that exists: those in `shown`. What is known beyond was
    /// deleted meanwhile; where somebody watches, the table has the last word.
    async fn caught_up(&self, shown: &HashSet<EventId>) {
        let unsure: Vec<EventId> = {
            let mut inner = self.lock();
            inner.following = true;
            self.counters.is_following.set(1);
            inner.newest.retain(|event_id, _| shown.contains(event_id));
            let watched = inner.watched.keys();
            watched
                .filter(|event_id| !shown.contains(*event_id))
                .cloned()
                .collect()
        };
        self.poll_all(unsure).await;
    }

    /// The feed is gone: from now on the table is asked.
    fn lost(&self) {
        let mut inner = self.lock();
        inner.following = false;
        self.counters.is_following.set(0);
    }

    /// Reads a watched row and tells its watchers, unless the feed told them meanwhile.
    async fn poll(&self, event_id: &EventId) -> Result<(), Error> {
        self.counters.polls.add(1);
        let before = self.lock().fillings(event_id);
        let state = self.read(event_id).await?;
        self.polled(event_id, before, state);
        Ok(())
    }

    fn polled(&self, event_id: &EventId, before: Option<u64>, state: Option<Seen>) {
        let mut inner = self.lock();
        if inner.fillings(event_id) == before {
            match state {
                Some(seen) => inner.tell(&Arc::new(seen)),
                None => inner.end(event_id),
            }
        }
    }

    async fn read(&self, event_id: &EventId) -> Result<Option<Seen>, Error> {
        let state = timeout(READ_TIMEOUT, self.store.event(event_id))
            .await
            .map_err(|_| Error::store_silent())??;
        Ok(state.map(Seen::from_table))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that holds the lock can panic half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Only positions of one epoch can be compared; anything else is taken as news.
fn is_older(new: &Seen, known: &Seen) -> bool {
    match (&new.position, &known.position) {
        (Some(new), Some(known)) => known.is_after(new),
        _ => false,
    }
}

impl Inner {
    /// What the feed says, where it can be trusted to be no older than a caller's own write.
    fn trusted(&mut self, event_id: &EventId) -> Option<Arc<Seen>> {
        if let Some(written) = self.written.get(event_id) {
            if written.until > Instant::now() {
                return None;
            }
            self.written.remove(event_id);
        }
        if !self.following {
            return None;
        }
        self.newest.get(event_id).cloned()
    }

    fn observe(&mut self, seen: Arc<Seen>) {
        let event_id = &seen.state.event_id;
        let shown = self.written.get(event_id).is_some_and(|written| {
            let written = written.state.as_ref();
            written.is_some_and(|state| seen.looks_like(state))
        });
        if shown {
            self.written.remove(event_id);
        }
        self.tell(&seen);
        let known = self.newest.contains_key(event_id);
        if known || self.newest.len() < NEWEST_MAX {
            self.newest.insert(event_id.clone(), seen);
        }
    }

    /// How often an event's mailbox was filled, if anybody watches.
    fn fillings(&self, event_id: &EventId) -> Option<u64> {
        self.watched.get(event_id).map(|watched| watched.fillings)
    }

    fn tell(&mut self, seen: &Arc<Seen>) {
        if let Some(watched) = self.watched.get_mut(&seen.state.event_id) {
            watched.fillings += 1;
            watched.mailbox.send_replace(Observed::State(seen.clone()));
        }
    }

    fn end(&mut self, event_id: &EventId) {
        self.newest.remove(event_id);
        let deleted = self
            .written
            .get(event_id)
            .is_some_and(|written| written.state.is_none());
        if deleted {
            self.written.remove(event_id);
        }
        if let Some(watched) = self.watched.remove(event_id) {
            watched.mailbox.send_replace(Observed::Ended);
        }
    }

    fn remember_written(&mut self, event_id: &EventId, state: Option<EventState>) {
        let now = Instant::now();
        if self.written.len() >= WRITTEN_MAX {
            self.written.retain(|_, written| written.until > now);
        }
        if self.written.len() < WRITTEN_MAX {
            let until = now + WRITTEN_FOR;
            let written = Written { state, until };
            self.written.insert(event_id.clone(), written);
        }
    }
}

/// One watcher of one event.
#[derive(Debug)]
pub struct Watcher {
    events: Arc<Events>,
    event_id: EventId,
    mailbox: Arc<watch::Sender<Observed>>,
    receiver: watch::Receiver<Observed>,
    /// Whether what this watcher was given last was polled, for all watchers alike.
    is_polled: bool,
    /// What this watcher was given last.
    last: Option<Arc<Seen>>,
    /// Until then the feed may still be behind what was read from the table.
    ahead_until: Option<Instant>,
    _counted: Held,
}

impl Watcher {
    /// The state as it is now; [`Error::EventNotFound`] when there is no row.
    pub async fn first(&mut self) -> Result<Arc<Seen>, Error> {
        // Marked as seen before the read: what comes while it is under way is news afterwards.
        self.receiver.mark_unchanged();
        let seen = self.events.current(&self.event_id).await?;
        self.begin(seen.clone());
        Ok(seen)
    }

    fn begin(&mut self, seen: Arc<Seen>) {
        let is_ahead = seen.position.is_none();
        self.ahead_until = is_ahead.then(|| Instant::now() + AHEAD_FOR);
        self.is_polled = false;
        self.last = Some(seen);
    }

    /// Waits for a state that looks different from the last one; `None` once the row was deleted.
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Arc<Seen>> {
        loop {
            match self.observe().await? {
                Observed::Nothing => {}
                Observed::Ended => return None,
                Observed::State(seen) => {
                    let last = self.last.as_ref();
                    let is_polled = seen.position.is_none();
                    if last.is_some_and(|last| last.looks_like(&seen.state)) {
                        self.ahead_until = None;
                    } else if self.ahead_until.is_none() || (self.is_polled && is_polled) {
                        // What is polled comes in turn; the feed may be behind it.
                        self.begin(seen.clone());
                        self.is_polled = is_polled;
                        return Some(seen);
                    }
                    // Otherwise it may be older than what was read; the mailbox keeps it.
                }
            }
        }
    }

    /// What the mailbox holds after it was filled again, or once the feed must have caught up.
    async fn observe(&mut self) -> Option<Observed> {
        // The mailbox is held by this watcher too, so it cannot be closed.
        match self.ahead_until {
            None => self.receiver.changed().await.ok()?,
            Some(until) => match timeout_at(until, self.receiver.changed()).await {
                Ok(changed) => changed.ok()?,
                Err(_) => self.ahead_until = None,
            },
        }
        Some(self.receiver.borrow_and_update().clone())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut inner = self.events.lock();
        let is_last = inner.watched.get(&self.event_id).is_some_and(|watched| {
            // An event that ended and began again has a new mailbox, which is not this watcher's.
            Arc::ptr_eq(&watched.mailbox, &self.mailbox) && self.mailbox.receiver_count() == 1
        });
        if is_last {
            inner.watched.remove(&self.event_id);
        }
    }
}
