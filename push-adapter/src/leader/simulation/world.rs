//! Everything that the processes share: time, the event table and its stream, the lease row and what
//! is recorded beside it, the fans. Checks the invariants that hold at every moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rand::{RngExt, rngs::StdRng};
use touchline_store::{
    change::ChangeKind,
    event::{Attribute, EventState},
    ids::EventId,
    lease::{Applied, LeaseRow, Progress},
};

use super::{
    Fault, Guards, Struck,
    fans::{Fan, Post, Seen},
    stream::{Record, Stream},
};
use crate::leader::ledger::Done;

pub(super) const EVENTS: usize = 2;
/// How long a lease lasts, in milliseconds, as all times here.
pub(super) const LEASE: u64 = 2_000;
/// One post's time.
pub(super) const POST: u64 = 1_000;
/// How long the stream keeps a record at least.
const RETENTION: u64 = 7_000;
/// How late the index shows a row at most.
const INDEX_LAG: u64 = 900;
/// How far a clock may be off.
pub(super) const SKEW: i64 = 10_000;

/// The shared world.
pub(super) struct World {
    start: Instant,
    pub(super) now: u64,
    pub(super) guards: Guards,
    pub(super) stream: Stream,
    streams: u32,
    pub(super) last_sequence: u64,
    written_at: u64,
    /// Value and number of the write, by event.
    pub(super) rows: [Option<(u32, u64)>; EVENTS],
    /// Number and moment of the newest write, by event.
    newest: [(u64, u64); EVENTS],
    pub(super) lease: Option<LeaseRow>,
    /// When the lease was last taken from who still held it.
    stolen_at: Option<u64>,
    pub(super) progress: Progress,
    pub(super) fans: Vec<Fan>,
    posts: Vec<Post>,
    pub(super) has_faults: bool,
    /// A post came so late, or two led at once, that a fan who drops nothing may end anywhere.
    is_unfenced: bool,
    /// Events whose last state everybody was sent who could be found at first.
    pub(super) is_served: [bool; EVENTS],
    pub(super) struck: Struck,
    /// The first invariant that broke.
    pub(super) violation: Option<String>,
    /// What happened, where somebody wants to read it.
    pub(super) trail: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(guards: Guards) -> Self {
        Self {
            start: Instant::now(),
            now: 1,
            guards,
            stream: Stream::new(0),
            streams: 0,
            last_sequence: 0,
            written_at: 0,
            rows: [None; EVENTS],
            newest: [(0, 0); EVENTS],
            lease: None,
            stolen_at: None,
            progress: Progress::default(),
            fans: Vec::new(),
            posts: Vec::new(),
            has_faults: true,
            is_unfenced: false,
            is_served: [false; EVENTS],
            struck: Struck::new(),
            violation: None,
            trail: None,
        }
    }

    /// Notes what happened.
    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trail) = &mut self.trail {
            trail.push(format!("{:>6} {}", self.now, what()));
        }
    }

    /// The moment on the monotonic clock that all processes share the pace of.
    pub(super) fn instant(&self) -> Instant {
        self.start + Duration::from_millis(self.now)
    }

    /// Whether a fault strikes now, and counts it.
    pub(super) fn strikes(&mut self, fault: Fault, random: &mut StdRng, chance: f64) -> bool {
        let strikes = self.has_faults && random.random_bool(chance);
        if strikes {
            self.count(fault);
        }
        strikes
    }

    pub(super) fn count(&mut self, fault: Fault) {
        *self.struck.entry(fault).or_default() += 1;
    }

    pub(super) fn broken(&mut self, violation: String) {
        self.violation.get_or_insert(violation);
    }

    /// Lets time pass; posts that are due land in their order.
    pub(super) fn advance(&mut self, milliseconds: u64) {
        self.now += milliseconds;
        let now = self.now;
        let (mut due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.posts)
            .into_iter()
            .partition(|post| post.lands_at <= now);
        self.posts = later;
        due.sort_by_key(|post| post.lands_at);
        for post in due {
            self.land(&post);
        }
    }

    fn land(&mut self, post: &Post) {
        let leads = |lease: &LeaseRow| lease.owner == post.by || lease.owner.is_empty();
        let is_stolen = self
            .stolen_at
            .is_some_and(|stolen_at| self.now < stolen_at + LEASE + POST);
        if self.lease.as_ref().is_some_and(|lease| !leads(lease)) {
            if post.was_late || is_stolen {
                self.is_unfenced = true;
            } else {
                self.broken(format!("a post of {} landed while another led", post.by));
            }
        }
        self.note(|| {
            let Post {
                by,
                fan,
                event,
                change,
                was_late,
                ..
            } = post;
            let position = change.position.as_ref().map(ToString::to_string);
            let what = shown(&change.kind);
            format!("{by} -> fan {fan}: event {event} {what} at {position:?} late: {was_late}")
        });
        let received = self.fans[post.fan].receive(post.event, &post.change);
        // Of two that lead at once the later one may read a moment behind the other.
        if let Err(violation) =
            received.or_else(|error| if is_stolen { Ok(()) } else { Err(error) })
        {
            self.broken(violation);
        }
    }

    /// A post leaves its process.
    pub(super) fn send(&mut self, post: Post) {
        self.posts.push(post);
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.posts.is_empty()
    }

    /// The producer writes a row, or deletes it.
    pub(super) fn write(&mut self, event: usize, value: Option<u32>) {
        if value.is_none() && self.rows[event].is_none() {
            return;
        }
        self.last_sequence += 1;
        if self.written_at == self.now {
            self.count(Fault::SameMillisecond);
        }
        if value.is_some() && self.rows[event].map(|(value, _)| value) == value {
            self.count(Fault::Duplicate);
        }
        let sequence = self.last_sequence;
        self.note(|| format!("event {event} is written: {value:?} as {sequence}"));
        self.written_at = self.now;
        self.newest[event] = (self.last_sequence, self.now);
        self.rows[event] = value.map(|value| (value, self.last_sequence));
        self.stream.write(Record {
            sequence: self.last_sequence,
            written_at: self.now,
            event,
            value,
        });
    }

    /// The stream forgets up to a record that is old enough: longer than a reader that is at work may
    /// sleep, as 24 hours are.
    pub(super) fn trim(&mut self, random: &mut StdRng) {
        let last = self.stream.last_before(self.now.saturating_sub(RETENTION));
        if last > 0 {
            self.count(Fault::Trim);
            let to = random.random_range(1..=last);
            self.note(|| format!("the stream is trimmed to {to}"));
            self.stream.trim(to);
        }
    }

    /// The stream is disabled and enabled again: what is unread in the old one is gone.
    pub(super) fn replace_stream(&mut self) {
        self.count(Fault::NewStream);
        self.streams += 1;
        self.note(|| "another stream".to_owned());
        self.stream = Stream::new(self.streams);
    }

    /// A fan registers at a front whose clock is off.
    pub(super) fn register(&mut self, random: &mut StdRng, is_owed: [bool; EVENTS]) {
        let off = random.random_range(-SKEW..=SKEW);
        self.fans.push(Fan {
            drops_older: random.random_bool(0.5),
            registered_at: self.now.cast_signed() + off,
            visible_at: self.now + random.random_range(0..=INDEX_LAG),
            shows: std::array::from_fn(|_| Seen::default()),
            last_sent: [None; EVENTS],
            is_owed,
        });
    }

    /// Writes the lease on condition that it still is as it was seen.
    pub(super) fn take_lease(&mut self, owner: &str, seen: Option<&LeaseRow>) -> Option<LeaseRow> {
        if self.lease.as_ref() != seen {
            return None;
        }
        let taken = LeaseRow {
            owner: owner.to_owned(),
            address: String::new(),
            counter: seen.map_or(0, |seen| seen.counter) + 1,
            lasts: Duration::from_millis(LEASE),
            epoch: "epoch".to_owned(),
        };
        self.lease = Some(taken.clone());
        self.note(|| format!("{owner} takes the lease"));
        Some(taken)
    }

    /// Somebody takes the lease without waiting.
    pub(super) fn steal(&mut self, owner: &str) -> Option<LeaseRow> {
        self.count(Fault::Theft);
        self.stolen_at = Some(self.now);
        let seen = self.lease.clone();
        self.take_lease(owner, seen.as_ref())
    }

    /// Renews a held lease, as `Store::renew_lease`: a row that is what the renewal would make it is
    /// the renewal whose answer was lost.
    pub(super) fn renew_lease(&mut self, held: &LeaseRow) -> Option<LeaseRow> {
        let renewed = LeaseRow {
            counter: held.counter + 1,
            ..held.clone()
        };
        if self.lease.as_ref() != Some(held) && self.lease.as_ref() != Some(&renewed) {
            return None;
        }
        self.lease = Some(renewed.clone());
        Some(renewed)
    }

    /// Records that fans may see events; `false` when the lease is another's.
    pub(super) fn announce(&mut self, owner: &str, announced: &[(EventId, Applied)]) -> bool {
        let leads = self
            .lease
            .as_ref()
            .is_some_and(|lease| lease.owner == owner);
        if leads {
            self.progress.applied.extend(announced.iter().cloned());
        }
        leads
    }

    /// Records progress; `false` when the lease is another's.
    pub(super) fn record(&mut self, owner: &str, done: &Done) -> bool {
        let leads = self
            .lease
            .as_ref()
            .is_some_and(|lease| lease.owner == owner);
        if !leads && self.guards.conditional_checkpoint {
            return false;
        }
        if !leads {
            self.broken(format!(
                "progress was recorded by a process that does not lead: {owner}"
            ));
        }
        self.note(|| format!("{owner} records {:?}", done.checkpoint));
        self.check_served(done);
        self.progress.checkpoint = Some(done.checkpoint.clone());
        self.progress.applied.extend(done.applied.iter().cloned());
        true
    }

    /// A checkpoint never passes what was not served or superseded.
    fn check_served(&mut self, done: &Done) {
        if self.is_unfenced || done.checkpoint.epoch != self.stream.epoch {
            return;
        }
        for event in 0..EVENTS {
            let Some(passed) = self.stream.passed(&done.checkpoint, event) else {
                continue;
            };
            let (newest, written_at) = self.newest[event];
            if passed.sequence != newest {
                continue;
            }
            let value = passed.value;
            let unserved = self.fans.iter().position(|fan| {
                // Who was sent nothing yet waits for the next change, as with the prototype; who was
                // shown nothing need not hear of an end, nor do the prototype's fans.
                let sent = fan.last_sent[event];
                let is_behind = match value {
                    Some(_) => sent.is_some_and(|sent| sent != value),
                    None => fan.drops_older && sent.flatten().is_some(),
                };
                is_behind && fan.visible_at <= written_at
            });
            if let Some(fan) = unserved {
                self.broken(format!(
                    "a checkpoint passed state {newest} of event {event}, which fan {fan} was not sent"
                ));
            }
        }
    }

    /// Every fan ends on the newest state of each event.
    pub(super) fn check_the_end(&mut self) {
        for event in 0..EVENTS {
            let newest = self.rows[event].map(|(value, _)| value);
            for fan in 0..self.fans.len() {
                let Fan {
                    drops_older,
                    shows,
                    is_owed,
                    ..
                } = &self.fans[fan];
                let shows = shows[event].value;
                // A fan who drops nothing is told of no end, and cannot be fenced.
                let is_checked =
                    is_owed[event] && (*drops_older || (newest.is_some() && !self.is_unfenced));
                if is_checked && shows != newest {
                    let violation = format!(
                        "fan {fan} (drops older: {drops_older}) ends on {shows:?} of event {event}, \
                         which is at {newest:?}"
                    );
                    self.broken(violation);
                }
            }
        }
    }

    /// Sessions that the index shows now, of those who registered at `since` or later.
    pub(super) fn audience(&self, since: Option<i64>) -> BTreeSet<usize> {
        let fans = self.fans.iter().enumerate();
        fans.filter(|(_, fan)| {
            fan.visible_at <= self.now && since.is_none_or(|since| fan.registered_at >= since)
        })
        .map(|(number, _)| number)
        .collect()
    }
}

/// What a change shows, for a person to read.
fn shown(kind: &ChangeKind) -> String {
    match kind {
        ChangeKind::Put(state) => format!("{} ({})", value(state), truth(state)),
        ChangeKind::Removed => "ended".to_owned(),
    }
}

pub(super) fn event_id(event: usize) -> EventId {
    EventId::new(event.to_string()).expect("a number is an id")
}

/// A state whose display attribute says how new it is in truth, which decides nothing.
pub(super) fn state(event: usize, value: u32, written: u64) -> EventState {
    let text = |text: String| Attribute::Text(text);
    EventState {
        event_id: event_id(event),
        attributes: BTreeMap::from([
            ("value".to_owned(), text(value.to_string())),
            ("display_truth".to_owned(), text(written.to_string())),
        ]),
        contents: BTreeSet::new(),
    }
}

fn number(state: &EventState, name: &str) -> u64 {
    let text = state.attributes[name].as_text();
    text.parse().expect("this world writes numbers")
}

pub(super) fn value(state: &EventState) -> u32 {
    u32::try_from(number(state, "value")).expect("this world writes small numbers")
}

pub(super) fn truth(state: &EventState) -> u64 {
    number(state, "display_truth")
}
