//! What an operator rules about what may be shown, as values: nothing here reads a file, a clock or
//! a consumer's row. Unknown means no: whoever's age or country is not known is shown nothing that
//! asks for one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use touchline_store::{
    event::Context,
    ids::{ItemId, ItemType},
    item::Item,
};

use super::history::{History, StateKey};

/// Slots of a type that no policy names: the prototype's rule.
pub const SLOTS_DEFAULT: usize = 1;

const SECONDS_A_DAY: i64 = 86_400;

/// Everything that is ruled. The default rules nothing: one slot a type, anybody, always.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    /// How many items of a type are shown beside each other; [`SLOTS_DEFAULT`] where it is not said.
    pub slots: HashMap<ItemType, usize>,
    /// Rules of all items of a type.
    pub types: HashMap<ItemType, Rule>,
    /// Rules of single items, on top of their type's.
    pub items: HashMap<ItemId, Rule>,
    /// Never shown.
    pub blocked: HashSet<ItemId>,
    /// Shown before the ranking, in this order, wherever the other rules allow it.
    pub pinned: Vec<ItemId>,
}

/// The conditions of an item or of a type. All of them must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Whole years.
    pub min_age: Option<u32>,
    /// Countries as the users file writes them.
    pub countries: Option<BTreeSet<String>>,
    /// In how many states of one event it is shown to one consumer.
    pub cap: Option<usize>,
    /// Any of these; empty: always.
    pub schedule: Vec<Window>,
    /// By context key, the values in which it is shown; a key that the context lacks: not shown.
    pub only_when: BTreeMap<String, BTreeSet<String>>,
}

/// A time in which something may be shown. All that is given must hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// First second, since 1970.
    pub from: Option<i64>,
    /// First second after it, since 1970.
    pub until: Option<i64>,
    /// Part of each day.
    pub daily: Option<Daily>,
}

/// A part of each day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Daily {
    /// First second of the day.
    pub from: i64,
    /// First second after it; before `from`: on the next day.
    pub until: i64,
    /// What a clock there is ahead of UTC, in seconds.
    pub utc_offset: i64,
}

/// Whom a set is for, as far as policies ask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Who<'a> {
    /// Whole years, where they are known.
    pub age: Option<u32>,
    /// The country, where it is known.
    pub country: Option<&'a str>,
}

/// For whom, when and after what a ranking is moderated.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What is ruled.
    pub policies: &'a Policies,
    /// For whom.
    pub who: Who<'a>,
    /// In which situation.
    pub context: &'a Context,
    /// When, in seconds since 1970.
    pub now: i64,
    /// The event's state, and what this consumer was shown of the event. Without an event no cap
    /// applies.
    pub shown: Option<(StateKey, &'a History)>,
}

/// Why an item is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The catalog does not know it, or its row has no item type.
    UnknownItem,
    /// It is blocked.
    Blocked,
    /// The consumer is too young, or of unknown age.
    Age,
    /// Not in the consumer's country, or that is unknown.
    Country,
    /// Not at this time, or not in this situation.
    Schedule,
    /// Shown to the consumer in as many states of the event as it may.
    Cap,
    /// The slots of its type are taken by better ones.
    SlotFull,
}

impl Policies {
    /// How many items of this type are shown beside each other.
    pub fn slots(&self, item_type: &ItemType) -> usize {
        self.slots.get(item_type).copied().unwrap_or(SLOTS_DEFAULT)
    }

    /// Whether anything asks who the consumer is.
    pub fn ask_who(&self) -> bool {
        self.rules()
            .any(|rule| rule.min_age.is_some() || rule.countries.is_some())
    }

    /// Whether anything asks what was shown before.
    pub fn ask_history(&self) -> bool {
        self.rules().any(|rule| rule.cap.is_some())
    }

    /// Whether anything asks what time it is.
    pub fn ask_time(&self) -> bool {
        self.rules().any(|rule| !rule.schedule.is_empty())
    }

    /// Why this item may not be shown, whatever else is.
    pub(super) fn refuse(&self, item: &Item, asked: &Asked<'_>) -> Option<Reason> {
        if self.blocked.contains(&item.item_id) {
            return Some(Reason::Blocked);
        }
        let of_type = self.types.get(&item.item_type);
        let of_item = self.items.get(&item.item_id);
        if let Some(reason) = [of_type, of_item]
            .into_iter()
            .flatten()
            .find_map(|rule| rule.refuse(asked))
        {
            return Some(reason);
        }
        let (state, history) = asked.shown?;
        let is_spent = |cap: Option<usize>, states| {
            cap.is_some_and(|cap| !History::has_room(states, state, cap))
        };
        let (item_id, item_type) = (&item.item_id, &item.item_type);
        let spent = is_spent(cap(of_type), history.states_of_type(item_type))
            || is_spent(cap(of_item), history.states_of_item(item_id));
        spent.then_some(Reason::Cap)
    }

    /// The cap of all items of a type together.
    pub(super) fn cap_of_type(&self, item_type: &ItemType) -> Option<usize> {
        cap(self.types.get(item_type))
    }

    /// The cap of an item.
    pub(super) fn cap_of_item(&self, item_id: &ItemId) -> Option<usize> {
        cap(self.items.get(item_id))
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.types.values().chain(self.items.values())
    }
}

fn cap(rule: Option<&Rule>) -> Option<usize> {
    rule?.cap
}

impl Rule {
    fn refuse(&self, asked: &Asked<'_>) -> Option<Reason> {
        let Who { age, country } = asked.who;
        if self
            .min_age
            .is_some_and(|min| age.is_none_or(|age| age < min))
        {
            return Some(Reason::Age);
        }
        if let Some(countries) = &self.countries
            && country.is_none_or(|country| !countries.contains(country))
        {
            return Some(Reason::Country);
        }
        let in_time =
            self.schedule.is_empty() || self.schedule.iter().any(|window| window.holds(asked.now));
        let in_situation = self.only_when.iter().all(|(key, values)| {
            let value = asked.context.get(key);
            value.is_some_and(|value| values.contains(value))
        });
        (!in_time || !in_situation).then_some(Reason::Schedule)
    }
}

impl Window {
    /// Whether this second, since 1970, lies in it.
    pub fn holds(&self, now: i64) -> bool {
        self.from.is_none_or(|from| from <= now)
            && self.until.is_none_or(|until| now < until)
            && self.daily.is_none_or(|daily| daily.holds(now))
    }
}

impl Daily {
    fn holds(&self, now: i64) -> bool {
        let second = (now + self.utc_offset).rem_euclid(SECONDS_A_DAY);
        match self.from < self.until {
            true => (self.from..self.until).contains(&second),
            false => second >= self.from || second < self.until,
        }
    }
}
