//! What the endpoint answers: the engine's own words, and what the faults make of them. Sets no fault.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::sync::{Mutex as AsyncMutex, watch};

use super::stream::Stream;

/// The event table.
pub(super) const EVENTS: &str = "rt_personalize_event_manager";
/// The session table.
const SESSIONS: &str = "rt_personalize_user_session_store";
/// The lease table.
const LEASES: &str = "touchline_push_lease";
/// Longest answer of the engine.
const ANSWER_MAX: usize = 64 << 20;

/// Writes whose answers can be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Write {
    Lease,
    Checkpoint,
}

/// How an answer is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The connection is cut.
    Cut,
    /// Nothing comes any more.
    Silence,
}

/// What the endpoint and its answers share.
pub(super) struct Shared {
    engine: SocketAddr,
    client: Client<HttpConnector, Body>,
    streams: AsyncMutex<Streams>,
    faults: Mutex<Faults>,
    /// Calls to the stream wait while this says so; who waits subscribes to it.
    pub(super) held: watch::Sender<bool>,
    /// Checkpoints do.
    pub(super) checkpoints_held: watch::Sender<bool>,
}

/// The table's streams.
#[derive(Default)]
pub(super) struct Streams {
    pub(super) newest: Option<Stream>,
    /// Those that were disabled.
    old: Vec<Stream>,
    /// Where the engine's stream is read on.
    engine_iterator: Option<String>,
    /// Sequence number of the newest record that the engine gave.
    read: u128,
}

/// What goes wrong.
#[derive(Default)]
pub(super) struct Faults {
    /// The exception that every call to the stream meets.
    pub(super) refusal: Option<&'static str>,
    /// Whether a stream that was disabled can be read on, as on AWS for a day.
    pub(super) old_streams_answer: bool,
    /// Calls to the stream that met an exception, by its name.
    pub(super) refused: HashMap<&'static str, usize>,
    /// Answers to lose, and those that were lost.
    pub(super) losing: HashMap<Write, (usize, Loss)>,
    pub(super) lost: HashMap<Write, usize>,
    /// Sessions that are not in the audience index yet, while it lags.
    pub(super) unindexed: Option<HashSet<String>>,
}

pub(super) async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, ANSWER_MAX).await.unwrap();
    let target = parts.headers["x-amz-target"].to_str().unwrap().to_owned();
    let json: Value = serde_json::from_slice(&body).unwrap();
    match target.split_once('.').unwrap() {
        ("DynamoDBStreams_20120810", operation) => shared.stream(operation, &json).await,
        (_, operation) => {
            if operation == "TransactWriteItems" {
                let mut held = shared.checkpoints_held.subscribe();
                assert!(held.wait_for(|held| !held).await.is_ok());
            }
            if operation == "UpdateItem" && json["TableName"] == SESSIONS {
                shared.register(&json);
            }
            let (status, answer) = shared.pass_on(parts.headers, body).await;
            match shared.loses(operation, &json) {
                None => (status, shared.index_lagging(&json, answer)).into_response(),
                Some(Loss::Silence) => std::future::pending().await,
                Some(Loss::Cut) => {
                    // A body that breaks off cuts the connection.
                    let broken = futures::stream::iter([Err::<Bytes, _>("cut")]);
                    Body::from_stream(broken).into_response()
                }
            }
        }
    }
}

impl Shared {
    pub(super) fn new(engine: SocketAddr) -> Self {
        Self {
            engine,
            client: Client::builder(TokioExecutor::new()).build_http(),
            streams: AsyncMutex::default(),
            faults: Mutex::default(),
            held: watch::Sender::new(false),
            checkpoints_held: watch::Sender::new(false),
        }
    }

    async fn stream(&self, operation: &str, request: &Value) -> Response {
        let waited = self.held.subscribe().wait_for(|held| !held).await.is_ok();
        assert!(waited, "the endpoint outlives its calls");
        let refusal = self.faults().refusal;
        let answered = match refusal {
            Some(exception) => Err(exception),
            None => {
                let arn = match request["StreamArn"].as_str() {
                    Some(arn) => arn,
                    None => {
                        let iterator = request["ShardIterator"].as_str().unwrap();
                        iterator.split_once('|').unwrap().0
                    }
                };
                let mut streams = self.filled().await;
                let old_streams_answer = self.faults().old_streams_answer;
                match streams.find(arn, old_streams_answer) {
                    Some(stream) => stream.answer(operation, request),
                    None => Err("ResourceNotFoundException"),
                }
            }
        };
        match answered {
            Ok(answer) => answer.to_string().into_response(),
            Err(exception) => {
                *self.faults().refused.entry(exception).or_default() += 1;
                let kind = format!("com.amazonaws.dynamodb.v20120810#{exception}");
                let answer = json!({ "__type": kind }).to_string();
                (StatusCode::BAD_REQUEST, answer).into_response()
            }
        }
    }

    /// The streams, with everything in them that the engine has.
    pub(super) async fn filled(&self) -> tokio::sync::MutexGuard<'_, Streams> {
        let mut streams = self.streams.lock().await;
        let table = self
            .call("DescribeTable", &json!({ "TableName": EVENTS }))
            .await;
        let is_enabled = table["Table"]["StreamSpecification"]["StreamEnabled"] == true;
        let arn = table["Table"]["LatestStreamArn"].as_str();
        let arn = arn.filter(|_| is_enabled);
        if streams.newest.as_ref().map(|stream| stream.arn.as_str()) != arn {
            streams.replace(arn);
        }
        let Some(arn) = arn else {
            return streams;
        };
        let mut iterator = match streams.engine_iterator.take() {
            Some(iterator) => iterator,
            None => self.engine_iterator(arn).await,
        };
        loop {
            let request = json!({ "ShardIterator": iterator });
            let mut page = self.call("GetRecords", &request).await;
            if let Some(next) = page["NextShardIterator"].as_str() {
                iterator = next.to_owned();
            }
            let Some(records) = page["Records"]
                .as_array_mut()
                .filter(|page| !page.is_empty())
            else {
                break;
            };
            for record in std::mem::take(records) {
                streams.record(record);
            }
        }
        streams.engine_iterator = Some(iterator);
        streams
    }

    async fn engine_iterator(&self, arn: &str) -> String {
        let listed = self
            .call("DescribeStream", &json!({ "StreamArn": arn }))
            .await;
        let shard = &listed["StreamDescription"]["Shards"][0]["ShardId"];
        let request = json!({
            "StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON",
        });
        let given = self.call("GetShardIterator", &request).await;
        given["ShardIterator"].as_str().unwrap().to_owned()
    }

    /// Asks the engine for itself.
    pub(super) async fn call(&self, operation: &str, request: &Value) -> Value {
        let of_stream = ["DescribeStream", "GetShardIterator", "GetRecords"];
        let api = match of_stream.contains(&operation) {
            true => "DynamoDBStreams_20120810",
            false => "DynamoDB_20120810",
        };
        let mut headers = HeaderMap::new();
        let target = format!("{api}.{operation}").parse().unwrap();
        headers.insert("x-amz-target", target);
        let json = "application/x-amz-json-1.0".parse().unwrap();
        headers.insert("content-type", json);
        let signature = "AWS4-HMAC-SHA256 Credential=test/20200101/us-east-1/dynamodb/aws4_request, \
                         SignedHeaders=host, Signature=0";
        headers.insert("authorization", signature.parse().unwrap());
        headers.insert("x-amz-date", "20200101T000000Z".parse().unwrap());
        let (_, answer) = self.pass_on(headers, request.to_string().into()).await;
        serde_json::from_slice(&answer).unwrap_or_default()
    }

    async fn pass_on(&self, mut headers: HeaderMap, body: Bytes) -> (StatusCode, Bytes) {
        headers.remove("host");
        let mut request = Request::post(format!("http://{}/", self.engine));
        *request.headers_mut().unwrap() = headers;
        let request = request.body(Body::from(body)).unwrap();
        let Ok(response) = self.client.request(request).await else {
            // The test is over.
            return (StatusCode::SERVICE_UNAVAILABLE, Bytes::new());
        };
        let (parts, body) = response.into_parts();
        let body = to_bytes(Body::new(body), ANSWER_MAX).await.unwrap();
        (parts.status, body)
    }

    /// Whether the answer to this write is lost, and how.
    fn loses(&self, operation: &str, request: &Value) -> Option<Loss> {
        let write = match operation {
            "PutItem" if request["TableName"] == LEASES => Write::Lease,
            "TransactWriteItems" => Write::Checkpoint,
            _ => return None,
        };
        let mut faults = self.faults();
        let (left, loss) = faults
            .losing
            .get_mut(&write)
            .filter(|(left, _)| *left > 0)?;
        *left -= 1;
        let loss = *loss;
        *faults.lost.entry(write).or_default() += 1;
        Some(loss)
    }

    /// A session registers, which an index that lags does not show.
    fn register(&self, request: &Value) {
        if let Some(unindexed) = &mut self.faults().unindexed {
            unindexed.insert(session_id(&request["Key"]));
        }
    }

    /// What the audience index shows while it lags.
    fn index_lagging(&self, request: &Value, answer: Bytes) -> Bytes {
        let mut faults = self.faults();
        let Some(unindexed) = faults.unindexed.as_ref() else {
            return answer;
        };
        if request["IndexName"].is_null() {
            return answer;
        }
        if request["ExpressionAttributeValues"][":since"].is_object() {
            // Time has passed.
            faults.unindexed = None;
            return answer;
        }
        let mut answer: Value = serde_json::from_slice(&answer).unwrap();
        if let Some(rows) = answer["Items"].as_array_mut() {
            rows.retain(|row| !unindexed.contains(&session_id(row)));
            answer["Count"] = json!(rows.len());
        }
        answer.to_string().into()
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap()
    }
}

impl Streams {
    fn find(&mut self, arn: &str, old_streams_answer: bool) -> Option<&mut Stream> {
        let old = self.old.iter_mut().filter(|_| old_streams_answer);
        let mut streams = self.newest.iter_mut().chain(old);
        streams.find(|stream| stream.arn == arn)
    }

    /// The table has another stream now, or none.
    fn replace(&mut self, arn: Option<&str>) {
        if let Some(mut disabled) = self.newest.take() {
            disabled.close();
            self.old.push(disabled);
        }
        self.newest = arn.map(|arn| Stream::new(arn, self.read));
        self.engine_iterator = None;
    }

    fn record(&mut self, record: Value) {
        let stream = self
            .newest
            .as_mut()
            .expect("the engine gave a record of it");
        stream.record(record);
        self.read = stream.newest;
    }
}

fn session_id(row: &Value) -> String {
    row["session_id"]["S"].as_str().unwrap().to_owned()
}
