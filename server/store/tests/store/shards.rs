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
    stream::{ChangeStream, PollError, Quota},
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
    /// Which stream of the table it is; "label" where nobody says otherwise.
    label: Option<&'static str>,
    /// Pages that hold nothing although there is something, each as often as this.
    empty_pages: usize,
    /// A shard whose reader is told to slow down.
    throttled: Option<String>,
    /// Shards a page of a listing; 0 counts as 1.
    shards_a_page: usize,
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

    /// Another stream takes its place: the table was made anew, or its stream was.
    fn replace(&mut self, label: &'static str, shards: &[&str]) {
        self.label = Some(label);
        self.shards = shards
            .iter()
            .map(|shard| ((*shard).to_owned(), Shard::default()))
            .collect();
    }

    fn arn(&self) -> String {
        let label = self.label();
        format!("arn:aws:dynamodb:us-east-1:000000000000:table/t/stream/{label}")
    }

    fn label(&self) -> &'static str {
        self.label.unwrap_or("label")
    }

    fn answer(&mut self, target: &str, request: &Value) -> Result<Value, &'static str> {
        let is_of_another = request["StreamArn"]
            .as_str()
            .is_some_and(|arn| arn != self.arn());
        if is_of_another {
            return Err("ResourceNotFoundException");
        }
        match target.split_once('.').unwrap().1 {
            "DescribeTable" => Ok(json!({ "Table": {
                "LatestStreamArn": self.arn(),
                "LatestStreamLabel": self.label(),
            }})),
            "DescribeStream" => Ok(self.list(request)),
            "GetShardIterator" => self.iterator(request),
            "GetRecords" => self.read(request["ShardIterator"].as_str().unwrap()),
            other => panic!("{other} is not expected"),
        }
    }

    /// Children first: a listing promises no order.
    fn list(&self, request: &Value) -> Value {
        let after = request["ExclusiveStartShardId"].as_str();
        let parent = request["ShardFilter"]["ShardId"].as_str();
        let mut ids = self.shards.iter().rev().filter(|(id, shard)| {
            after.is_none_or(|after| id.as_str() < after)
                && (parent.is_none() || shard.parent.as_deref() == parent)
        });
        let page: Vec<_> = ids.by_ref().take(self.shards_a_page.max(1)).collect();
        let shards: Vec<_> = page
            .iter()
            .map(|(id, shard)| self.described(id, shard))
            .collect();
        let last = page.last().filter(|_| ids.next().is_some());
        json!({ "StreamDescription": {
            "Shards": shards,
            "LastEvaluatedShardId": last.map(|(id, _)| id),
        }})
    }

    fn described(&self, id: &str, shard: &Shard) -> Value {
        let trimmed = if self.is_trimming_silent {
            self.trimmed
        } else {
            0
        };
        let mut records = shard.records.iter();
        let first = records.find(|(record, _)| *record >= trimmed);
        let first = first.map(|(record, _)| sequence(*record));
        let last = shard.records.last().filter(|_| shard.is_closed);
        json!({
            "ShardId": id,
            "ParentShardId": shard.parent,
            "SequenceNumberRange": {
                "StartingSequenceNumber": first.unwrap_or_else(|| sequence(0)),
                "EndingSequenceNumber": last.map(|(record, _)| sequence(*record)),
            },
        })
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
        if self.throttled.as_deref() == Some(id) {
            return Err("ProvisionedThroughputExceededException");
        }
        if self.empty_pages > 0 {
            self.empty_pages -= 1;
            let id = id.to_owned();
            return Ok(json!({ "Records": [], "NextShardIterator": self.place(&id, from) }));
        }
        let Some(shard) = self.shards.get(id) else {
            return Err(match self.label {
                Some(_) => "ResourceNotFoundException",
                None => "TrimmedDataAccessException",
            });
        };
        if (1..self.trimmed).contains(&from) && !self.is_trimming_silent {
            return Err("TrimmedDataAccessException");
        }
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

/// Opens the stream at its tip.
async fn open(store: &Store) -> ChangeStream {
    ChangeStream::open(store, None, Quota::UNLIMITED)
        .await
        .unwrap()
}

async fn poll(stream: &mut ChangeStream) -> Vec<(String, String)> {
    seen(&stream.poll().await.unwrap().changes.changes)
}

#[tokio::test]
async fn a_shard_that_splits_is_read_to_its_end_and_then_its_children_in_the_same_poll() {
    let (shared, store, _serving) = serve(&["b"]).await;
    let mut stream = open(&store).await;
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
    let mut stream = open(&store).await;
    shared.lock().unwrap().put("a", "1");
    shared.lock().unwrap().put("b", "2");
    assert_eq!(poll(&mut stream).await, entries(&[("1", "1"), ("2", "2")]));
    let checkpoint = stream.checkpoint();
    shared.lock().unwrap().put("a", "1");
    shared.lock().unwrap().split("a", &["c"]);
    shared.lock().unwrap().put("c", "3");
    let mut stream = ChangeStream::open(&store, Some(&checkpoint), Quota::UNLIMITED)
        .await
        .unwrap();
    assert!(stream.resumed());
    assert_eq!(poll(&mut stream).await, entries(&[("1", "3"), ("3", "4")]));
    let mut stream = ChangeStream::open(&store, Some(&stream.checkpoint()), Quota::UNLIMITED)
        .await
        .unwrap();
    assert!(poll(&mut stream).await.is_empty());
}

#[tokio::test]
async fn an_iterator_that_expired_is_taken_anew_and_nothing_is_lost() {
    let (shared, store, _serving) = serve(&["a"]).await;
    let mut stream = open(&store).await;
    shared.lock().unwrap().put("a", "1");
    assert_eq!(poll(&mut stream).await, entries(&[("1", "0")]));
    {
        let mut shared = shared.lock().unwrap();
        shared.iterators_expired = shared.iterators;
        shared.put("a", "1");
        shared.put("a", "2");
    }
    let expected = entries(&[("1", "1"), ("2", "2")]);
    assert_eq!(poll(&mut stream).await, expected);
}

#[tokio::test]
async fn an_iterator_at_the_tip_that_expired_is_a_gap_since_nothing_else_names_the_place() {
    let (shared, store, _serving) = serve(&["a"]).await;
    shared.lock().unwrap().put("a", "before");
    let mut stream = open(&store).await;
    {
        let mut shared = shared.lock().unwrap();
        shared.iterators_expired = shared.iterators;
        shared.put("a", "1");
    }
    let told = stream.poll().await;
    assert!(matches!(told, Err(PollError::Gap)), "{told:?}");
}

#[tokio::test]
async fn a_checkpoint_past_the_trim_horizon_is_not_resumed() {
    for is_trimming_silent in [false, true] {
        let (shared, store, _serving) = serve(&["a"]).await;
        shared.lock().unwrap().is_trimming_silent = is_trimming_silent;
        let mut stream = open(&store).await;
        shared.lock().unwrap().put("a", "1");
        poll(&mut stream).await;
        let checkpoint = stream.checkpoint();
        for _ in 0..5 {
            shared.lock().unwrap().put("a", "1");
        }
        shared.lock().unwrap().trimmed = 4;
        let mut stream = ChangeStream::open(&store, Some(&checkpoint), Quota::UNLIMITED)
            .await
            .unwrap();
        assert!(!stream.resumed());
        shared.lock().unwrap().put("a", "2");
        assert_eq!(poll(&mut stream).await, entries(&[("2", "6")]));
    }
}

#[tokio::test]
async fn unread_records_that_are_gone_are_a_gap_and_the_stream_opened_anew_goes_on_at_its_tip() {
    for is_iterator_expired in [false, true] {
        let (shared, store, _serving) = serve(&["a"]).await;
        let mut stream = open(&store).await;
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
        assert!(matches!(told, Err(PollError::Gap)), "{told:?}");
        let mut stream = open(&store).await;
        shared.lock().unwrap().put("a", "new");
        assert_eq!(poll(&mut stream).await, entries(&[("new", "4")]));
    }
}

#[tokio::test]
async fn a_shard_that_vanishes_unread_is_a_gap() {
    let (shared, store, _serving) = serve(&["a", "b"]).await;
    let mut stream = open(&store).await;
    shared.lock().unwrap().put("a", "1");
    poll(&mut stream).await;
    shared.lock().unwrap().shards.remove("a");
    let told = stream.poll().await;
    assert!(matches!(told, Err(PollError::Gap)), "{told:?}");
}

#[tokio::test]
async fn a_stream_that_was_disabled_and_enabled_again_is_told_and_has_another_epoch() {
    let (shared, store, _serving) = serve(&["a"]).await;
    let mut stream = open(&store).await;
    shared.lock().unwrap().put("a", "1");
    poll(&mut stream).await;
    let checkpoint = stream.checkpoint();
    shared.lock().unwrap().replace("later", &["z"]);
    let told = stream.poll().await;
    assert!(matches!(told, Err(PollError::Replaced)), "{told:?}");
    let mut stream = ChangeStream::open(&store, Some(&checkpoint), Quota::UNLIMITED)
        .await
        .unwrap();
    assert!(!stream.resumed());
    assert_eq!(stream.epoch(), "later");
    shared.lock().unwrap().put("z", "2");
    assert_eq!(poll(&mut stream).await, entries(&[("2", "1")]));
}

#[tokio::test]
async fn empty_pages_in_the_middle_of_a_shard_are_not_its_tip_while_a_backlog_is_read() {
    let (shared, store, _serving) = serve(&["a"]).await;
    let mut stream = open(&store).await;
    shared.lock().unwrap().put("a", "1");
    poll(&mut stream).await;
    let checkpoint = stream.checkpoint();
    shared.lock().unwrap().put("a", "1");
    shared.lock().unwrap().empty_pages = 2;
    let mut stream = ChangeStream::open(&store, Some(&checkpoint), Quota::UNLIMITED)
        .await
        .unwrap();
    let polled = stream.poll().await.unwrap();
    assert_eq!(seen(&polled.changes.changes), entries(&[("1", "1")]));
    assert!(polled.is_at_tip);
}

#[tokio::test]
async fn a_throttled_shard_stops_only_itself_and_goes_on_where_it_was() {
    let (shared, store, _serving) = serve(&["a", "b"]).await;
    let mut stream = open(&store).await;
    for event in ["1", "2"] {
        shared.lock().unwrap().put("a", event);
        shared.lock().unwrap().put("b", &format!("{event}b"));
    }
    shared.lock().unwrap().throttled = Some("a".to_owned());
    let polled = stream.poll().await.unwrap();
    assert_eq!(
        seen(&polled.changes.changes),
        entries(&[("1b", "1"), ("2b", "3")])
    );
    assert!(polled.is_hindered && !polled.is_at_tip);
    let told = stream.poll().await;
    let is_throttled = matches!(told, Err(PollError::Store(Error::Throttled(_))));
    assert!(is_throttled, "{told:?}");
    shared.lock().unwrap().throttled = None;
    assert_eq!(poll(&mut stream).await, entries(&[("1", "0"), ("2", "2")]));
}

#[tokio::test]
async fn thousands_of_shards_are_read_in_the_order_of_their_lineage() {
    let (shared, store, _serving) = serve(&["0000"]).await;
    let mut stream = open(&store).await;
    {
        let mut shared = shared.lock().unwrap();
        shared.shards_a_page = 100;
        shared.put("0000", "1");
        for generation in 1..2_000 {
            let (parent, child) = (format!("{:04}", generation - 1), format!("{generation:04}"));
            shared.split(&parent, &[&child]);
            shared.put(&child, "1");
        }
    }
    let mut found = Vec::new();
    while found.last() != Some(&("1".to_owned(), "1999".to_owned())) {
        found.extend(poll(&mut stream).await);
    }
    assert!(found.is_sorted_by_key(|(_, record)| record.parse::<usize>().unwrap()));
}

#[tokio::test]
async fn a_checkpoint_whose_shard_is_gone_unread_is_not_resumed() {
    let (shared, store, _serving) = serve(&["a", "b"]).await;
    let mut stream = open(&store).await;
    shared.lock().unwrap().put("a", "1");
    poll(&mut stream).await;
    shared.lock().unwrap().shards.remove("a");
    let checkpoint = stream.checkpoint();
    let stream = ChangeStream::open(&store, Some(&checkpoint), Quota::UNLIMITED)
        .await
        .unwrap();
    assert!(!stream.resumed());
}
