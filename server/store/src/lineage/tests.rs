//! Any tree of shards, any interleaving of writing, splitting, listing, reading and reopening.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A stream as it really is.
#[derive(Debug, Default)]
struct World {
    shards: Vec<Real>,
    records: usize,
    /// Whether the listing gives the last record of open shards too, as the embedded engine does.
    tells_last_of_open: bool,
}

#[derive(Debug, Default)]
struct Real {
    parent: Option<usize>,
    records: Vec<usize>,
    is_closed: bool,
    is_unlisted: bool,
}

impl World {
    fn write(&mut self, pick: usize) {
        let open: Vec<_> = (0..self.shards.len())
            .filter(|shard| !self.shards[*shard].is_closed)
            .collect();
        let shard = open[pick % open.len()];
        self.shards[shard].records.push(self.records);
        self.records += 1;
    }

    fn split(&mut self, pick: usize, children: usize) {
        let open: Vec<_> = (0..self.shards.len())
            .filter(|shard| !self.shards[*shard].is_closed)
            .collect();
        let parent = open[pick % open.len()];
        self.shards[parent].is_closed = true;
        for _ in 0..children {
            self.shards.push(Real {
                parent: Some(parent),
                ..Real::default()
            });
        }
    }

    fn listing(&self) -> Vec<Shard> {
        let shards = self.shards.iter().enumerate();
        let mut listing: Vec<_> = shards
            .filter(|(_, real)| !real.is_unlisted)
            .map(|(id, real)| Shard {
                id: name(id),
                parent: real.parent.map(name),
                last_sequence: real
                    .records
                    .last()
                    .filter(|_| real.is_closed || self.tells_last_of_open)
                    .map(|record| sequence(*record)),
            })
            .collect();
        // The order of a listing promises nothing.
        listing.reverse();
        listing
    }
}

fn name(shard: usize) -> String {
    format!("shard {shard:03}")
}

fn sequence(record: usize) -> String {
    format!("{record:06}")
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize),
    Split(usize, usize),
    List,
    Read(usize, usize),
    Reopen,
    /// The stream forgets a shard that was read.
    Unlist(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<usize>().prop_map(Step::Write),
        2 => (any::<usize>(), 1..3usize).prop_map(|(pick, children)| Step::Split(pick, children)),
        2 => Just(Step::List),
        6 => (any::<usize>(), 0..6usize).prop_map(|(pick, count)| Step::Read(pick, count)),
        1 => Just(Step::Reopen),
        1 => any::<usize>().prop_map(Step::Unlist),
    ]
}

/// A reader of a world, and what it has been given.
struct Reader {
    lineage: Lineage,
    /// Where an iterator at the tip stands.
    tips: BTreeMap<usize, usize>,
    delivered: BTreeSet<usize>,
    ended: BTreeSet<usize>,
}

impl Reader {
    /// Reads up to `count` records of a shard, and its end if it gets there.
    fn read(&mut self, world: &World, pick: usize, count: usize) {
        let readable = self.lineage.readable();
        if readable.is_empty() {
            return;
        }
        let (id, from) = readable[pick % readable.len()];
        let shard: usize = id["shard ".len()..].parse().unwrap();
        let real = &world.shards[shard];
        if let Some(parent) = real.parent {
            let is_known = world.shards[parent].is_unlisted || self.ended.contains(&parent);
            assert!(is_known, "{id} was readable before the end of its parent");
        }
        let start = match from {
            ReadFrom::Oldest => 0,
            ReadFrom::Tip => self.tips[&shard],
            ReadFrom::After(last) => real
                .records
                .partition_point(|record| sequence(*record) <= *last),
        };
        let id = id.to_owned();
        for record in real.records[start..].iter().take(count) {
            assert!(self.delivered.insert(*record), "record {record} came twice");
            self.lineage.read_to(&id, &sequence(*record));
        }
        if real.is_closed && start + count >= real.records.len() {
            self.lineage.finish(&id);
            self.ended.insert(shard);
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_or_read_twice_and_no_child_comes_before_its_parents_end(
        tells_last_of_open in any::<bool>(),
        roots in 1..4usize,
        before in prop::collection::vec(step(), 0..20),
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut world = World { tells_last_of_open, ..World::default() };
        world.shards.resize_with(roots, Real::default);
        for step in before {
            match step {
                Step::Write(pick) => world.write(pick),
                Step::Split(pick, children) => world.split(pick, children),
                _ => {}
            }
        }
        let opened_at = world.records;
        let listing = world.listing();
        let lineage = Lineage::at_tip(&listing);
        let tips = (0..world.shards.len()).map(|id| (id, world.shards[id].records.len())).collect();
        let ended = (0..world.shards.len()).filter(|id| lineage.from(&name(*id)).is_none()).collect();
        let mut reader = Reader { lineage, tips, delivered: BTreeSet::new(), ended };
        let mut has_lost_a_tip = false;
        for step in steps {
            match step {
                Step::Write(pick) => world.write(pick),
                Step::Split(pick, children) => world.split(pick, children),
                Step::List => {
                    prop_assert_eq!(reader.lineage.observe(&world.listing()), Vec::<String>::new());
                }
                Step::Read(pick, count) => reader.read(&world, pick, count),
                Step::Reopen => {
                    let readable = reader.lineage.readable();
                    has_lost_a_tip |= readable.iter().any(|(_, from)| **from == ReadFrom::Tip);
                    reader.lineage = Lineage::resume(&reader.lineage.progress());
                    prop_assert_eq!(reader.lineage.observe(&world.listing()), Vec::<String>::new());
                }
                Step::Unlist(pick) => {
                    let ended: Vec<_> = reader.ended.iter().copied().collect();
                    if !ended.is_empty() {
                        world.shards[ended[pick % ended.len()]].is_unlisted = true;
                    }
                }
            }
        }
        for _ in 0..=world.shards.len() {
            prop_assert_eq!(reader.lineage.observe(&world.listing()), Vec::<String>::new());
            for pick in 0..=world.shards.len() {
                reader.read(&world, pick, usize::MAX / 2);
            }
        }
        let expected: BTreeSet<_> = (opened_at..world.records).collect();
        prop_assert!(reader.delivered.is_superset(&expected), "lost records");
        if !has_lost_a_tip {
            prop_assert_eq!(&reader.delivered, &expected);
        }
    }
}

fn shard(id: &str, parent: Option<&str>) -> Shard {
    Shard {
        id: id.to_owned(),
        parent: parent.map(str::to_owned),
        last_sequence: None,
    }
}

fn readable(lineage: &Lineage) -> Vec<&str> {
    let readable = lineage.readable().into_iter();
    readable.map(|(id, _)| id).collect()
}

#[test]
fn a_shard_that_vanishes_unread_is_reported_once() {
    let mut lineage = Lineage::at_tip(&[shard("a", None), shard("b", None)]);
    assert_eq!(lineage.observe(&[shard("b", None)]), ["a"]);
    assert!(lineage.observe(&[shard("b", None)]).is_empty());
    assert_eq!(readable(&lineage), ["b"]);
}

#[test]
fn a_finished_shard_that_is_listed_no_longer_is_remembered_until_its_children_are_done() {
    let family = [shard("a", None), shard("b", Some("a"))];
    let mut lineage = Lineage::at_tip(&family[..1]);
    lineage.finish("a");
    assert_eq!(lineage.childless(), ["a"]);
    lineage.discover(&family[1..]);
    assert!(lineage.childless().is_empty());
    lineage.observe(&family);
    lineage.observe(&family[1..]);
    // A listing that is late must not have it read again.
    lineage.observe(&family);
    assert_eq!(readable(&lineage), ["b"]);
    lineage.finish("b");
    lineage.observe(&family[1..]);
    assert_eq!(lineage.progress().into_keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_tip_that_shows_no_record_is_left_out_of_the_progress() {
    let mut lineage = Lineage::at_tip(&[shard("a", None)]);
    assert!(lineage.progress().is_empty());
    lineage.read_to("a", "17");
    let progress = lineage.progress();
    assert_eq!(progress["a"], ShardProgress::After("17".to_owned()));
    let mut resumed = Lineage::resume(&BTreeMap::new());
    resumed.observe(&[shard("a", None)]);
    assert_eq!(resumed.from("a"), Some(&ReadFrom::Oldest));
}
