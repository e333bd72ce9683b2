//! One stream of the event table, as the API reference of DynamoDB Streams says: shards that close and
//! go on in children, iterators that expire, records that are trimmed. Reads nothing: the endpoint
//! gives it the records.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    ops::RangeInclusive,
};

use serde_json::{Value, json};

/// Shards a page of a listing.
const SHARDS_A_PAGE: usize = 3;
/// Records a page of a shard.
const RECORDS_A_PAGE: usize = 2;

/// One stream: the table's newest, or one that was disabled.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) arn: String,
    shards: BTreeMap<String, Shard>,
    /// Shards that were made.
    made: u32,
    /// Sequence number of the newest record.
    pub(super) newest: u128,
    /// Records up to this one are gone.
    trimmed: u128,
    /// Iterators that were given, and up to which of them they have expired.
    iterators: u64,
    expired: u64,
    /// What comes before each page with records, and how often it came before the next one.
    before: Before,
    came: usize,
}

/// What comes before each page with records.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Before {
    Nothing,
    /// So many pages without any.
    EmptyPages(usize),
    /// An exception.
    Exception(&'static str),
}

#[derive(Debug)]
struct Shard {
    parent: Option<String>,
    /// Hashes of the keys whose changes it takes.
    keys: RangeInclusive<u64>,
    /// Sequence numbers that it may hold; open at the end while it takes changes.
    starts_at: u128,
    ends_at: Option<u128>,
    records: Vec<(u128, Value)>,
}

impl Stream {
    /// A stream of one shard; `newest` is the sequence number of the last change before it.
    pub(super) fn new(arn: &str, newest: u128) -> Self {
        let mut stream = Self {
            arn: arn.to_owned(),
            shards: BTreeMap::new(),
            made: 0,
            newest,
            trimmed: newest,
            iterators: 0,
            expired: 0,
            before: Before::Nothing,
            came: 0,
        };
        stream.make(None, 0..=u64::MAX);
        stream
    }

    /// Takes a record as the engine gives it; one that it has is passed over.
    pub(super) fn record(&mut self, record: Value) {
        let number = sequence_of(&record["dynamodb"]["SequenceNumber"]);
        if number <= self.newest {
            return;
        }
        self.newest = number;
        let mut hasher = DefaultHasher::new();
        record["dynamodb"]["Keys"].to_string().hash(&mut hasher);
        let key = hasher.finish();
        let mut shards = self.shards.values_mut();
        let shard = shards.find(|shard| shard.ends_at.is_none() && shard.keys.contains(&key));
        let shard = shard.expect("open shards cover every key while the stream is enabled");
        shard.records.push((number, record));
    }

    /// Closes each open shard, which goes on in so many children.
    pub(super) fn divide(&mut self, children: u64) {
        for (parent, keys) in self.close() {
            let width = (keys.end() - keys.start()) / children;
            for child in 0..children {
                let start = keys.start() + child * width;
                let end = match child + 1 == children {
                    true => *keys.end(),
                    false => start + width - 1,
                };
                self.make(Some(parent.clone()), start..=end);
            }
        }
    }

    /// Closes each open shard, as disabling the stream does.
    pub(super) fn close(&mut self) -> Vec<(String, RangeInclusive<u64>)> {
        let newest = self.newest;
        let open = self.shards.iter_mut();
        open.filter(|(_, shard)| shard.ends_at.is_none())
            .map(|(id, shard)| {
                shard.ends_at = Some(newest);
                (id.clone(), shard.keys.clone())
            })
            .collect()
    }

    /// Later shards sort before earlier ones, so that only the lineage says what comes first.
    fn make(&mut self, parent: Option<String>, keys: RangeInclusive<u64>) {
        self.made += 1;
        let id = format!("shardId-{:020}", u32::MAX - self.made);
        let shard = Shard {
            parent,
            keys,
            starts_at: self.newest + 1,
            ends_at: None,
            records: Vec::new(),
        };
        self.shards.insert(id, shard);
    }

    /// Every record so far is gone, and every closed shard with them.
    pub(super) fn trim(&mut self) {
        self.trimmed = self.newest;
        self.shards.retain(|_, shard| shard.ends_at.is_none());
        for shard in self.shards.values_mut() {
            shard.records.clear();
        }
    }

    /// Every iterator that was given so far has expired.
    pub(super) fn expire(&mut self) {
        self.expired = self.iterators;
    }

    /// What comes before each page with records from now on.
    pub(super) fn let_come_first(&mut self, before: Before) {
        self.before = before;
    }

    /// Answers a call, or says which exception it meets.
    pub(super) fn answer(
        &mut self,
        operation: &str,
        request: &Value,
    ) -> Result<Value, &'static str> {
        match operation {
            "DescribeStream" => Ok(self.list(request)),
            "GetShardIterator" => self.iterator(request),
            "GetRecords" => self.page(request),
            other => panic!("{other} is not expected"),
        }
    }

    fn list(&self, request: &Value) -> Value {
        let after = request["ExclusiveStartShardId"].as_str();
        let parent = request["ShardFilter"]["ShardId"].as_str();
        let mut wanted = self.shards.iter().filter(|(id, shard)| {
            after.is_none_or(|after| id.as_str() > after)
                && (parent.is_none() || shard.parent.as_deref() == parent)
        });
        let page: Vec<_> = wanted.by_ref().take(SHARDS_A_PAGE).collect();
        let shards: Vec<_> = page.iter().map(|(id, shard)| shard.describe(id)).collect();
        let last = page.last().filter(|_| wanted.next().is_some());
        json!({ "StreamDescription": {
            "StreamArn": self.arn,
            "Shards": shards,
            "LastEvaluatedShardId": last.map(|(id, _)| id),
        }})
    }

    fn iterator(&mut self, request: &Value) -> Result<Value, &'static str> {
        let id = request["ShardId"].as_str().unwrap();
        if !self.shards.contains_key(id) {
            return Err("ResourceNotFoundException");
        }
        let after = match request["ShardIteratorType"].as_str().unwrap() {
            "TRIM_HORIZON" => self.trimmed,
            "LATEST" => self.newest,
            "AFTER_SEQUENCE_NUMBER" => {
                let after = sequence_of(&request["SequenceNumber"]);
                if after <= self.trimmed {
                    return Err("TrimmedDataAccessException");
                }
                after
            }
            other => panic!("{other} is not expected"),
        };
        Ok(json!({ "ShardIterator": self.place(id, after) }))
    }

    /// An iterator after a record of a shard. It names its stream, as GetRecords does not.
    fn place(&mut self, id: &str, after: u128) -> String {
        self.iterators += 1;
        format!("{}|{id}|{after}|{}", self.arn, self.iterators)
    }

    fn page(&mut self, request: &Value) -> Result<Value, &'static str> {
        let iterator = request["ShardIterator"].as_str().unwrap();
        let [_, id, after, number] = iterator.split('|').collect::<Vec<_>>()[..] else {
            panic!("{iterator} is no iterator");
        };
        let (after, number): (u128, u64) = (after.parse().unwrap(), number.parse().unwrap());
        if number <= self.expired {
            return Err("ExpiredIteratorException");
        }
        if after < self.trimmed {
            return Err("TrimmedDataAccessException");
        }
        let shard = self.shards.get(id).ok_or("ResourceNotFoundException")?;
        let mut left = shard.records.iter().filter(|(number, _)| *number > after);
        if left.clone().next().is_some() {
            self.came += 1;
            match self.before {
                Before::EmptyPages(pages) if self.came <= pages => {
                    let next = self.place(id, after);
                    return Ok(json!({ "Records": [], "NextShardIterator": next }));
                }
                Before::Exception(exception) if self.came <= 1 => return Err(exception),
                Before::Nothing | Before::EmptyPages(_) | Before::Exception(_) => self.came = 0,
            }
        }
        let page: Vec<_> = left.by_ref().take(RECORDS_A_PAGE).collect();
        let is_end = shard.ends_at.is_some() && left.next().is_none();
        let next = page.last().map_or(after, |(number, _)| *number);
        let records: Vec<_> = page.into_iter().map(|(_, record)| record.clone()).collect();
        let next = (!is_end).then(|| self.place(id, next));
        Ok(json!({ "Records": records, "NextShardIterator": next }))
    }
}

impl Shard {
    fn describe(&self, id: &str) -> Value {
        json!({
            "ShardId": id,
            "ParentShardId": self.parent,
            "SequenceNumberRange": {
                "StartingSequenceNumber": sequence(self.starts_at),
                "EndingSequenceNumber": self.ends_at.map(sequence),
            },
        })
    }
}

/// A sequence number as the API writes it: 21 digits at least.
fn sequence(number: u128) -> String {
    format!("{number:021}")
}

fn sequence_of(text: &Value) -> u128 {
    text.as_str().unwrap().parse().unwrap()
}
