//! Around moderation, which is pure: the policies in force, who the consumer is, the time, and what
//! was shown before. Does not rank and does not know messages.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{SystemTime, UNIX_EPOCH},
};

use touchline_store::{event::Context, ids::ConsumerId};

use crate::{
    catalog::Catalog,
    components::{
        Moderated,
        history::StateKey,
        moderate,
        policies::{Asked, Policies, Reason, Who},
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

/// What moderation made of a ranking that is served again and again. It stands beside the ranking for as
/// long as nothing changes that it was made of.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Option<Made>>);

#[derive(Debug)]
struct Made {
    /// Not held: one that was replaced may go while rankings of its time are kept.
    catalog: Weak<Catalog>,
    policies: Arc<Policies>,
    age: Option<u32>,
    country: Option<String>,
    moderated: Arc<Moderated>,
}

impl Kept {
    /// What was made of the same; `None` once anything differs.
    fn of(
        &self,
        catalog: &Arc<Catalog>,
        policies: &Arc<Policies>,
        who: Who<'_>,
    ) -> Option<Arc<Moderated>> {
        let made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let made = made.as_ref()?;
        let is_same = std::ptr::eq(made.catalog.as_ptr(), Arc::as_ptr(catalog))
            && Arc::ptr_eq(&made.policies, policies)
            && (made.age, made.country.as_deref()) == (who.age, who.country);
        is_same.then(|| made.moderated.clone())
    }

    fn keep(&self, made: Made) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
    }
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
    /// is shown. `kept` stands beside a ranking that is served again, always in the same context: while
    /// policies ask neither for the time nor for what was shown before, the answer is the same as
    /// before, unless the catalog, the policies or what is known of the consumer changed.
    pub fn moderate(
        &self,
        ranking: &[RankedItem],
        catalog: &Arc<Catalog>,
        occasion: Occasion<'_>,
        kept: Option<&Kept>,
    ) -> Arc<Moderated> {
        let policies = self.policies.current();
        let kept = kept.filter(|_| !policies.ask_time() && !policies.ask_history());
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
        let before = kept.and_then(|kept| kept.of(catalog, &policies, asked.who));
        let moderated = before.unwrap_or_else(|| {
            let moderated = Arc::new(self.moderate_now(ranking, catalog, occasion, asked));
            if let Some(kept) = kept {
                kept.keep(Made {
                    catalog: Arc::downgrade(catalog),
                    policies: policies.clone(),
                    age: asked.who.age,
                    country: asked.who.country.map(str::to_owned),
                    moderated: moderated.clone(),
                });
            }
            moderated
        });
        let dropped = moderated
            .dropped
            .chunk_by(|one, next| one.reason == next.reason);
        for alike in dropped {
            self.counters.dropped.by(alike[0].reason).add(alike.len());
        }
        moderated
    }

    fn moderate_now(
        &self,
        ranking: &[RankedItem],
        catalog: &Catalog,
        occasion: Occasion<'_>,
        asked: Asked<'_>,
    ) -> Moderated {
        let policies = asked.policies;
        match occasion.seen {
            Some(seen) if policies.ask_history() => {
                let state = StateKey::of(&seen.version);
                let (event_id, consumer_id) = (&seen.state.event_id, occasion.consumer_id);
                self.impressions.with(event_id, consumer_id, |history| {
                    let shown = Some((state, &*history));
                    let moderated = moderate(ranking, catalog, &Asked { shown, ..asked });
                    let is_new = history.count(state, &moderated.components, policies);
                    (moderated, is_new)
                })
            }
            _ => moderate(ranking, catalog, &asked),
        }
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

#[cfg(test)]
mod tests {
    use touchline_store::{
        ids::{ItemId, ItemType},
        item::Item,
    };

    use super::*;

    /// Items of one type, the last of which is the best.
    fn catalog(items: &[&str]) -> Arc<Catalog> {
        let items = items.iter().map(|item| Item {
            item_id: ItemId::new(*item).unwrap(),
            item_type: ItemType::new("OFFER").unwrap(),
            attributes: Default::default(),
        });
        Arc::new(Catalog::new(items.collect()))
    }

    fn moderation(policies: &str) -> Moderation {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policies.toml");
        std::fs::write(&path, policies).unwrap();
        let policies = PolicyFile::open(Some(path), Vec::new(), Arc::default()).unwrap();
        let users = Users::read("USER_ID,AGE\nadult,30\nminor,12\n".as_bytes()).unwrap();
        let impressions = Impressions::new(1 << 20);
        let users = Some(Arc::new(users));
        Moderation::new(Arc::new(policies), users, impressions, Arc::default())
    }

    /// What is shown of a ranking of `bet`, then `quiz`.
    fn shown(
        moderation: &Moderation,
        catalog: &Arc<Catalog>,
        consumer: &str,
        kept: &Kept,
    ) -> Arc<Moderated> {
        let ranking = ["bet", "quiz"].map(|item| RankedItem {
            item_id: ItemId::new(item).unwrap(),
            score: None,
            details: None,
        });
        let occasion = Occasion {
            consumer_id: &ConsumerId::new(consumer).unwrap(),
            context: &Context::new(),
            seen: None,
        };
        moderation.moderate(&ranking, catalog, occasion, Some(kept))
    }

    fn first(moderated: &Moderated) -> &str {
        moderated.components[0].item.item_id.as_str()
    }

    #[test]
    fn what_was_made_of_a_ranking_is_kept_until_something_that_it_was_made_of_changes() {
        let (kept, both) = (Kept::default(), catalog(&["bet", "quiz"]));
        let adults = moderation("[items.bet]\nmin_age = 18");
        let one = shown(&adults, &both, "adult", &kept);
        assert_eq!(first(&one), "bet");
        let again = shown(&adults, &both, "adult", &kept);
        assert!(Arc::ptr_eq(&one, &again));

        assert_eq!(first(&shown(&adults, &both, "minor", &kept)), "quiz");
        assert_eq!(first(&shown(&adults, &both, "adult", &kept)), "bet");
        let another = catalog(&["quiz"]);
        assert_eq!(first(&shown(&adults, &another, "adult", &kept)), "quiz");
        assert_eq!(first(&shown(&adults, &both, "adult", &kept)), "bet");
        let blocked = moderation("blocked = [\"bet\"]");
        assert_eq!(first(&shown(&blocked, &both, "adult", &kept)), "quiz");
    }

    #[test]
    fn nothing_is_kept_while_policies_ask_for_the_time_or_for_what_was_shown() {
        for policies in [
            "[items.bet]\ncap = 3",
            "[[items.bet.schedule]]\nuntil = 2999-01-01T00:00:00Z",
        ] {
            let (kept, both) = (Kept::default(), catalog(&["bet", "quiz"]));
            let moderation = moderation(policies);
            let one = shown(&moderation, &both, "adult", &kept);
            let again = shown(&moderation, &both, "adult", &kept);
            assert!(!Arc::ptr_eq(&one, &again), "{policies}");
        }
    }
}
