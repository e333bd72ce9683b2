//! A stand-in for the Personalize runtime: answers what a test tells it to. Only the shapes are
//! Personalize's.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode},
    routing::post,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// What the stand-in answers a consumer.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// These items, best first.
    Items(&'static [&'static str]),
    /// The same, after this many milliseconds.
    Late(u64, &'static [&'static str]),
    /// This very body.
    Body(Value),
    /// An error of this HTTP status and type.
    Error(u16, &'static str),
    /// Nothing for so long that nobody waits.
    Silence,
}

type Answers = dyn Fn(&Value) -> Answer + Send + Sync;

/// Every question's body so far.
type Asked = Arc<Mutex<Vec<Value>>>;
/// The region that the last question was signed for.
type Region = Arc<Mutex<String>>;

pub(crate) struct Standin {
    pub(crate) address: SocketAddr,
    pub(crate) asked: Asked,
    region: Region,
    _serving: JoinSet<()>,
}

impl Standin {
    /// Answers each question by what `answers` says to its body.
    pub(crate) async fn start(answers: impl Fn(&Value) -> Answer + Send + Sync + 'static) -> Self {
        let asked = Asked::default();
        let region = Region::default();
        let answers: Arc<Answers> = Arc::new(answers);
        let state = (answers, asked.clone(), region.clone());
        let router = Router::new()
            .route("/recommendations", post(recommend))
            .with_state(state);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self {
            address,
            asked,
            region,
            _serving: serving,
        }
    }

    /// Answers everybody the same items.
    pub(crate) async fn with_items(items: &'static [&'static str]) -> Self {
        Self::start(move |_| Answer::Items(items)).await
    }

    pub(crate) fn region(&self) -> String {
        self.region.lock().unwrap().clone()
    }

    pub(crate) fn questions(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

async fn recommend(
    State((answers, asked, region)): State<(Arc<Answers>, Asked, Region)>,
    signed: HeaderMap,
    Json(question): Json<Value>,
) -> (StatusCode, HeaderMap, Json<Value>) {
    asked.lock().unwrap().push(question.clone());
    // AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, …
    let signature = signed.get("authorization");
    let signature = signature
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    *region.lock().unwrap() = signature.split('/').nth(2).unwrap_or_default().to_owned();
    let mut headers = HeaderMap::new();
    let mut answer = answers(&question);
    if let Answer::Late(ms, items) = answer {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        answer = Answer::Items(items);
    }
    match answer {
        Answer::Late(..) => unreachable!("it is in time by now"),
        Answer::Items(items) => {
            let items: Vec<_> = items
                .iter()
                .enumerate()
                .map(|(index, item)| json!({"itemId": item, "score": 0.5 / (index + 1) as f64}))
                .collect();
            let body = json!({"itemList": items, "recommendationId": "RID-1"});
            (StatusCode::OK, headers, Json(body))
        }
        Answer::Body(body) => (StatusCode::OK, headers, Json(body)),
        Answer::Error(status, kind) => {
            headers.insert("x-amzn-errortype", HeaderValue::from_static(kind));
            let body = json!({"message": "10.0.0.7 says no"});
            (StatusCode::from_u16(status).unwrap(), headers, Json(body))
        }
        Answer::Silence => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            (StatusCode::OK, headers, Json(json!({})))
        }
    }
}
