//! A stand-in for Amazon Personalize's runtime: speaks `GetRecommendations` as the service does
//! (REST-JSON over HTTP), to any AWS SDK, with delays, throttling and failures that a test or an
//! operator switches while it runs.
//!
//! It learns nothing and knows nothing of Touchline: what it answers is a pure function of the
//! consumer and the context, and signatures are looked at but not verified.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use anyhow::Context as _;
use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, DefaultBodyLimit, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub use behaviour::{Behaviour, Budget, Fault, Latency};
pub use calls::Call;

mod behaviour;
mod calls;
mod control;
mod line;
mod protocol;
mod ranking;

/// The campaign that a stand-in answers for unless told otherwise.
pub const CAMPAIGN_ARN: &str = "arn:aws:personalize:us-east-1:000000000000:campaign/touchline";

/// Requests larger than this are refused: the largest valid one has 150 context entries of at most
/// 150 + 1,000 characters, four bytes each.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// A running stand-in; dropping it ends it.
#[derive(Debug)]
pub struct StandIn {
    address: SocketAddr,
    service: Arc<Service>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl StandIn {
    /// Binds `listen` (port 0: a free one) and answers from then on.
    pub async fn start(listen: SocketAddr, behaviour: Behaviour) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr()?;
        let service = Arc::new(Service::new(behaviour));
        let router = Router::new()
            .route("/recommendations", post(get_recommendations))
            .route(
                "/stand-in/behaviour",
                get(control::behaviour).patch(control::change),
            )
            .route(
                "/stand-in/calls",
                get(control::calls).delete(control::forget),
            )
            .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
            .with_state(service.clone())
            .into_make_service_with_connect_info::<line::Cut>();
        let shutdown = service.shutdown.clone();
        let serve = axum::serve(line::Lines::new(listener), router)
            .with_graceful_shutdown(async move { shutdown.cancelled().await });
        let serving = tokio_util::task::TaskTracker::new().spawn(async move { serve.await });
        Ok(Self {
            address,
            service,
            serving,
        })
    }

    /// A stand-in that answers at once and never fails, on a free port.
    pub async fn start_well_behaved() -> anyhow::Result<Self> {
        Self::start(([127, 0, 0, 1], 0).into(), Behaviour::default()).await
    }

    /// Where an SDK finds it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes how it behaves from the next request on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        let mut conduct = self.service.conduct();
        let mut behaviour = conduct.behaviour().clone();
        change(&mut behaviour);
        conduct.replace(behaviour, Instant::now());
    }

    /// How often each call came in since the start or the last `forget_calls`, whatever became
    /// of it.
    pub fn calls(&self) -> Vec<(Call, u64)> {
        self.service.calls().counts()
    }

    /// How many calls came in, whatever became of them.
    pub fn calls_total(&self) -> u64 {
        self.service.calls().total()
    }

    /// How many calls came in for one consumer.
    pub fn calls_for(&self, consumer_id: &str) -> u64 {
        self.service.calls().total_for(consumer_id)
    }

    /// The most calls that were under way at one moment.
    pub fn calls_at_once_max(&self) -> u64 {
        self.service.calls().at_once_max()
    }

    /// Starts counting anew.
    pub fn forget_calls(&self) {
        self.service.calls().forget();
    }

    /// The items that it ranks for a consumer in a context, best first.
    pub fn ranking_of(&self, consumer_id: &str, context: &[(&str, &str)]) -> Vec<String> {
        let items = self.service.conduct().behaviour().items.clone();
        let context = context
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        ranking::rank(&items, consumer_id, &context)
            .into_iter()
            .map(|(item_id, _)| item_id)
            .collect()
    }

    /// Ends it and waits until its last connection is closed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.service.shutdown.cancel();
        (&mut self.serving).await??;
        Ok(())
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.service.shutdown.cancel();
        self.serving.abort();
    }
}

/// What the handlers share.
#[derive(Debug)]
struct Service {
    conduct: Mutex<behaviour::Conduct>,
    calls: Mutex<calls::Calls>,
    shutdown: CancellationToken,
}

impl Service {
    fn new(behaviour: Behaviour) -> Self {
        Self {
            conduct: Mutex::new(behaviour::Conduct::new(behaviour, Instant::now())),
            calls: Mutex::default(),
            shutdown: CancellationToken::new(),
        }
    }

    fn conduct(&self) -> MutexGuard<'_, behaviour::Conduct> {
        self.conduct.lock().expect("no holder of this lock panics")
    }

    fn calls(&self) -> MutexGuard<'_, calls::Calls> {
        self.calls.lock().expect("no holder of this lock panics")
    }
}

/// Counts a call as under way until it is dropped, also when the client has gone away.
struct UnderWay(Arc<Service>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.calls().left();
    }
}

async fn get_recommendations(
    State(service): State<Arc<Service>>,
    ConnectInfo(line): ConnectInfo<line::Cut>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = match protocol::read(&headers, &body) {
        Ok(request) => request,
        Err(refusal) => return refusal.into_response(),
    };
    let number = service.calls().entered(&request);
    let _under_way = UnderWay(service.clone());
    let verdict = service.conduct().decide(&request, Instant::now());
    tokio::select! {
        () = tokio::time::sleep(verdict.delay) => {}
        () = service.shutdown.cancelled() => {}
    }
    match verdict.fault {
        Some(Fault::Throttle) => protocol::Refusal::throttled().into_response(),
        Some(Fault::Error) => protocol::Refusal::internal_failure().into_response(),
        Some(Fault::Garbage) => "<html>this is not JSON".into_response(),
        Some(Fault::Reset) => {
            line.cut();
            ().into_response()
        }
        Some(Fault::Hang) => {
            service.shutdown.cancelled().await;
            protocol::Refusal::internal_failure().into_response()
        }
        None => answer(&service, &request, number),
    }
}

fn answer(service: &Service, request: &Call, number: u64) -> Response {
    let conduct = service.conduct();
    match protocol::check(request, conduct.behaviour()) {
        Ok(()) => {
            let ranked = ranking::rank(
                &conduct.behaviour().items,
                &request.consumer_id,
                &request.context,
            );
            protocol::answer(&ranked[..request.num_results.min(ranked.len())], number)
        }
        Err(refusal) => refusal.into_response(),
    }
}
