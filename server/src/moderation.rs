//! Around moderation, which is pure: the policies in force, who the consumer is, the time, and what
//! was shown before. Does not rank and does not know messages.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use touchline_store::{event::Context, ids::ConsumerId};

use crate::{
    catalog::Catalog,
    components::{
        Moderated,
        history::StateKey,
        moderate,
        policies::{Asked, Reason, Who},
    },
    counters::{Counters, Dropped},
    impressions::Impressions,
    policies::PolicyFile,
    recommend::RankedItem,
    users::Users,
    watch::Seen,
};

/// Moderates rankings as the policies of the moment say.
#[derive(Debug)]
pub struct Moderation {
    policies: Arc<PolicyFile>,
    users: Option<Arc<Users>>,
    impressions: Impressions,
    counters: Arc<Counters>,
}

/// For whom and where a ranking is moderated.
#[derive(Debug, Clone, Copy)]
pub struct Occasion<'a> {
    /// The consumer.
    pub consumer_id: &'a ConsumerId,
    /// What the recommender was asked with.
    pub context: &'a Context,
    /// The event's state; without one nothing is counted and no cap applies.
    pub seen: Option<&'a Seen>,
}

impl Moderation {
    /// By the policies of this file; `None` for `users`: nobody's age or country is known.
    pub fn new(
        policies: Arc<PolicyFile>,
        users: Option<Arc<Users>>,
        impressions: Impressions,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            policies,
            users,
            impressions,
            counters,
        }
    }

    /// What is shown of a ranking, as of now. Counts what is dropped and, where there are caps, what
    /// is shown.
    pub fn moderate(
        &self,
        ranking: &[RankedItem],
        catalog: &Catalog,
        occasion: Occasion<'_>,
    ) -> Moderated {
        let policies = self.policies.current();
        let asked = Asked {
            policies: &policies,
            who: match policies.ask_who() {
                true => self.who(occasion.consumer_id),
                false => Who::default(),
            },
            context: occasion.context,
            now: now(),
            shown: None,
        };
        let moderated = match occasion.seen {
            Some(seen) if policies.ask_history() => {
                let state = StateKey::of(&seen.version);
                let (event_id, consumer_id) = (&seen.state.event_id, occasion.consumer_id);
                self.impressions.with(event_id, consumer_id, |history| {
                    let shown = Some((state, &*history));
                    let moderated = moderate(ranking, catalog, &Asked { shown, ..asked });
                    let is_new = history.count(state, &moderated.components, &policies);
                    (moderated, is_new)
                })
            }
            _ => moderate(ranking, catalog, &asked),
        };
        for dropped in &moderated.dropped {
            self.counters.dropped.by(dropped.reason).add(1);
        }
        moderated
    }

    fn who(&self, consumer_id: &ConsumerId) -> Who<'_> {
        let user = self.users.as_ref().and_then(|users| users.get(consumer_id));
        user.map_or_else(Who::default, |user| Who {
            age: user.age(),
            country: user.country(),
        })
    }
}

impl Dropped {
    fn by(&self, reason: Reason) -> &crate::counters::Counter {
        match reason {
            Reason::UnknownItem => &self.unknown_item,
            Reason::Blocked => &self.blocked,
            Reason::Age => &self.age,
            Reason::Country => &self.country,
            Reason::Schedule => &self.schedule,
            Reason::Cap => &self.cap,
            Reason::SlotFull => &self.slot_full,
        }
    }
}

/// Seconds since 1970; before that, nothing is scheduled.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}
