//! One adapter: stands by, leads, reads, fans out and records, a step at a time, as the shell around
//! the decisions does.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use rand::{RngExt, rngs::StdRng};
use touchline_store::{
    change::{Change, ChangeKind},
    ids::EventId,
    lease::LeaseRow,
    stream::Checkpoint,
};

use super::{
    Fault,
    fans::Post,
    stream::{Polled, Reader, rows},
    world::{EVENTS, LEASE, POST, World},
};
use crate::leader::{
    catch_up::Opened,
    course::{Begun, Course},
    lease::Watched,
    ledger::Done,
};

/// Between two looks at somebody else's lease, and two renewals of one's own.
const LOOK_EVERY: u64 = 400;
const RENEW_EVERY: u64 = 250;
/// Between two readings of the stream.
const POLL_EVERY: u64 = 50;
/// From the end of a walk to the second look.
const SECOND_LOOK: u64 = 1_000;
/// How long before a fan-out a session may have registered that is looked for again.
const LATE_BEFORE: i64 = 30_000;

/// What a term may remember: of each event a running fan-out, two rows or records that are held back,
/// and batches before and after each fan-out.
const REMEMBERED_MAX: usize = 3 * EVENTS + 2 * EVENTS + 1;

/// One process, or its successor on the same machine.
pub(super) struct Process {
    machine: usize,
    incarnation: u32,
    /// How far its wall clock is off.
    skew: i64,
    asleep_until: u64,
    role: Role,
}

enum Role {
    Dead { until: u64 },
    StandingBy { watched: Watched, look_at: u64 },
    Leading(Box<Term>),
}

/// What the shell in `term` keeps.
struct Term {
    held: LeaseRow,
    tenure_until: u64,
    renew_at: u64,
    course: Course,
    checkpoint: Option<Checkpoint>,
    reader: Option<Reader>,
    /// Iterators are taken, the rows not read.
    opening: Option<Reader>,
    openings: u32,
    poll_at: u64,
    is_at_tip: bool,
    fan_outs: Vec<FanOut>,
    /// Until when a connection has a post in flight, by fan.
    busy: HashMap<usize, u64>,
    done: Option<Done>,
    recorded: Option<Checkpoint>,
    /// A post that was allowed, and then the process slept.
    paused: Option<(usize, usize)>,
}

/// What `FanOut::reach` does.
struct FanOut {
    event: usize,
    event_id: EventId,
    batch: u64,
    change: Arc<Change>,
    since: i64,
    phase: Phase,
    claimed: BTreeSet<usize>,
    queue: Vec<usize>,
    /// Fan, when its answer comes, and whether it was served by then.
    in_flight: Vec<(usize, u64, bool)>,
}

enum Phase {
    Begun,
    First,
    Waiting { until: u64 },
    Second,
}

impl Process {
    pub(super) fn new(machine: usize, skew: i64) -> Self {
        Self {
            machine,
            incarnation: 0,
            skew,
            asleep_until: 0,
            role: Role::StandingBy {
                watched: Watched::default(),
                look_at: 0,
            },
        }
    }

    fn owner(&self) -> String {
        format!("{}#{}", self.machine, self.incarnation)
    }

    pub(super) fn crash(&mut self, until: u64) {
        self.role = Role::Dead { until };
        self.asleep_until = 0;
    }

    pub(super) fn sleep(&mut self, until: u64) {
        self.asleep_until = until;
    }

    pub(super) fn steal(&mut self, world: &mut World) {
        if let Role::StandingBy { .. } = self.role
            && let Some(row) = world.steal(&self.owner())
        {
            self.lead(world, row);
        }
    }

    /// Whether nothing is left to do: everything was read, served and recorded.
    pub(super) fn is_settled(&self, world: &World) -> bool {
        match &self.role {
            Role::Dead { .. } => false,
            Role::StandingBy { .. } => world.now >= self.asleep_until,
            Role::Leading(term) => {
                term.reader.is_some()
                    && term.is_at_tip
                    && term.fan_outs.is_empty()
                    && term.done.is_none()
            }
        }
    }

    pub(super) fn leads(&self) -> bool {
        matches!(self.role, Role::Leading(_))
    }

    fn lead(&mut self, world: &World, held: LeaseRow) {
        self.role = Role::Leading(Box::new(Term {
            course: Course::new(&world.progress),
            checkpoint: world.progress.checkpoint.clone(),
            tenure_until: tenure(world),
            renew_at: world.now + RENEW_EVERY,
            held,
            reader: None,
            opening: None,
            openings: 0,
            poll_at: 0,
            is_at_tip: false,
            fan_outs: Vec::new(),
            busy: HashMap::new(),
            done: None,
            recorded: None,
            paused: None,
        }));
    }

    fn stand_by(&mut self, world: &World) {
        self.role = Role::StandingBy {
            watched: Watched::default(),
            look_at: world.now,
        };
    }

    /// Does one thing that is due; `false` when nothing is.
    pub(super) fn step(&mut self, world: &mut World, random: &mut StdRng) -> bool {
        if world.now < self.asleep_until {
            return false;
        }
        let owner = self.owner();
        match &mut self.role {
            Role::Dead { until } if world.now >= *until => {
                self.incarnation += 1;
                self.stand_by(world);
                true
            }
            Role::Dead { .. } => false,
            Role::StandingBy { watched, look_at } => {
                if world.now < *look_at {
                    return false;
                }
                *look_at = world.now + LOOK_EVERY;
                let seen = world.lease.clone();
                let lasts = Duration::from_millis(LEASE);
                if watched.is_free(seen.as_ref(), world.instant(), lasts)
                    && let Some(row) = world.take_lease(&owner, seen.as_ref())
                    && !world.strikes(Fault::LostResponse, random, 0.1)
                {
                    self.lead(world, row);
                }
                true
            }
            Role::Leading(term) => match term.step(world, random, &owner, self.skew) {
                Stepped::Did => true,
                Stepped::Idle => false,
                Stepped::Paused { until } => {
                    self.asleep_until = until;
                    true
                }
                Stepped::Lost => {
                    self.stand_by(world);
                    true
                }
            },
        }
    }
}

/// Until when posts may begin under a lease that is taken or renewed now.
fn tenure(world: &World) -> u64 {
    let margin = if world.guards.early_stop { POST } else { 0 };
    world.now + LEASE - margin
}

enum Stepped {
    Did,
    Idle,
    Paused { until: u64 },
    Lost,
}

#[derive(Clone, Copy)]
enum Due {
    Renew,
    Read,
    FanOut(usize),
    Record,
}

impl Term {
    fn step(&mut self, world: &mut World, random: &mut StdRng, owner: &str, skew: i64) -> Stepped {
        if let Some((event, fan)) = self.paused.take() {
            self.wake(world, random, owner, event, fan);
            return Stepped::Did;
        }
        self.answers(world.now);
        let mut due = Vec::new();
        if world.now >= self.renew_at {
            due.push(Due::Renew);
        }
        if world.now >= self.poll_at {
            due.push(Due::Read);
        }
        let fan_outs = 0..self.fan_outs.len();
        due.extend(
            fan_outs
                .filter(|number| self.is_due(*number, world.now))
                .map(Due::FanOut),
        );
        if self.done.is_none() {
            let done = self.course.take_done();
            let is_news = |done: &Done| {
                !done.applied.is_empty() || self.recorded.as_ref() != Some(&done.checkpoint)
            };
            self.done = done.filter(is_news);
        }
        if self.done.is_some() {
            due.push(Due::Record);
        }
        if due.is_empty() {
            return Stepped::Idle;
        }
        match due[random.random_range(0..due.len())] {
            Due::Renew => self.renew(world, random),
            Due::Read => self.read(world, random, owner, skew),
            Due::FanOut(number) => self.fan_out(world, random, owner, number),
            Due::Record => self.record(world, random, owner),
        }
    }

    fn renew(&mut self, world: &mut World, random: &mut StdRng) -> Stepped {
        self.renew_at = world.now + RENEW_EVERY;
        if world.now >= self.tenure_until {
            return Stepped::Lost;
        }
        let until = tenure(world);
        match world.renew_lease(&self.held) {
            None => Stepped::Lost,
            Some(_) if world.strikes(Fault::LostResponse, random, 0.05) => Stepped::Did,
            Some(row) => {
                self.held = row;
                self.tenure_until = until;
                Stepped::Did
            }
        }
    }

    fn read(&mut self, world: &mut World, random: &mut StdRng, owner: &str, skew: i64) -> Stepped {
        if let Some(reader) = self.opening.take() {
            world.note(|| format!("opened, resumed: {}", reader.is_resumed));
            if self.openings == 0 || world.guards.gap_snapshot {
                let opened = Opened {
                    is_resumed: reader.is_resumed,
                    checkpoint: reader.checkpoint(),
                    rows: rows(world),
                    unreadable: [].into(),
                };
                let _ = self.course.opened(opened, &self.held);
            }
            self.openings += 1;
            self.reader = Some(reader);
            return Stepped::Did;
        }
        let Some(reader) = &mut self.reader else {
            self.opening = Some(Reader::open(world, self.checkpoint.take().as_ref()));
            return Stepped::Did;
        };
        let (read, is_at_tip) =
            match reader.poll(world, random, world.guards.children_after_parents) {
                Polled::Read(read, is_at_tip) => (read, is_at_tip),
                Polled::Lost => {
                    self.reader = None;
                    self.is_at_tip = false;
                    return Stepped::Did;
                }
            };
        self.poll_at = world.now + if is_at_tip { POLL_EVERY } else { 0 };
        self.is_at_tip = is_at_tip;
        world.note(|| format!("read {} changes, at tip: {is_at_tip}", read.changes.len()));
        let turn = self.course.read(read, is_at_tip, reader.checkpoint());
        for begun in &turn.begun {
            world.note(|| format!("begins {:?} at {:?}", begun.what, begun.change.position));
        }
        let remembers = self.course.remembers();
        if remembers > REMEMBERED_MAX {
            world.broken(format!("a leader remembers {remembers} things"));
        }
        if !turn.announced.is_empty() && !world.announce(owner, &turn.announced) {
            return Stepped::Lost;
        }
        for event_id in &turn.superseded {
            self.fan_outs
                .retain(|fan_out| fan_out.event_id != *event_id);
        }
        for begun in turn.begun {
            self.fan_outs
                .push(FanOut::new(begun, world.now.cast_signed() + skew));
        }
        Stepped::Did
    }

    /// Takes the answers that have come: who was not served waits again.
    fn answers(&mut self, now: u64) {
        for fan_out in &mut self.fan_outs {
            let FanOut {
                in_flight, queue, ..
            } = fan_out;
            in_flight.retain(|(fan, at, is_served)| {
                if *at > now {
                    return true;
                }
                if !is_served {
                    queue.push(*fan);
                }
                false
            });
        }
        self.busy.retain(|_, until| *until > now);
    }

    fn is_due(&self, number: usize, now: u64) -> bool {
        let fan_out = &self.fan_outs[number];
        match fan_out.phase {
            Phase::Begun => true,
            Phase::Waiting { until } => now >= until,
            Phase::First | Phase::Second => {
                let is_free = |fan: &usize| !self.busy.contains_key(fan);
                match fan_out.queue.is_empty() {
                    true => fan_out.in_flight.is_empty(),
                    // Who may not post waits until the lease is renewed or lost.
                    false => now < self.tenure_until && fan_out.queue.iter().any(is_free),
                }
            }
        }
    }

    fn fan_out(
        &mut self,
        world: &mut World,
        random: &mut StdRng,
        owner: &str,
        number: usize,
    ) -> Stepped {
        let fan_out = &mut self.fan_outs[number];
        let is_end = fan_out.change.kind == ChangeKind::Removed;
        match fan_out.phase {
            Phase::Begun => {
                fan_out.look(world, None, is_end);
                fan_out.phase = Phase::First;
            }
            Phase::Waiting { .. } => {
                if world.guards.second_look {
                    fan_out.look(world, Some(fan_out.since - LATE_BEFORE), is_end);
                }
                fan_out.phase = Phase::Second;
            }
            Phase::First if fan_out.queue.is_empty() => {
                let until = world.now + SECOND_LOOK;
                fan_out.phase = Phase::Waiting { until };
                if let ChangeKind::Put(state) = &fan_out.change.kind {
                    let newest = world.rows[fan_out.event].map(|(value, _)| value);
                    world.is_served[fan_out.event] |= newest == Some(super::world::value(state));
                }
            }
            Phase::Second if fan_out.queue.is_empty() => {
                let fan_out = self.fan_outs.remove(number);
                self.course.finished(&fan_out.event_id, fan_out.batch);
            }
            Phase::First | Phase::Second => {
                let is_free = |fan: &usize| !self.busy.contains_key(fan);
                let free = fan_out.queue.iter().position(is_free);
                let free = free.expect("it is due because one is free");
                let (event, fan) = (fan_out.event, fan_out.queue.remove(free));
                if world.strikes(Fault::PauseBeforePost, random, 0.02) {
                    self.paused = Some((event, fan));
                    let until = world.now + random.random_range(100..4_000);
                    return Stepped::Paused { until };
                }
                self.post(world, random, owner, event, fan, false);
            }
        }
        Stepped::Did
    }

    /// After a sleep between the look at the lease and the post, which nothing stops any more.
    fn wake(
        &mut self,
        world: &mut World,
        random: &mut StdRng,
        owner: &str,
        event: usize,
        fan: usize,
    ) {
        if self.fan_outs.iter().any(|fan_out| fan_out.event == event) {
            self.post(world, random, owner, event, fan, true);
        }
    }

    fn post(
        &mut self,
        world: &mut World,
        random: &mut StdRng,
        owner: &str,
        event: usize,
        fan: usize,
        was_late: bool,
    ) {
        let fan_out = self
            .fan_outs
            .iter_mut()
            .find(|fan_out| fan_out.event == event);
        let fan_out = fan_out.expect("who posts has a fan-out");
        if world.strikes(Fault::Throttle, random, 0.03) {
            fan_out.in_flight.push((fan, world.now + 20, false));
            return;
        }
        let lands_at = world.now + random.random_range(1..POST);
        let is_answered = !world.strikes(Fault::LostResponse, random, 0.03);
        let answered_at = if is_answered {
            lands_at
        } else {
            world.now + POST
        };
        fan_out.in_flight.push((fan, answered_at, is_answered));
        self.busy.insert(fan, answered_at);
        world.send(Post {
            lands_at,
            by: owner.to_owned(),
            fan,
            event,
            change: fan_out.change.clone(),
            was_late,
        });
    }

    fn record(&mut self, world: &mut World, random: &mut StdRng, owner: &str) -> Stepped {
        let done = self.done.take().expect("it is due because it is there");
        if !world.record(owner, &done) {
            return Stepped::Lost;
        }
        if world.strikes(Fault::LostResponse, random, 0.05) {
            self.done = Some(done);
        } else {
            self.recorded = Some(done.checkpoint);
        }
        Stepped::Did
    }
}

impl FanOut {
    fn new(begun: Begun, since: i64) -> Self {
        let event_id = begun.change.event_id.clone();
        Self {
            event: event_id
                .as_str()
                .parse()
                .expect("this world's ids are numbers"),
            event_id,
            batch: begun.batch,
            change: Arc::new(begun.change),
            since,
            phase: Phase::Begun,
            claimed: BTreeSet::new(),
            queue: Vec::new(),
            in_flight: Vec::new(),
        }
    }

    /// Puts those into the queue whom no look found before.
    fn look(&mut self, world: &World, since: Option<i64>, is_end: bool) {
        for fan in world.audience(since) {
            // The prototype's fans are told nothing when an event ends.
            let is_told = !is_end || world.fans[fan].drops_older;
            if is_told && self.claimed.insert(fan) {
                self.queue.push(fan);
            }
        }
    }
}
