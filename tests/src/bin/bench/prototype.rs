//! The prototype's way of a change, as a loop of our own: one session after another, and a new client
//! for each call. It is kinder than the original: no TLS, no signatures, no Lambda around it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use axum::{Json, Router, routing::post};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

/// What a recommendation takes on the service's side.
const RECOMMENDATION: Duration = Duration::from_millis(20);

/// What a post to a connection takes on the service's side.
const POST: Duration = Duration::from_millis(5);

/// Items of a ranking, as in the demo.
const ITEMS: usize = 40;

/// The two services that the prototype calls, in this process.
#[derive(Debug)]
pub(crate) struct Prototype {
    address: SocketAddr,
    types: Vec<String>,
    _serving: AbortOnDropHandle<std::io::Result<()>>,
}

impl Prototype {
    /// Starts the two services on a free port.
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/recommendations", post(recommend))
            .route("/connections", post(accept));
        let serving = tokio_util::task::TaskTracker::new()
            .spawn(async move { axum::serve(listener, router).await });
        Ok(Self {
            address,
            types: (0..ITEMS)
                .map(|item| format!("type-{}", item % 5))
                .collect(),
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// How long one change takes to the last of so many sessions.
    pub(crate) async fn change(&self, sessions: usize) -> Result<Duration> {
        let start = Instant::now();
        for session in 0..sessions {
            let question = json!({"userId": format!("fan-{session}"), "numResults": ITEMS});
            let ranking = call(self.address, "/recommendations", &question).await?;
            let message = self.moderate(&serde_json::from_str(&ranking)?);
            call(self.address, "/connections", &json!(message)).await?;
        }
        Ok(start.elapsed())
    }

    /// The best item of each type.
    fn moderate(&self, ranking: &Value) -> BTreeMap<&str, u64> {
        let mut message = BTreeMap::new();
        let items = ranking["itemList"].as_array().into_iter().flatten();
        for item in items.filter_map(Value::as_u64) {
            let item_type = usize::try_from(item).ok().and_then(|at| self.types.get(at));
            if let Some(item_type) = item_type {
                message.entry(item_type.as_str()).or_insert(item);
            }
        }
        message
    }
}

async fn recommend() -> Json<Value> {
    tokio::time::sleep(RECOMMENDATION).await;
    Json(json!({"itemList": (0..ITEMS).collect::<Vec<_>>()}))
}

async fn accept() {
    tokio::time::sleep(POST).await;
}

/// One request on a connection of its own; gives the answer's body.
async fn call(address: SocketAddr, path: &str, body: &Value) -> Result<String> {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = TcpStream::connect(address).await?;
    connection.set_nodelay(true)?;
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("half an answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "answered by {head}");
    Ok(body.to_owned())
}
