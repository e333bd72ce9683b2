//! The newest change of each event, in the order in which they came, for any number of followers.
//! Keeps no queue: a follower that is slow finds the newest change of each event it missed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::{
    change::{Change, ChangeKind},
    ids::{ContentId, EventId},
};

/// Ended events that are remembered, so that a follower that was away for a moment hears of them.
const ENDED_MAX: usize = 1_024;

/// The newest change of each event.
#[derive(Debug)]
pub struct Feed {
    inner: Mutex<Inner>,
    /// Revision of the newest change; followers wait on it.
    revision: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    newest: HashMap<EventId, (u64, Arc<Change>)>,
    order: BTreeMap<u64, EventId>,
    revision: u64,
    caught_up: bool,
    /// Revision of the newest ended event that was forgotten.
    forgotten: u64,
    ended: usize,
}

/// What a follower has not seen yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// The newest change of each event that changed, oldest first.
    pub changes: Vec<Arc<Change>>,
    /// Whether every event that exists has been published: what follows is news.
    pub caught_up: bool,
}

/// A follower was away for so long that it may have missed the end of an event: it starts anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the follower missed changes and must start anew")]
pub struct Lagged;

impl Default for Feed {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            revision: watch::Sender::new(0),
        }
    }
}

impl Feed {
    /// Publishes a change. One that is older than what is known of its event is ignored; returns
    /// whether it was news.
    pub fn publish(&self, change: Change) -> bool {
        let mut inner = self.lock();
        let known = inner.newest.get(&change.event_id);
        if let Some((_, known)) = known
            && let (Some(known), Some(new)) = (&known.position, &change.position)
            && !new.is_after(known)
            && new.epoch() == known.epoch()
        {
            return false;
        }
        let was_ended = known.is_some_and(|(_, known)| known.kind == ChangeKind::Removed);
        let old_revision = known.map(|(revision, _)| *revision);
        if let Some(old_revision) = old_revision {
            inner.order.remove(&old_revision);
        }
        inner.revision += 1;
        let revision = inner.revision;
        inner.ended -= usize::from(was_ended);
        inner.ended += usize::from(change.kind == ChangeKind::Removed);
        inner.order.insert(revision, change.event_id.clone());
        inner
            .newest
            .insert(change.event_id.clone(), (revision, Arc::new(change)));
        inner.forget_ended();
        drop(inner);
        self.revision.send_replace(revision);
        true
    }

    /// Says that every event that exists has been published.
    pub fn set_caught_up(&self) {
        let mut inner = self.lock();
        inner.caught_up = true;
        // Waiting followers look again, though no change came.
        inner.revision += 1;
        let revision = inner.revision;
        drop(inner);
        self.revision.send_replace(revision);
    }

    /// The newest change of one event.
    pub fn get(&self, event_id: &EventId) -> Option<Arc<Change>> {
        self.lock()
            .newest
            .get(event_id)
            .map(|(_, change)| change.clone())
    }

    /// The newest changes of events that are on, latest first and at most so many, and how many events
    /// are known in all, ended ones included.
    pub fn latest(&self, max: usize) -> (Vec<Arc<Change>>, usize) {
        let inner = self.lock();
        let newest = inner.order.values().rev();
        let changes = newest.filter_map(|event_id| inner.newest.get(event_id));
        let latest = changes
            .map(|(_, change)| change)
            .filter(|change| change.kind != ChangeKind::Removed)
            .take(max)
            .cloned();
        (latest.collect(), inner.newest.len())
    }

    /// The most recent change of an event that is on and reaches sessions that watch `content`.
    pub fn newest_reaching(&self, content: &ContentId) -> Option<Arc<Change>> {
        let inner = self.lock();
        inner.order.values().rev().find_map(|event_id| {
            let (_, change) = inner.newest.get(event_id)?;
            match &change.kind {
                ChangeKind::Put(state) if state.reaches(content) => Some(change.clone()),
                ChangeKind::Put(_) | ChangeKind::Removed => None,
            }
        })
    }

    /// Follows from the beginning: the newest change of each event first.
    pub fn follow(self: &Arc<Self>) -> Follower {
        Follower {
            revision: self.revision.subscribe(),
            feed: self.clone(),
            seen: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that holds the lock can panic half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn forget_ended(&mut self) {
        while self.ended > ENDED_MAX {
            let oldest = self.order.iter().find_map(|(revision, event_id)| {
                let (_, change) = &self.newest[event_id];
                (change.kind == ChangeKind::Removed).then(|| (*revision, event_id.clone()))
            });
            let Some((revision, event_id)) = oldest else {
                return;
            };
            self.order.remove(&revision);
            self.newest.remove(&event_id);
            self.forgotten = revision;
            self.ended -= 1;
        }
    }
}

/// One reader of a [`Feed`].
#[derive(Debug)]
pub struct Follower {
    feed: Arc<Feed>,
    revision: watch::Receiver<u64>,
    /// Newest revision seen; `None` before the first look.
    seen: Option<u64>,
}

impl Follower {
    /// Waits for what was not seen yet; the first call answers at once. Cancel safe.
    pub async fn next(&mut self) -> Result<News, Lagged> {
        if self.seen.is_some() {
            // The feed that this follower holds owns the sender, so it cannot be closed.
            let _ = self.revision.changed().await;
        }
        self.revision.mark_unchanged();
        let inner = self.feed.lock();
        let seen = self.seen.unwrap_or(0);
        if self.seen.is_some_and(|seen| seen < inner.forgotten) {
            return Err(Lagged);
        }
        let changes = inner
            .order
            .range(seen + 1..)
            .map(|(_, event_id)| inner.newest[event_id].1.clone())
            .collect();
        self.seen = Some(inner.revision);
        Ok(News {
            changes,
            caught_up: inner.caught_up,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::{event::EventState, position::Position};

    fn put(event: &str, sequence: u32, contents: &[&str]) -> Change {
        let event_id = EventId::new(event).unwrap();
        Change {
            event_id: event_id.clone(),
            position: Some(Position::new("epoch", &sequence.to_string())),
            kind: ChangeKind::Put(EventState {
                event_id,
                attributes: BTreeMap::new(),
                contents: contents
                    .iter()
                    .map(|content| ContentId::new(content).unwrap())
                    .collect::<BTreeSet<_>>(),
            }),
            heard: Default::default(),
        }
    }

    fn sequences(news: &News) -> Vec<String> {
        news.changes
            .iter()
            .map(|change| {
                let sequence = change.position.as_ref().unwrap().sequence();
                format!("{}:{}", change.event_id, sequence.trim_start_matches('0'))
            })
            .collect()
    }

    #[tokio::test]
    async fn a_slow_follower_gets_the_newest_of_each_event_and_never_a_queue() {
        let feed = Arc::new(Feed::default());
        feed.publish(put("a", 1, &[]));
        let mut follower = feed.follow();
        assert_eq!(sequences(&follower.next().await.unwrap()), ["a:1"]);
        for sequence in 2..100 {
            feed.publish(put("a", sequence, &[]));
        }
        feed.publish(put("b", 100, &[]));
        let news = follower.next().await.unwrap();
        assert_eq!(sequences(&news), ["a:99", "b:100"]);
        assert!(!news.caught_up);
        feed.set_caught_up();
        assert_eq!(
            follower.next().await.unwrap(),
            News {
                changes: vec![],
                caught_up: true
            }
        );
    }

    #[test]
    fn an_older_change_never_replaces_a_newer_one() {
        let feed = Feed::default();
        assert!(feed.publish(put("a", 2, &[])));
        assert!(!feed.publish(put("a", 1, &[])));
        assert!(!feed.publish(put("a", 2, &[])));
    }

    #[test]
    fn the_newest_that_reaches_a_content_skips_what_is_not_for_it_and_what_has_ended() {
        let feed = Feed::default();
        let final_content = ContentId::new("final").unwrap();
        feed.publish(put("everyone", 1, &[]));
        feed.publish(put("mine", 2, &["final"]));
        feed.publish(put("theirs", 3, &["other"]));
        let newest = || feed.newest_reaching(&final_content).unwrap();
        assert_eq!(newest().event_id.as_str(), "mine");
        feed.publish(Change {
            kind: ChangeKind::Removed,
            ..put("mine", 4, &[])
        });
        assert_eq!(newest().event_id.as_str(), "everyone");
    }

    #[tokio::test]
    async fn ended_events_are_forgotten_in_bounds_and_who_missed_them_starts_anew() {
        let feed = Arc::new(Feed::default());
        let mut follower = feed.follow();
        follower.next().await.unwrap();
        for event in 0..=ENDED_MAX as u32 {
            feed.publish(Change {
                kind: ChangeKind::Removed,
                ..put(&event.to_string(), event + 1, &[])
            });
        }
        assert_eq!(follower.next().await, Err(Lagged));
        assert_eq!(feed.follow().next().await.unwrap().changes.len(), ENDED_MAX);
    }
}
