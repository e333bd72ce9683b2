//! A stream of many shards, which the embedded engine does not have: a stand-in that splits, expires
//! and trims as the API reference of DynamoDB Streams says.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::State, http::HeaderMap, http::StatusCode};
use serde_json::{Value, json};
use touchline_store::{
    Error,
    change::{Change, ChangeKind},
    stream::ChangeStream,
    tables::{Store, StoreArgs},
};

use crate::common::{names, no_region};

#[derive(Debug, Default)]
struct Stream {
    shards: BTreeMap<String, Shard>,
    records: usize,
    /// Records before this one are gone.
    trimmed: usize,
    /// Trims as the embedded engine does: the range of a shard moves, and nobody is told.
    is_trimming_silent: bool,
    /// Iterators given before this one have expired.
    iterators_expired: usize,
    iterators: usize,
}

#[derive(Debug, Default)]
struct Shard {
    parent: Option<String>,
    records: Vec<(usize, String)>,
    is_closed: bool,
}

fn sequence(record: usize) -> String {
    format!("{:021}", record + 1)
}

impl Stream {
    fn put(&mut self, shard: &str, event: &str) {
        let record = self.records;
        self.records += 1;
        let shard = self.shards.get_mut(shard).unwrap();
        assert!(!shard.is_closed);
        shard.records.push((record, event.to_owned()));
    }

    fn split(&mut self, parent: &str, children: &[&str]) {
        self.shards.get_mut(parent).unwrap().is_closed = true;
        for child in children {
            let child = (*child).to_owned();
            let shard = Shard {
                parent: Some(parent.to_owned()),
                ..Shard::default()
            };
            self.shards.insert(child, shard);
        }
    }

    fn answer(&mut self, target: &str, request: &Value) -> Result<Value, &'static str> {
        match target.split_once('.').unwrap().1 {
            "DescribeTable" => Ok(json!({ "Table": {
                "LatestStreamArn": "arn:aws:dynamodb:us-east-1:000000000000:table/t/stream/label",
                "LatestStreamLabel": "label",
            }})),
            "DescribeStream" => Ok(self.list(request["ExclusiveStartShardId"].as_str())),
            "GetShardIterator" => self.iterator(request),
            "GetRecords" => self.read(request["ShardIterator"].as_str().unwrap()),
            other => panic!("{other} is not expected"),
        }
    }

    /// One shard a page, children first: a listing promises no order.
    fn list(&self, after: Option<&str>) -> Value {
        let mut ids = self.shards.keys().rev();
        let id = ids
            .find(|id| after.is_none_or(|after| id.as_str() < after))
            .unwrap();
        let shard = &self.shards[id];
        let trimmed = if self.is_trimming_silent {
            self.trimmed
        } else {
            0
        };
        let mut records = shard.records.iter();
        let first = records.find(|(record, _)| *record >= trimmed);
        let first = first.map(|(record, _)| sequence(*record));
        let last = shard.records.last().filter(|_| shard.is_closed);
        json!({ "StreamDescription": {
            "Shards": [{
                "ShardId": id,
                "ParentShardId": shard.parent,
                "SequenceNumberRange": {
                    "StartingSequenceNumber": first.unwrap_or_else(|| sequence(0)),
                    "EndingSequenceNumber": last.map(|(record, _)| sequence(*record)),
                },
            }],
            "LastEvaluatedShardId": ids.next().map(|_| id),
        }})
    }

    fn iterator(&mut self, request: &Value) -> Result<Value, &'static str> {
        let id = request["ShardId"].as_str().unwrap();
        let place = match request["ShardIteratorType"].as_str().unwrap() {
            "TRIM_HORIZON" => 0,
            "LATEST" => self.records,
            "AFTER_SEQUENCE_NUMBER" => {
                let after = request["SequenceNumber"].as_str().unwrap();
                let record: usize = after.parse().unwrap();
                if record < self.trimmed && !self.is_trimming_silent {
                    return Err("TrimmedDataAccessException");
                }
                record
            }
            other => panic!("{other} is not expected"),
        };
        Ok(json!({ "ShardIterator": self.place(id, place) }))
    }

    /// An iterator at a record of a shard.
    fn place(&mut self, id: &str, record: usize) -> String {
        self.iterators += 1;
        format!("{}|{id}|{record}", self.iterators)
    }

    /// Two records a page.
    fn read(&mut self, iterator: &str) -> Result<Value, &'static str> {
        let [number, id, from] = iterator.split('|').collect::<Vec<_>>()[..] else {
            panic!("{iterator} is no iterator");
        };
        if number.parse::<usize>().unwrap() <= self.iterators_expired {
            return Err("ExpiredIteratorException");
        }
        let from: usize = from.parse().unwrap();
        if (1..self.trimmed).contains(&from) && !self.is_trimming_silent {
            return Err("TrimmedDataAccessException");
        }
        let shard = &self.shards[id];
        let mut left = shard
            .records
            .iter()
            .filter(|(record, _)| *record >= from.max(self.trimmed));
        let page: Vec<_> = left.by_ref().take(2).collect();
        let records: Vec<_> = page
            .iter()
            .map(|(record, event)| {
                json!({ "eventName": "MODIFY", "dynamodb": {
                    "SequenceNumber": sequence(*record),
                    "NewImage": { "event_id": { "S": event }, "record": { "N": record.to_string() } },
                }})
            })
            .collect();
        let is_end = shard.is_closed && left.next().is_none();
        let next = page.last().map_or(from, |(record, _)| record + 1);
        let id = id.to_owned();
        let next = (!is_end).then(|| self.place(&id, next));
        Ok(json!({ "Records": records, "NextShardIterator": next }))
    }
}

type Shared = Arc<Mutex<Stream>>;

async fn answer(
    State(stream): State<Shared>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, String) {
    let target = headers["x-amz-target"].to_str().unwrap();
    let request = serde_json::from_str(&body).unwrap();
    match stream.lock().unwrap().answer(target, &request) {
        Ok(answer) => (StatusCode::OK, answer.to_string()),
        Err(kind) => {
            let error = json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{kind}") });
            (StatusCode::BAD_REQUEST, error.to_string())
        }
    }
}

/// A stream of these open shards, and a store over it. The set serves until it is dropped.
async fn serve(shards: &[&str]) -> (Shared, Store, tokio::task::JoinSet<()>) {
    let stream = Shared::default();
    for shard in shards {
        let mut stream = stream.lock().unwrap();
        stream.shards.insert((*shard).to_owned(), Shard::default());
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(stream.clone());
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let args = StoreArgs {
        aws: no_region(endpoint),
        names: names(),
    };
    (stream, Store::connect(&args).await, serving)
}

/// Event and record of each change.
fn seen(changes: &[Change]) -> Vec<(String, String)> {
    let changes = changes.iter();
    changes
        .map(|change| match &change.kind {
            ChangeKind::Put(state) => (
                change.event_id.to_string(),
                state.attributes["record"].as_text().to_owned(),
            ),
            ChangeKind::Removed => panic!("nothing is removed"),
        })
        .collect()
}

fn entries(entries: &[(&str, &str)]) -> Vec<(String, String)> {
    let entries = entries.iter();
    entries
        .map(|(event, record)| ((*event).to_owned(), (*record).to_owned()))
        .collect()
}

async fn poll(stream: &mut ChangeStream) -> Vec<(String, String)> {
    seen(&stream.poll().await.unwrap().changes.changes)
}

#[tokio::test]
async fn a_shard_that_splits_is_read_to_its_end_and_then_its_children_in_the_same_poll() {
    let (shared, store, _serving) = serve(&["b"]).await;
    let mut stream = ChangeStream::open(&store, None).await.unwrap();
    {
        let mut shared = shared.lock().unwrap();
        for _ in 0..5 {
            shared.put("b", "1");
        }
        // Names that sort before the parent's: order comes from the lineage.
        shared.split("b", &["a", "a2"]);
        shared.put("a", "1");
        shared.put("a2", "2");
        shared.split("a", &["0"]);
        shared.put("0", "1");
    }
    let polled = stream.poll().await.unwrap();
    let mut found = seen(&polled.changes.changes);
    found.sort();
    assert_eq!(found, entries(&[("1", "7"), ("2", "6")]));
    assert_eq!(polled.changes.dropped, 6);
    assert!(poll(&mut stream).await.is_empty());
}

#[tokio::test]
async fn reopened_after_a_split_it_goes_on_where_it_stopped() {
    let (shared, store, _serving) = serve(&["a", "b"]).await;
    shared.lock().unwrap().put("a", "before");
    let mut stream = ChangeStream::open(&store, None).await.unwrap();
    shared.lock().unwrap().put("a", "1");
    shared.lock().unwrap().put("b", "2");
    assert_eq!(poll(&mut stream).await, entries(&[("1", "1"), ("2", "2")]));
    let checkpoint = stream.checkpoint();
    shared.lock().unwrap().put("a", "1");
    shared.lock().unwrap().split("a", &["c"]);
    shared.lock().unwrap().put("c", "3");
    let mut stream = ChangeStream::open(&store, Some(&checkpoint)).await.unwrap();
    assert!(stream.resumed());
    assert_eq!(poll(&mut stream).await, entries(&[("1", "3"), ("3", "4")]));
    let mut stream = ChangeStream::open(&store, Some(&stream.checkpoint()))
        .await
        .unwrap();
    assert!(poll(&mut stream).await.is_empty());
}

#[tokio::test]
async fn an_iterator_that_expired_is_taken_anew_and_nothing_is_lost() {
    let (shared, store, _serving) = serve(&["a", "b"]).await;
    shared.lock().unwrap().put("b", "before");
    let mut stream = ChangeStream::open(&store, None).await.unwrap();
    shared.lock().unwrap().put("a", "1");
    assert_eq!(poll(&mut stream).await, entries(&[("1", "1")]));
    {
        let mut shared = shared.lock().unwrap();
        shared.iterators_expired = shared.iterators;
        shared.put("a", "1");
        shared.put("b", "2");
    }
    // Nothing was ever read of b, so its place is lost with its iterator: all of it is read.
    let expected = entries(&[("1", "2"), ("before", "0"), ("2", "3")]);
    assert_eq!(poll(&mut stream).await, expected);
}

#[tokio::test]
async fn a_checkpoint_past_the_trim_horizon_is_not_resumed() {
    for is_trimming_silent in [false, true] {
        let (shared, store, _serving) = serve(&["a"]).await;
        shared.lock().unwrap().is_trimming_silent = is_trimming_silent;
        let mut stream = ChangeStream::open(&store, None).await.unwrap();
        shared.lock().unwrap().put("a", "1");
        poll(&mut stream).await;
        let checkpoint = stream.checkpoint();
        for _ in 0..5 {
            shared.lock().unwrap().put("a", "1");
        }
        shared.lock().unwrap().trimmed = 4;
        let mut stream = ChangeStream::open(&store, Some(&checkpoint)).await.unwrap();
        assert!(!stream.resumed());
        shared.lock().unwrap().put("a", "2");
        assert_eq!(poll(&mut stream).await, entries(&[("2", "6")]));
    }
}

#[tokio::test]
async fn unread_records_that_are_gone_are_told_once_and_the_rest_is_read() {
    for is_iterator_expired in [false, true] {
        let (shared, store, _serving) = serve(&["a"]).await;
        let mut stream = ChangeStream::open(&store, None).await.unwrap();
        shared.lock().unwrap().put("a", "1");
        poll(&mut stream).await;
        for event in ["lost", "lost", "kept"] {
            shared.lock().unwrap().put("a", event);
        }
        {
            let mut shared = shared.lock().unwrap();
            shared.trimmed = 3;
            if is_iterator_expired {
                shared.iterators_expired = shared.iterators;
            }
        }
        let told = stream.poll().await;
        assert!(matches!(told, Err(Error::Conflict(_))), "{told:?}");
        assert_eq!(poll(&mut stream).await, entries(&[("kept", "3")]));
    }
}

#[tokio::test]
async fn a_checkpoint_whose_shard_is_gone_unread_is_not_resumed() {
    let (shared, store, _serving) = serve(&["a", "b"]).await;
    let mut stream = ChangeStream::open(&store, None).await.unwrap();
    shared.lock().unwrap().put("a", "1");
    poll(&mut stream).await;
    shared.lock().unwrap().shards.remove("a");
    let checkpoint = stream.checkpoint();
    let stream = ChangeStream::open(&store, Some(&checkpoint)).await.unwrap();
    assert!(!stream.resumed());
}
