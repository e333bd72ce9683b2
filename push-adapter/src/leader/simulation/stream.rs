//! The event table's stream as it really is, and a reader of it over the real lineage.

use std::collections::{BTreeMap, HashMap, HashSet};

use rand::{RngExt, rngs::StdRng};
use touchline_store::{
    change::{Change, ChangeKind, Conflated, conflate},
    lineage::{Lineage, ReadFrom, Shard as Listed},
    position::Position,
    stream::{Checkpoint, ShardProgress},
};

use super::{
    Fault,
    world::{World, event_id, state},
};

/// A record of the stream.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) sequence: u64,
    pub(super) written_at: u64,
    pub(super) event: usize,
    /// `None`: the row was deleted.
    pub(super) value: Option<u32>,
}

/// A shard as it is.
#[derive(Debug)]
pub(super) struct Shard {
    id: String,
    parent: Option<String>,
    records: Vec<Record>,
    is_closed: bool,
    is_listed: bool,
    /// The newest record that is gone.
    trimmed_to: u64,
}

/// All shards of one stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) epoch: String,
    shards: Vec<Shard>,
}

impl Stream {
    pub(super) fn new(number: u32) -> Self {
        let root = Shard {
            id: format!("{number}-0"),
            parent: None,
            records: Vec::new(),
            is_closed: false,
            is_listed: true,
            trimmed_to: 0,
        };
        Self {
            epoch: format!("epoch {number}"),
            shards: vec![root],
        }
    }

    /// Records of one event all go to one line of shards.
    pub(super) fn write(&mut self, record: Record) {
        let open: Vec<_> = (0..self.shards.len())
            .filter(|shard| !self.shards[*shard].is_closed)
            .collect();
        let shard = open[record.event % open.len()];
        self.shards[shard].records.push(record);
    }

    /// Closes every open shard and opens a child of each, or two.
    pub(super) fn split(&mut self, random: &mut StdRng) {
        let open = self.shards.iter().filter(|shard| !shard.is_closed).count();
        // Two lines at most, so that an event stays in its own.
        let children = if open == 1 {
            random.random_range(1..=2)
        } else {
            1
        };
        for shard in 0..self.shards.len() {
            if self.shards[shard].is_closed {
                continue;
            }
            self.shards[shard].is_closed = true;
            let parent = self.shards[shard].id.clone();
            for _ in 0..children {
                // Names in any order: which comes first is known from the lineage.
                let id = format!("{}-{}", random.random_range(100..1_000), self.shards.len());
                self.shards.push(Shard {
                    id,
                    parent: Some(parent.clone()),
                    records: Vec::new(),
                    is_closed: false,
                    is_listed: true,
                    trimmed_to: 0,
                });
            }
        }
    }

    /// Forgets every record up to this one, and the closed shards that held nothing later: the oldest
    /// first, so that no line of shards ever has a hole.
    pub(super) fn trim(&mut self, to: u64) {
        for shard in 0..self.shards.len() {
            let parent = self.shards[shard].parent.as_deref();
            let parent = parent.and_then(|id| self.shard(id));
            let has_parent = parent.is_some_and(|parent| parent.is_listed);
            let shard = &mut self.shards[shard];
            let records = shard.records.iter().map(|record| record.sequence);
            let gone = records.filter(|sequence| *sequence <= to).max();
            shard.trimmed_to = gone.unwrap_or(0).max(shard.trimmed_to);
            shard.records.retain(|record| record.sequence > to);
            shard.is_listed = !shard.is_closed || !shard.records.is_empty() || has_parent;
        }
    }

    /// The newest record that was written before a moment; 0 when there is none.
    pub(super) fn last_before(&self, moment: u64) -> u64 {
        let records = self.shards.iter().flat_map(|shard| &shard.records);
        let old = records.filter(|record| record.written_at < moment);
        old.map(|record| record.sequence).max().unwrap_or(0)
    }

    fn listing(&self) -> Vec<Listed> {
        let shards = self.shards.iter().rev().filter(|shard| shard.is_listed);
        shards
            .map(|shard| Listed {
                id: shard.id.clone(),
                parent: shard.parent.clone(),
                last_sequence: shard
                    .records
                    .last()
                    .filter(|_| shard.is_closed)
                    .map(|record| record.sequence.to_string()),
            })
            .collect()
    }

    fn shard(&self, id: &str) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.id == id)
    }

    /// The newest record of an event that a checkpoint has passed, if it is still there.
    pub(super) fn passed(&self, checkpoint: &Checkpoint, event: usize) -> Option<&Record> {
        let mut newest: Option<&Record> = None;
        for shard in &self.shards {
            let to = match checkpoint.shards.get(&shard.id) {
                Some(ShardProgress::After(sequence)) => sequence.parse().ok()?,
                Some(ShardProgress::Finished) => u64::MAX,
                Some(ShardProgress::Start) | None => 0,
            };
            let mut records = shard.records.iter();
            let passed = records.rfind(|record| record.event == event && record.sequence <= to);
            if passed.map(|record| record.sequence) > newest.map(|record| record.sequence) {
                newest = passed;
            }
        }
        newest
    }
}

/// A reader of the stream, as `ChangeStream` is one.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) epoch: String,
    pub(super) is_resumed: bool,
    lineage: Lineage,
    /// The last record that is behind the iterator, by shard.
    places: HashMap<String, u64>,
}

/// What a poll comes to.
pub(super) enum Polled {
    Read(Conflated, bool),
    /// What `PollError::Gap` and `PollError::Replaced` are.
    Lost,
}

impl Reader {
    /// Opens the stream as it is now.
    pub(super) fn open(world: &World, checkpoint: Option<&Checkpoint>) -> Self {
        let stream = &world.stream;
        let mut reader = Self {
            epoch: stream.epoch.clone(),
            is_resumed: false,
            lineage: Lineage::default(),
            places: HashMap::new(),
        };
        let listing = stream.listing();
        if let Some(checkpoint) = checkpoint.filter(|checkpoint| checkpoint.epoch == stream.epoch) {
            reader.lineage = Lineage::resume(&checkpoint.shards);
            reader.is_resumed =
                reader.lineage.observe(&listing).is_empty() && reader.take_places(world);
        }
        if !reader.is_resumed {
            reader.places.clear();
            reader.lineage = Lineage::at_tip(&listing);
            reader.take_places(world);
        }
        reader
    }

    /// Takes a place in every shard that can be read; `false` where what comes next is gone.
    fn take_places(&mut self, world: &World) -> bool {
        for (id, from) in self.lineage.readable() {
            let Some(shard) = world.stream.shard(id) else {
                return false;
            };
            let place = match from {
                ReadFrom::Oldest => 0,
                ReadFrom::Tip => world.last_sequence,
                ReadFrom::After(sequence) => {
                    let after: u64 = sequence.parse().expect("this world writes numbers");
                    if after < shard.trimmed_to {
                        return false;
                    }
                    after
                }
            };
            self.places.insert(id.to_owned(), place);
        }
        true
    }

    pub(super) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            epoch: self.epoch.clone(),
            shards: self.lineage.progress(),
        }
    }

    /// Reads on, to the tip or as far as a bounded reading goes.
    pub(super) fn poll(
        &mut self,
        world: &mut World,
        random: &mut StdRng,
        children_after_parents: bool,
    ) -> Polled {
        if world.stream.epoch != self.epoch {
            return Polled::Lost;
        }
        if world.strikes(Fault::ExpiredIterator, random, 0.02) {
            let at_tip = |(_, from): &(&str, &ReadFrom)| **from == ReadFrom::Tip;
            if self.lineage.readable().iter().any(at_tip) {
                return Polled::Lost;
            }
        }
        let mut changes = Vec::new();
        let mut is_at_tip = true;
        let mut done = HashSet::new();
        loop {
            if !self.lineage.observe(&world.stream.listing()).is_empty() {
                return Polled::Lost;
            }
            let Some((id, from)) = self.next(world, &done, children_after_parents) else {
                break;
            };
            done.insert(id.clone());
            if world.strikes(Fault::Throttle, random, 0.05) {
                is_at_tip = false;
                continue;
            }
            let Some(shard) = world.stream.shard(&id) else {
                return Polled::Lost;
            };
            let place = *self.places.entry(id.clone()).or_insert(0);
            if place < shard.trimmed_to && from != ReadFrom::Oldest {
                return Polled::Lost;
            }
            let most = match random.random_bool(0.2) {
                true => random.random_range(0..3),
                false => usize::MAX,
            };
            let next: Vec<_> = shard
                .records
                .iter()
                .filter(|record| record.sequence > place)
                .take(most)
                .cloned()
                .collect();
            let left = shard.records.last().map_or(0, |record| record.sequence);
            let reached = next.last().map_or(place, |record| record.sequence);
            for record in &next {
                changes.push(change(&self.epoch, record));
                self.lineage.read_to(&id, &record.sequence.to_string());
            }
            self.places.insert(id.clone(), reached);
            if reached < left {
                is_at_tip = false;
            } else if shard.is_closed {
                self.lineage.finish(&id);
            }
        }
        Polled::Read(conflate(changes), is_at_tip)
    }

    fn next(
        &self,
        world: &World,
        done: &HashSet<String>,
        children_after_parents: bool,
    ) -> Option<(String, ReadFrom)> {
        if children_after_parents {
            let mut readable = self.lineage.readable().into_iter();
            let next = readable.find(|(id, _)| !done.contains(*id));
            return next.map(|(id, from)| (id.to_owned(), from.clone()));
        }
        // The newest shards first, whatever their parents are.
        let mut shards = world.stream.shards.iter().rev();
        shards.find_map(|shard| {
            let from = self.lineage.from(&shard.id)?;
            (!done.contains(&shard.id)).then(|| (shard.id.clone(), from.clone()))
        })
    }
}

fn change(epoch: &str, record: &Record) -> Change {
    Change {
        event_id: event_id(record.event),
        position: Some(Position::new(epoch, &record.sequence.to_string())),
        kind: match record.value {
            Some(value) => ChangeKind::Put(state(record.event, value, record.sequence)),
            None => ChangeKind::Removed,
        },
        heard: Default::default(),
    }
}

/// The rows as a snapshot of them.
pub(super) fn rows(
    world: &World,
) -> BTreeMap<touchline_store::ids::EventId, touchline_store::event::EventState> {
    let rows = world.rows.iter().enumerate();
    rows.filter_map(|(event, row)| {
        let (value, written) = (*row)?;
        Some((event_id(event), state(event, value, written)))
    })
    .collect()
}
