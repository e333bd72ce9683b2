//! Which shards of a stream may be read, and from where: children after parents, nothing twice,
//! nothing lost. Pure: it reads no stream; `stream` does, and tells what it found.
//!
//! A shard that is first seen after the stream was opened is read from its oldest record: whatever
//! is in it came after the shards that were known. That also holds for a shard that is missing from
//! a checkpoint, so a checkpoint leaves out what it cannot name: a shard that was opened at its tip
//! and has shown no record yet. Opening such a checkpoint again reads that shard from its oldest
//! record: too much rather than too little, and readers recognise by position what they applied.

use std::collections::{BTreeMap, HashSet};

use crate::stream::ShardProgress;

/// A shard as the stream lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its id.
    pub id: String,
    /// The shard that it continues, which may be listed no longer.
    pub parent: Option<String>,
    /// Sequence number of its last record, where the stream says so.
    pub last_sequence: Option<String>,
}

/// Where a shard is to be read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadFrom {
    /// Its oldest record.
    Oldest,
    /// What is written from now on.
    Tip,
    /// The record after this sequence number.
    After(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Reading(ReadFrom),
    Finished,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    parent: Option<String>,
    state: State,
    is_listed: bool,
}

/// The shards of one stream and how far each has been read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    shards: BTreeMap<String, Node>,
}

impl Lineage {
    /// Starts at the tip of what is listed: shards that have been continued are behind it, the others
    /// are read from where they end now.
    pub fn at_tip(listed: &[Shard]) -> Self {
        let parents = listed.iter().filter_map(|shard| shard.parent.as_deref());
        let continued: HashSet<&str> = parents.collect();
        let shards = listed.iter().map(|shard| {
            let state = match &shard.last_sequence {
                _ if continued.contains(shard.id.as_str()) => State::Finished,
                // More exact than the tip, and it can be checkpointed before anything is read.
                Some(last) => State::Reading(ReadFrom::After(last.clone())),
                None => State::Reading(ReadFrom::Tip),
            };
            let node = Node {
                parent: shard.parent.clone(),
                state,
                is_listed: true,
            };
            (shard.id.clone(), node)
        });
        Self {
            shards: shards.collect(),
        }
    }

    /// Continues where a checkpoint stopped. Tell it the listing by [`Lineage::observe`] before
    /// reading.
    pub fn resume(progress: &BTreeMap<String, ShardProgress>) -> Self {
        let shards = progress.iter().map(|(id, progress)| {
            let state = match progress {
                ShardProgress::Start => State::Reading(ReadFrom::Oldest),
                ShardProgress::After(sequence) => State::Reading(ReadFrom::After(sequence.clone())),
                ShardProgress::Finished => State::Finished,
            };
            let node = Node {
                parent: None,
                state,
                is_listed: true,
            };
            (id.clone(), node)
        });
        Self {
            shards: shards.collect(),
        }
    }

    /// Takes a whole listing of the stream's shards. Returns the shards that were still being read
    /// and are listed no longer: what was unread in them is lost. They count as finished.
    pub fn observe(&mut self, listed: &[Shard]) -> Vec<String> {
        for node in self.shards.values_mut() {
            node.is_listed = false;
        }
        self.discover(listed);
        let mut lost = Vec::new();
        for (id, node) in &mut self.shards {
            if !node.is_listed && node.state != State::Finished {
                node.state = State::Finished;
                lost.push(id.clone());
            }
        }
        self.forget();
        lost
    }

    /// Takes shards that were found without a whole listing, such as the children of one.
    pub fn discover(&mut self, found: &[Shard]) {
        for shard in found {
            let node = self.shards.entry(shard.id.clone()).or_insert(Node {
                parent: None,
                state: State::Reading(ReadFrom::Oldest),
                is_listed: true,
            });
            node.parent.clone_from(&shard.parent);
            node.is_listed = true;
        }
    }

    /// Forgets shards that are listed no longer once their children are done: until then a listing
    /// that is late would bring them back.
    fn forget(&mut self) {
        let unfinished = self
            .shards
            .values()
            .filter(|node| node.state != State::Finished);
        let awaited: HashSet<String> = unfinished.filter_map(|node| node.parent.clone()).collect();
        self.shards
            .retain(|id, node| node.is_listed || awaited.contains(id));
    }

    /// The shards that may be read now, and from where: those whose parent is done, or is unknown
    /// because it is gone.
    pub fn readable(&self) -> Vec<(&str, &ReadFrom)> {
        let shards = self.shards.iter();
        shards
            .filter_map(|(id, node)| match &node.state {
                State::Reading(from) if self.is_parent_done(node) => Some((id.as_str(), from)),
                State::Reading(_) | State::Finished => None,
            })
            .collect()
    }

    fn is_parent_done(&self, node: &Node) -> bool {
        let parent = node.parent.as_ref().and_then(|id| self.shards.get(id));
        parent.is_none_or(|parent| parent.state == State::Finished)
    }

    /// Where a shard is to be read from; `None` when it is unknown or done.
    pub fn from(&self, id: &str) -> Option<&ReadFrom> {
        match &self.shards.get(id)?.state {
            State::Reading(from) => Some(from),
            State::Finished => None,
        }
    }

    /// A record was read.
    pub fn read_to(&mut self, id: &str, sequence: &str) {
        if let Some(node) = self.shards.get_mut(id) {
            node.state = State::Reading(ReadFrom::After(sequence.to_owned()));
        }
    }

    /// A shard was read to its end.
    pub fn finish(&mut self, id: &str) {
        if let Some(node) = self.shards.get_mut(id) {
            node.state = State::Finished;
        }
    }

    /// The place in a shard is no longer known, or no longer there: it is read from its oldest
    /// record.
    pub fn restart(&mut self, id: &str) {
        if let Some(node) = self.shards.get_mut(id) {
            node.state = State::Reading(ReadFrom::Oldest);
        }
    }

    /// The shards that are done and of which no child is known: the stream should be asked for it.
    pub fn childless(&self) -> Vec<&str> {
        let nodes = self.shards.values();
        let parents: HashSet<&str> = nodes.filter_map(|node| node.parent.as_deref()).collect();
        let shards = self.shards.iter();
        shards
            .filter(|(id, node)| {
                node.state == State::Finished && node.is_listed && !parents.contains(id.as_str())
            })
            .map(|(id, _)| id.as_str())
            .collect()
    }

    /// How far each shard has been read, without those of which that cannot be said.
    pub fn progress(&self) -> BTreeMap<String, ShardProgress> {
        let shards = self.shards.iter();
        shards
            .filter_map(|(id, node)| {
                let progress = match &node.state {
                    State::Reading(ReadFrom::Oldest) => ShardProgress::Start,
                    State::Reading(ReadFrom::After(sequence)) => {
                        ShardProgress::After(sequence.clone())
                    }
                    State::Reading(ReadFrom::Tip) => return None,
                    State::Finished => ShardProgress::Finished,
                };
                Some((id.clone(), progress))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
