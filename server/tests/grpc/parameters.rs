//! The prototype's parameters, read by the real binary at its start and while it runs.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{Arc, Mutex},
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStderr, Command},
    task::JoinSet,
};
use tonic::transport::Channel;
use touchline_proto::v1::{
    ComponentSet, Freshness, component_service_client::ComponentServiceClient,
};

use crate::{
    harness::{Tables, by_context, soon, until},
    standin::{Answer, Standin},
};

/// Systems Manager with these parameters.
struct SystemsManager {
    endpoint: String,
    shared: Arc<Mutex<Shared>>,
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    /// `None`: it fails.
    values: Option<HashMap<&'static str, String>>,
    readings: usize,
}

async fn answer(
    State(shared): State<Arc<Mutex<Shared>>>,
    body: String,
) -> Result<Json<Value>, StatusCode> {
    let asked: Value = serde_json::from_str(&body).unwrap();
    let mut shared = shared.lock().unwrap();
    shared.readings += 1;
    let Some(values) = &shared.values else {
        return Err(StatusCode::BAD_REQUEST);
    };
    let names = asked["Names"].as_array().unwrap().iter();
    let found = names.filter_map(|name| {
        let value = values.get(name.as_str()?.strip_prefix("/mine")?)?;
        Some(json!({"Name": name, "Type": "String", "Value": value}))
    });
    let found: Vec<_> = found.collect();
    Ok(Json(json!({"Parameters": found, "InvalidParameters": []})))
}

impl SystemsManager {
    async fn start(values: &[(&'static str, &str)]) -> Self {
        let shared: Arc<Mutex<Shared>> = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/", post(answer))
            .with_state(shared.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let manager = Self {
            endpoint,
            shared,
            _serving: serving,
        };
        manager.say(values);
        manager
    }

    /// The parameters are these from now on.
    fn say(&self, values: &[(&'static str, &str)]) {
        let values = values
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        self.shared.lock().unwrap().values = Some(values.collect());
    }

    fn fail(&self) {
        self.shared.lock().unwrap().values = None;
    }

    /// Waits until what stands now was read and dealt with: the reading after the next one begins.
    async fn read_again(&self) {
        let readings = || self.shared.lock().unwrap().readings;
        let before = readings();
        until(|| async { readings() >= before + 2 }).await;
    }
}

/// The binary, and its log.
struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Process {
    fn start(manager: &SystemsManager, flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_touchline-server"))
            .env_clear()
            .args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"])
            .args(["--recommender", "personalize", "--log-format", "json"])
            .args([
                "--ssm-prefix",
                "/mine/",
                "--ssm-endpoint",
                &manager.endpoint,
            ])
            .args(flags)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines }
    }

    /// What it says until it listens or ends, and how it ended.
    async fn said(mut self) -> (Option<i32>, String) {
        soon(async {
            let mut said = String::new();
            while let Some(line) = self.lines.next_line().await.unwrap() {
                said.push_str(&line);
                if line.contains("gRPC listens") {
                    return (None, said);
                }
            }
            (self.child.wait().await.unwrap().code(), said)
        })
        .await
    }
}

/// What a server says that is started with these parameters and flags.
async fn said(values: &[(&'static str, &str)], flags: &[&str]) -> (Option<i32>, String) {
    let manager = SystemsManager::start(values).await;
    let nowhere = ["--dynamodb-endpoint", "http://127.0.0.1:1"];
    let flags = [&nowhere[..], flags].concat();
    Process::start(&manager, &flags).said().await
}

const ARN: &str = "/aws_personalize/campaign_arn";
const NUM_RESULTS: &str = "/aws_personalize/num_results";
const REGION: &str = "/aws_personalize/region";

const FANS: &str = "arn:aws:personalize:eu-west-1:123456789012:campaign/fans";
const ULTRAS: &str = "arn:aws:personalize:us-east-1:123456789012:campaign/ultras";

#[tokio::test]
async fn a_campaign_comes_from_its_parameter_and_a_missing_one_is_an_error_only_if_needed() {
    let (code, said) = self::said(&[(ARN, FANS)], &[]).await;
    assert_eq!(code, None, "{said}");
    for missing in [vec![], vec![(ARN, "none")]] {
        let (code, said) = self::said(&missing, &[]).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("--campaign-arn"), "{said}");
        let (code, said) = self::said(&missing, &["--campaign-arn", FANS]).await;
        assert_eq!(code, None, "{said}");
    }
}

#[tokio::test]
async fn parameters_that_cannot_be_read_are_an_error_only_if_one_is_needed() {
    let manager = SystemsManager::start(&[]).await;
    manager.fail();
    let nowhere = ["--dynamodb-endpoint", "http://127.0.0.1:1"];
    let (code, said) = Process::start(&manager, &nowhere).said().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the parameters cannot be read"), "{said}");
    let flags = [&nowhere[..], &["--campaign-arn", FANS]].concat();
    let (code, said) = Process::start(&manager, &flags).said().await;
    assert_eq!(code, None, "{said}");
}

#[tokio::test]
async fn num_results_come_from_their_parameter_unless_a_flag_says_otherwise() {
    let values = [(ARN, FANS), (NUM_RESULTS, "many")];
    let (code, said) = self::said(&values, &[]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("num_results many"), "{said}");
    let (code, said) = self::said(&values, &["--num-results", "25"]).await;
    assert_eq!(code, None, "{said}");
}

/// A process that serves, with the parameters and the Personalize that it asks.
struct Serving {
    manager: SystemsManager,
    personalize: Standin,
    client: ComponentServiceClient<Channel>,
    _process: Process,
    _tables: Tables,
}

impl Serving {
    /// Each campaign shows another player.
    async fn start(values: &[(&'static str, &str)], flags: &[&str]) -> Self {
        let manager = SystemsManager::start(values).await;
        let personalize = Standin::start(|question| match question["campaignArn"].as_str() {
            Some(FANS) => Answer::Items(&["a1"]),
            Some(ULTRAS) => Answer::Items(&["a2"]),
            other => panic!("{other:?} is no campaign"),
        });
        let (personalize, tables) = (personalize.await, Tables::start().await);
        let dynamodb = format!("http://{}", tables.embedded.address());
        let endpoint = format!("http://{}", personalize.address);
        let always = [
            ["--dynamodb-endpoint", &dynamodb],
            ["--personalize-endpoint", &endpoint],
            ["--ssm-refresh", "20ms"],
            ["--patience", "20s"],
            ["--personalize-timeout", "20s"],
            ["--ranking-ttl", "1h"],
        ];
        let mut process = Process::start(&manager, &[&always.concat()[..], flags].concat());
        let mut address = None;
        soon(async {
            while let Some(line) = process.lines.next_line().await.unwrap() {
                let line: Value = serde_json::from_str(&line).unwrap();
                let fields = &line["fields"];
                match fields["message"].as_str() {
                    Some("gRPC listens") => address = fields["address"].as_str().map(str::to_owned),
                    Some("ready") => return,
                    _ => {}
                }
            }
            panic!("it ended");
        })
        .await;
        let url = format!("http://{}", address.unwrap());
        Self {
            manager,
            personalize,
            client: ComponentServiceClient::new(Channel::from_shared(url).unwrap().connect_lazy()),
            _process: process,
            _tables: tables,
        }
    }

    async fn set(&self, consumer: &str) -> ComponentSet {
        let asked = by_context(consumer, &[("MATCH_EVENT", "GOAL")]);
        let answer = soon(self.client.clone().get_components(asked)).await;
        answer.unwrap().into_inner().component_set.unwrap()
    }

    /// What a consumer is shown, and how fresh it is.
    async fn shown(&self, consumer: &str) -> (String, Freshness) {
        let set = self.set(consumer).await;
        (set.components[0].item_id.clone(), set.freshness())
    }

    /// How many results the last question was for.
    fn num_results(&self) -> Value {
        let asked = self.personalize.asked.lock().unwrap();
        asked.last().unwrap()["numResults"].clone()
    }
}

#[tokio::test]
async fn a_changed_campaign_takes_effect_without_a_restart_and_what_was_cached_is_out_of_date() {
    let serving = Serving::start(&[(ARN, FANS), (NUM_RESULTS, "7")], &[]).await;
    assert_eq!(
        serving.shown("ann").await,
        ("a1".to_owned(), Freshness::Live)
    );
    assert_eq!(
        serving.shown("ann").await,
        ("a1".to_owned(), Freshness::Cached)
    );
    assert_eq!(serving.num_results(), 7);
    assert_eq!(serving.personalize.region(), "eu-west-1");

    // The same number of results, so that it is the same question to another campaign.
    serving.manager.say(&[(ARN, ULTRAS), (NUM_RESULTS, "7")]);
    serving.manager.read_again().await;
    assert_eq!(
        serving.shown("bob").await,
        ("a2".to_owned(), Freshness::Live)
    );
    assert_eq!(
        serving.personalize.region(),
        "us-east-1",
        "its ARN names it"
    );
    // The former campaign's ranking is not passed off as this one's, and is soon replaced.
    let questions = serving.personalize.questions();
    assert_eq!(
        serving.shown("ann").await,
        ("a1".to_owned(), Freshness::Stale)
    );
    until(|| async { serving.shown("ann").await == ("a2".to_owned(), Freshness::Cached) }).await;
    assert_eq!(serving.personalize.questions(), questions + 1);

    // And back: a ranking that was given before is not taken for one of today.
    serving
        .manager
        .say(&[(ARN, FANS), (NUM_RESULTS, "9"), (REGION, "eu-central-1")]);
    serving.manager.read_again().await;
    assert_eq!(
        serving.shown("ann").await,
        ("a1".to_owned(), Freshness::Live)
    );
    assert_eq!(serving.num_results(), 9);
    assert_eq!(serving.personalize.region(), "eu-central-1");
}

#[tokio::test]
async fn what_cannot_be_read_or_used_changes_nothing() {
    let good = [(ARN, FANS), (NUM_RESULTS, "7")];
    let serving = Serving::start(&good, &[]).await;
    serving.manager.fail();
    serving.manager.read_again().await;
    assert_eq!(
        serving.shown("ann").await,
        ("a1".to_owned(), Freshness::Live)
    );
    for bad in [
        &[(ARN, "none")][..],
        &[(NUM_RESULTS, "7")],
        &[(ARN, "arn:aws:s3:::x")],
        &[(ARN, ULTRAS), (NUM_RESULTS, "many")],
    ] {
        serving.manager.say(bad);
        serving.manager.read_again().await;
        assert_eq!(
            serving.shown("ann").await,
            ("a1".to_owned(), Freshness::Cached),
            "{bad:?}"
        );
    }
    // A number that is missing is the flag's default.
    serving.manager.say(&[(ARN, ULTRAS)]);
    serving.manager.read_again().await;
    assert_eq!(
        serving.shown("bob").await,
        ("a2".to_owned(), Freshness::Live)
    );
    assert_eq!(serving.num_results(), 10);
}

#[tokio::test]
async fn a_flag_wins_over_a_parameter_that_changes() {
    let flags = ["--campaign-arn", FANS, "--num-results", "5"];
    let serving = Serving::start(&[(ARN, ULTRAS), (NUM_RESULTS, "7")], &flags).await;
    assert_eq!(
        serving.shown("ann").await,
        ("a1".to_owned(), Freshness::Live)
    );
    serving
        .manager
        .say(&[(ARN, ULTRAS), (NUM_RESULTS, "9"), (REGION, "us-east-1")]);
    serving.manager.read_again().await;
    assert_eq!(
        serving.shown("ann").await,
        ("a1".to_owned(), Freshness::Cached)
    );
    assert_eq!(
        serving.shown("bob").await,
        ("a1".to_owned(), Freshness::Live)
    );
    assert_eq!(serving.num_results(), 5);
    assert_eq!(serving.personalize.region(), "eu-west-1");
}
