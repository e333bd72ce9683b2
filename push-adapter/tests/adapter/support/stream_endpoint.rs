//! A DynamoDB endpoint that fails as it is told. The tables are the embedded engine's, whose answers it
//! passes on; the stream is its own, filled from the engine's and cut into shards as a test wants them.
//! Decides nothing by itself: what is not asked for never fails.

use std::{net::SocketAddr, sync::Arc};

use axum::Router;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};
use touchline_store::{embedded::Embedded, tables::Store};

use answers::{EVENTS, Shared, answer};
pub(crate) use answers::{Loss, Write};
pub(crate) use stream::Before;
use stream::Stream;

mod answers;
mod stream;

pub(crate) struct StreamEndpoint {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Both stop when dropped.
    _serving: JoinSet<()>,
    _embedded: Embedded,
}

impl StreamEndpoint {
    /// An endpoint over an engine in memory, and a store that is prepared on it.
    pub(crate) async fn start() -> (Self, Store) {
        let embedded = super::embedded().await;
        let shared = Arc::new(Shared::new(embedded.address()));
        let listener = TcpListener::bind(super::loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(shared.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let endpoint = Self {
            address,
            shared,
            _serving: serving,
            _embedded: embedded,
        };
        let store = super::store_at(&endpoint.url()).await;
        store.prepare().await.unwrap();
        (endpoint, store)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Each open shard is closed and goes on in another.
    pub(crate) async fn roll_over(&self) {
        self.change(|stream| stream.divide(1)).await;
    }

    /// Each open shard is closed and goes on in two others.
    pub(crate) async fn split(&self) {
        self.change(|stream| stream.divide(2)).await;
    }

    /// Everything that was written so far is gone from the stream.
    pub(crate) async fn trim(&self) {
        self.change(Stream::trim).await;
    }

    /// Every iterator that was given so far has expired.
    pub(crate) async fn expire_iterators(&self) {
        self.change(Stream::expire).await;
    }

    /// What comes before each page with records from now on.
    pub(crate) async fn let_come_first(&self, before: Before) {
        self.change(|stream| stream.let_come_first(before)).await;
    }

    /// Changes the stream as it is after everything that was written so far.
    async fn change(&self, change: impl FnOnce(&mut Stream)) {
        let mut streams = self.shared.filled().await;
        change(streams.newest.as_mut().unwrap());
    }

    /// Disables the stream: what is written from now on is in none.
    pub(crate) async fn disable(&self) {
        drop(self.shared.filled().await);
        let off = json!({ "StreamEnabled": false });
        let request = json!({ "TableName": EVENTS, "StreamSpecification": off });
        self.shared.call("UpdateTable", &request).await;
    }

    /// Enables it again: another stream.
    pub(crate) async fn enable(&self) {
        let on = json!({ "StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES" });
        let request = json!({ "TableName": EVENTS, "StreamSpecification": on });
        self.shared.call("UpdateTable", &request).await;
    }

    /// Whether a stream that was disabled can be read on.
    pub(crate) fn old_streams_answer(&self, answer: bool) {
        self.shared.faults().old_streams_answer = answer;
    }

    /// Deletes the event table with its stream.
    pub(crate) async fn delete_events(&self) {
        let request = json!({ "TableName": EVENTS });
        self.shared.call("DeleteTable", &request).await;
    }

    /// Every call to the stream meets this exception, or none.
    pub(crate) fn refuse(&self, exception: Option<&'static str>) {
        self.shared.faults().refusal = exception;
    }

    /// Calls to the stream that met this exception so far.
    pub(crate) fn refused(&self, exception: &str) -> usize {
        let faults = self.shared.faults();
        faults.refused.get(exception).copied().unwrap_or(0)
    }

    /// Calls to the stream wait until this is taken back.
    pub(crate) fn hold(&self, held: bool) {
        self.shared.held.send_replace(held);
    }

    /// Whether somebody waits who calls the stream.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.shared.held.receiver_count() > 0
    }

    /// Checkpoints are not carried out until this is taken back.
    pub(crate) fn hold_checkpoints(&self, held: bool) {
        self.shared.checkpoints_held.send_replace(held);
    }

    /// The next writes of this kind are carried out, and their answers lost.
    pub(crate) fn lose_answers(&self, write: Write, answers: usize, loss: Loss) {
        self.shared.faults().losing.insert(write, (answers, loss));
    }

    /// Answers that were lost so far.
    pub(crate) fn lost(&self, write: Write) -> usize {
        let faults = self.shared.faults();
        faults.lost.get(&write).copied().unwrap_or(0)
    }

    /// Who registers from now on is not in the audience index before somebody looks for those who
    /// registered late.
    pub(crate) fn let_index_lag(&self) {
        self.shared.faults().unindexed = Some([].into());
    }
}
