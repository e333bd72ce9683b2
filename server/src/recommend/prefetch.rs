//! Asks for rankings before anybody needs them: in the contexts that are likely to come next, for the
//! consumers that an event was last asked about, with budget that nobody else wants. What may follow
//! is [`transitions`](super::transitions)' to say; whose turn it is, the budget's.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use touchline_store::{
    event::Context,
    ids::{ConsumerId, EventId},
};

use super::{
    Query,
    budget::Priority,
    refinement::Refinement,
    serving::{Lookup, Rankings},
    standing::{Situation, Standing},
    transitions::Transitions,
};

/// After a change its own pushes go first for so long.
const CALM: Duration = Duration::from_secs(1);
/// Questions of one event that wait for spare budget at the same time.
const WAITING: usize = 64;
/// A question waits for so long; a budget without anything to spare is asked again later.
const PATIENCE: Duration = Duration::from_secs(30);
/// After a question that failed, so that a recommender in trouble is left alone.
const PAUSE: Duration = Duration::from_secs(1);
/// Consumers that are remembered, of all events together.
const CONSUMERS_MAX: usize = 200_000;

/// What is asked, apart from who and where.
#[derive(Debug, Clone)]
pub struct Asking {
    /// How many items at most.
    pub num_results: usize,
    /// Filter, promotion and metadata columns.
    pub refinement: Arc<Refinement>,
}

/// Fills the cache ahead of what happens.
#[derive(Debug)]
pub struct Prefetcher {
    rankings: Arc<Rankings>,
    contexts: usize,
    transitions: Mutex<Transitions>,
    audiences: Mutex<Audiences>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Prefetcher {
    /// Asks in the `contexts` likeliest contexts; its work runs in `tasks`, until shutdown.
    pub fn new(
        rankings: Arc<Rankings>,
        contexts: usize,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            rankings,
            contexts,
            transitions: Mutex::default(),
            audiences: Mutex::default(),
            tasks,
            shutdown,
        }
    }

    /// These consumers are shown the event's state.
    pub fn note<'a>(
        &self,
        event_id: &EventId,
        consumers: impl IntoIterator<Item = &'a ConsumerId>,
    ) {
        lock(&self.audiences).note(event_id, consumers);
    }

    /// The event is over.
    pub fn ended(&self, event_id: &EventId) {
        lock(&self.audiences).end(event_id);
    }

    /// The event changed from one context to another: learns that, and asks for what may come next.
    pub fn changed(
        self: &Arc<Self>,
        event_id: &EventId,
        from: &Context,
        to: &Situation,
        asking: Asking,
    ) {
        lock(&self.audiences).turn(event_id);
        let likely = {
            let mut transitions = lock(&self.transitions);
            transitions.learn(from, &to.context);
            transitions.following(&to.context, self.contexts)
        };
        let Some(standing) = to.standing.clone() else {
            return;
        };
        if likely.is_empty() {
            return;
        }
        let contexts = likely.into_iter().map(|likely| Arc::new(likely.context));
        let round = Round {
            prefetcher: self.clone(),
            event_id: event_id.clone(),
            contexts: contexts.collect(),
            standing,
            asking,
        };
        self.tasks.spawn(round.run());
    }
}

/// The questions after one change.
struct Round {
    prefetcher: Arc<Prefetcher>,
    event_id: EventId,
    contexts: Vec<Arc<Context>>,
    standing: Standing,
    asking: Asking,
}

impl Round {
    async fn run(self) {
        let asking = async {
            sleep(CALM).await;
            self.ask().await;
        };
        tokio::select! {
            () = asking => {}
            () = self.standing.superseded() => {}
            () = self.prefetcher.shutdown.cancelled() => {}
        }
    }

    async fn ask(&self) {
        let rankings = &self.prefetcher.rankings;
        let consumers = lock(&self.prefetcher.audiences).of(&self.event_id);
        // One answer for a cohort helps all of its members.
        let cohorts: HashSet<ConsumerId> = consumers
            .iter()
            .filter_map(|consumer_id| rankings.cohort(consumer_id))
            .collect();
        let cohorts: Vec<ConsumerId> = cohorts.into_iter().collect();
        for group in [cohorts, consumers] {
            for context in &self.contexts {
                stream::iter(group.clone())
                    .for_each_concurrent(WAITING, |consumer_id| self.ask_one(context, consumer_id))
                    .await;
            }
        }
    }

    async fn ask_one(&self, context: &Arc<Context>, consumer_id: ConsumerId) {
        let lookup = Lookup {
            query: Query {
                consumer_id,
                context: context.clone(),
                num_results: self.asking.num_results,
                refinement: self.asking.refinement.clone(),
            },
            deadline: Instant::now() + PATIENCE,
            priority: Priority::Prefetch,
            standing: Some(self.standing.clone()),
            // It is part of nobody's call.
            trace: Default::default(),
        };
        if self.prefetcher.rankings.prefetch(&lookup).await.is_err() {
            sleep(PAUSE).await;
        }
    }
}

/// Who was asked for lately, by event. Where there is no more room, the event that has not changed for the
/// longest makes some, so that one of which nothing is ever heard again keeps nobody out.
#[derive(Debug, Default)]
struct Audiences {
    by_event: HashMap<EventId, Audience>,
    /// The same events, the one that changed last at the end.
    by_turn: BTreeMap<u64, EventId>,
    turns: u64,
    count: usize,
}

/// Who was asked for in an event's state of the moment, and in the one before.
#[derive(Debug, Default)]
struct Audience {
    now: HashSet<ConsumerId>,
    before: HashSet<ConsumerId>,
    turn: u64,
}

impl Audiences {
    fn note<'a>(
        &mut self,
        event_id: &EventId,
        consumers: impl IntoIterator<Item = &'a ConsumerId>,
    ) {
        for consumer_id in consumers {
            let audience = self.by_event.get(event_id);
            if audience.is_some_and(|audience| audience.now.contains(consumer_id)) {
                continue;
            }
            if self.count >= CONSUMERS_MAX && !self.make_room(event_id) {
                return;
            }
            // An event stands here only with somebody, so that there are no more of them either.
            if !self.by_event.contains_key(event_id) {
                self.by_event.insert(event_id.clone(), Audience::default());
                self.rank_last(event_id);
            }
            if let Some(audience) = self.by_event.get_mut(event_id) {
                audience.now.insert(consumer_id.clone());
                self.count += 1;
            }
        }
    }

    fn turn(&mut self, event_id: &EventId) {
        let Some(audience) = self.by_event.get_mut(event_id) else {
            return;
        };
        let now = std::mem::take(&mut audience.now);
        self.count -= std::mem::replace(&mut audience.before, now).len();
        match audience.before.is_empty() {
            true => self.end(event_id),
            false => self.rank_last(event_id),
        }
    }

    fn end(&mut self, event_id: &EventId) {
        if let Some(audience) = self.by_event.remove(event_id) {
            self.by_turn.remove(&audience.turn);
            self.count -= audience.now.len() + audience.before.len();
        }
    }

    fn of(&self, event_id: &EventId) -> Vec<ConsumerId> {
        match self.by_event.get(event_id) {
            Some(audience) => audience.now.union(&audience.before).cloned().collect(),
            None => Vec::new(),
        }
    }

    /// It changed, or began, after all others.
    fn rank_last(&mut self, event_id: &EventId) {
        if let Some(audience) = self.by_event.get_mut(event_id) {
            self.by_turn.remove(&audience.turn);
            self.turns += 1;
            audience.turn = self.turns;
            self.by_turn.insert(self.turns, event_id.clone());
        }
    }

    /// Forgets the event that has not changed for the longest, other than this one; whether there was one.
    fn make_room(&mut self, for_event: &EventId) -> bool {
        let oldest = self.by_turn.values().find(|other| *other != for_event);
        match oldest.cloned() {
            Some(oldest) => {
                self.end(&oldest);
                true
            }
            None => false,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds one of these locks can panic half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumers(numbers: std::ops::Range<usize>) -> Vec<ConsumerId> {
        numbers
            .map(|number| ConsumerId::new(number.to_string()).unwrap())
            .collect()
    }

    #[test]
    fn an_audience_is_of_the_last_two_states_and_bounded() {
        let mut audiences = Audiences::default();
        let (one, two) = (EventId::new("1").unwrap(), EventId::new("2").unwrap());
        audiences.note(&one, &consumers(0..3));
        audiences.turn(&one);
        audiences.note(&one, &consumers(2..4));
        assert_eq!(audiences.of(&one).len(), 4);
        audiences.turn(&one);
        assert_eq!(audiences.of(&one).len(), 2);
        assert!(audiences.of(&two).is_empty());

        audiences.note(&two, &consumers(0..3));
        audiences.note(&EventId::new("3").unwrap(), &[]);
        assert_eq!(audiences.by_event.len(), 2, "no event without anybody");
        audiences.end(&two);
        audiences.turn(&one);
        audiences.turn(&one);
        assert_eq!((audiences.count, audiences.by_event.len()), (0, 0));
        assert!(audiences.by_turn.is_empty());
    }

    #[test]
    fn an_event_of_which_nothing_is_heard_keeps_nobody_out() {
        let mut audiences = Audiences::default();
        let [silent, live, next] = ["1", "2", "3"].map(|id| EventId::new(id).unwrap());
        audiences.note(&live, &consumers(0..10));
        audiences.note(&silent, &consumers(0..CONSUMERS_MAX - 10));
        audiences.turn(&live);
        assert_eq!(audiences.count, CONSUMERS_MAX);
        audiences.note(&live, &consumers(0..2));
        assert_eq!((audiences.count, audiences.of(&live).len()), (12, 10));
        assert!(audiences.of(&silent).is_empty(), "it was heard of before");

        // One event alone is bounded too, and makes no room by forgetting itself.
        audiences.note(&next, &consumers(0..CONSUMERS_MAX + 1));
        assert_eq!(audiences.count, CONSUMERS_MAX);
        assert_eq!(audiences.by_event.len(), 1);
        audiences.note(&next, &consumers(0..1));
        assert_eq!(audiences.of(&next).len(), CONSUMERS_MAX);
    }
}
