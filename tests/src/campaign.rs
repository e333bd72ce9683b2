//! A stand-in for Amazon Personalize's control plane: `DescribeCampaign` and `UpdateCampaign` of one
//! campaign (AWS JSON 1.1 over HTTP), to any AWS SDK. Updates last as many looks as a test says.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::task::TaskTracker;

use crate::personalize::CAMPAIGN_ARN;

/// One call, as it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `DescribeCampaign`.
    Describe,
    /// `UpdateCampaign` to this `minProvisionedTPS`.
    Update(i64),
}

/// The campaign, and how it takes updates.
#[derive(Debug, Clone)]
pub struct Conduct {
    /// `minProvisionedTPS` as it is in force.
    pub tps: i64,
    /// `status` of the campaign.
    pub status: &'static str,
    /// Looks for which an update is in progress.
    pub looks: u32,
    /// Why updates fail; `None`: they do not.
    pub failure: Option<&'static str>,
    /// Names of errors that the next calls of `UpdateCampaign` are answered with.
    pub refusals: VecDeque<&'static str>,
    update: Option<Update>,
    calls: Vec<Call>,
}

#[derive(Debug, Clone)]
struct Update {
    tps: i64,
    looks_left: u32,
    number: usize,
    is_failed: bool,
}

impl Conduct {
    /// An update that somebody else has begun, of this many looks.
    pub fn somebody_updates(&mut self, tps: i64, looks: u32) {
        self.begin(tps);
        if let Some(update) = &mut self.update {
            update.looks_left = looks;
        }
    }

    fn begin(&mut self, tps: i64) {
        let number = self.update.as_ref().map_or(1, |update| update.number + 1);
        self.update = Some(Update {
            tps,
            looks_left: self.looks,
            number,
            is_failed: false,
        });
    }

    fn describe(&mut self) -> Value {
        let failure = self.failure;
        let update = self.update.as_mut().map(|update| {
            let status = match (update.looks_left, failure) {
                (0, None) if !update.is_failed => {
                    self.tps = update.tps;
                    "ACTIVE"
                }
                (0, _) => {
                    update.is_failed = true;
                    "CREATE FAILED"
                }
                _ => "CREATE IN_PROGRESS",
            };
            update.looks_left = update.looks_left.saturating_sub(1);
            json!({
                "minProvisionedTPS": update.tps,
                "status": status,
                "failureReason": failure.filter(|_| update.is_failed),
                "creationDateTime": 1_700_000_000 + update.number,
            })
        });
        json!({ "campaign": {
            "campaignArn": CAMPAIGN_ARN,
            "minProvisionedTPS": self.tps,
            "status": self.status,
            "latestCampaignUpdate": update,
        }})
    }

    fn is_updating(&self) -> bool {
        let update = self.update.as_ref();
        update.is_some_and(|update| update.looks_left > 0)
    }
}

/// A running stand-in; dropping it ends it.
#[derive(Debug)]
pub struct CampaignStandIn {
    address: SocketAddr,
    conduct: Arc<Mutex<Conduct>>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl CampaignStandIn {
    /// A campaign whose `minProvisionedTPS` is this, on a free port; updates last one look.
    pub async fn start(tps: i64) -> anyhow::Result<Self> {
        let conduct = Arc::new(Mutex::new(Conduct {
            tps,
            status: "ACTIVE",
            looks: 1,
            failure: None,
            refusals: VecDeque::new(),
            update: None,
            calls: Vec::new(),
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/", post(answer))
            .with_state(conduct.clone());
        let serve = axum::serve(listener, router);
        Ok(Self {
            address,
            conduct,
            serving: TaskTracker::new().spawn(async move { serve.await }),
        })
    }

    /// Where an SDK finds it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes the campaign or how it takes updates.
    pub fn behave(&self, change: impl FnOnce(&mut Conduct)) {
        change(&mut lock(&self.conduct));
    }

    /// What came in, in order.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.conduct).calls.clone()
    }

    /// `minProvisionedTPS` as it is in force.
    pub fn tps(&self) -> i64 {
        lock(&self.conduct).tps
    }
}

impl Drop for CampaignStandIn {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn lock(conduct: &Mutex<Conduct>) -> MutexGuard<'_, Conduct> {
    conduct.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(
    State(conduct): State<Arc<Mutex<Conduct>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let signed = header(AUTHORIZATION.as_str()).unwrap_or_default();
    if !signed.contains("/personalize/aws4_request") {
        return refusal("MissingAuthenticationTokenException", "not signed");
    }
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return refusal("SerializationException", "the body is no JSON");
    };
    let mut conduct = lock(&conduct);
    let target = header("x-amz-target").unwrap_or_default();
    let is_known = body["campaignArn"] == CAMPAIGN_ARN;
    match target {
        "AmazonPersonalize.DescribeCampaign" => {
            conduct.calls.push(Call::Describe);
            match is_known {
                true => json_1_1(StatusCode::OK, conduct.describe()),
                false => refusal("ResourceNotFoundException", "no such campaign"),
            }
        }
        "AmazonPersonalize.UpdateCampaign" => {
            let tps = body["minProvisionedTPS"].as_i64().unwrap_or_default();
            conduct.calls.push(Call::Update(tps));
            if let Some(name) = conduct.refusals.pop_front() {
                return refusal(name, "as the test says");
            }
            if !is_known {
                return refusal("ResourceNotFoundException", "no such campaign");
            }
            if conduct.is_updating() {
                return refusal("ResourceInUseException", "an update is in progress");
            }
            conduct.begin(tps);
            json_1_1(StatusCode::OK, json!({ "campaignArn": CAMPAIGN_ARN }))
        }
        _ => refusal("UnknownOperationException", "not this operation"),
    }
}

fn refusal(name: &str, message: &str) -> Response {
    let body = json!({ "__type": name, "message": message });
    json_1_1(StatusCode::BAD_REQUEST, body)
}

fn json_1_1(status: StatusCode, body: Value) -> Response {
    let headers = [("content-type", "application/x-amz-json-1.1")];
    (status, headers, Json(body)).into_response()
}
