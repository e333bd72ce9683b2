//! The server with `--recommender personalize`, against the stand-in over the real SDK: what is
//! asked, how often, and what a caller sees when Personalize fails.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use futures::{TryStreamExt, future::join_all};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;
use touchline_proto::v1::{
    BatchGetComponentsRequest, BatchGetComponentsResponse, ComponentSet, EventState, Freshness,
    GetComponentsRequest, Origin, component_service_client::ComponentServiceClient,
    consumer_answer::Answer, get_components_request::Situation,
};
use touchline_server::{ServerArgs, config::RecommenderKind};
use touchline_store::{
    aws::AwsArgs,
    embedded::{Embedded, Place},
    tables::{Store, StoreArgs, TableNames},
};
use touchline_tests::{
    DEADLINE,
    personalize::{Behaviour, CAMPAIGN_ARN, Call, Fault, Latency, StandIn},
    rows,
};

/// A server on its own, its tables and the stand-in.
struct Bench {
    stand_in: StandIn,
    client: ComponentServiceClient<Channel>,
    tables: aws_sdk_dynamodb::Client,
    shutdown: CancellationToken,
    server: touchline_server::Running,
    embedded: Embedded,
}

impl Bench {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The catalog holds the stand-in's items; event `1` is a goal.
    async fn start_with(adjust: impl FnOnce(&mut ServerArgs)) -> Self {
        let stand_in = StandIn::start_well_behaved().await.unwrap();
        let loopback = ([127, 0, 0, 1], 0).into();
        let embedded = Embedded::start(Place::Memory, loopback).await.unwrap();
        let dynamodb = format!("http://{}", embedded.address());
        let store = Store::connect(&StoreArgs {
            aws: AwsArgs {
                region: None,
                dynamodb_endpoint: Some(dynamodb.clone()),
            },
            names: TableNames {
                event: rows::EVENT_TABLE.to_owned(),
                session: rows::SESSION_TABLE.to_owned(),
                item: rows::ITEM_TABLE.to_owned(),
                lease: "touchline_push_lease".to_owned(),
            },
        })
        .await;
        store.prepare().await.unwrap();
        let tables = rows::dynamodb(&dynamodb);
        for item_id in Behaviour::default().items {
            let row = [
                ("item_type", rows::text(item_type(&item_id))),
                ("item_id", rows::text(&item_id)),
            ];
            rows::put(&tables, rows::ITEM_TABLE, row).await.unwrap();
        }
        put_goal(&tables).await;

        let mut args = ServerArgs {
            listen: loopback,
            recommender: RecommenderKind::Personalize,
            campaign_arn: Some(CAMPAIGN_ARN.to_owned()),
            personalize_endpoint: Some(stand_in.endpoint()),
            ..ServerArgs::default()
        };
        adjust(&mut args);
        let shutdown = CancellationToken::new();
        let server = touchline_server::start(args, store, shutdown.clone());
        let server = server.await.unwrap();
        server.ready().await.unwrap();
        let address = format!("http://{}", server.grpc_address);
        Self {
            stand_in,
            client: ComponentServiceClient::connect(address).await.unwrap(),
            tables,
            shutdown,
            server,
            embedded,
        }
    }

    async fn get(&self, consumer_id: &str) -> Result<ComponentSet, Status> {
        let mut request = Request::new(GetComponentsRequest {
            consumer_id: consumer_id.to_owned(),
            situation: Some(Situation::EventId("1".to_owned())),
            num_results: 0,
            ..Default::default()
        });
        request.set_timeout(DEADLINE);
        let answer = self.client.clone().get_components(request).await?;
        Ok(answer.into_inner().component_set.unwrap())
    }

    /// The answer of each consumer, in their order: item ids by type, or a code.
    async fn batch(&self, consumer_ids: &[String]) -> Vec<Result<BTreeMap<String, String>, i32>> {
        let request = BatchGetComponentsRequest {
            state: Some(goal()),
            consumer_ids: consumer_ids.to_vec(),
            num_results: 0,
            ..Default::default()
        };
        let mut client = self.client.clone();
        let stream = client.batch_get_components(request).await.unwrap();
        let parts = stream.into_inner();
        let parts: Vec<BatchGetComponentsResponse> = parts.try_collect().await.unwrap();
        let sets: Vec<_> = parts.iter().flat_map(|part| &part.component_sets).collect();
        let mut answers: Vec<_> = parts.iter().flat_map(|part| &part.answers).collect();
        answers.sort_by_key(|answer| answer.consumer_index);
        assert_eq!(answers.len(), consumer_ids.len());
        answers
            .into_iter()
            .map(|answer| match answer.answer.as_ref().unwrap() {
                Answer::ComponentSetIndex(index) => Ok(by_type(sets[*index as usize])),
                Answer::Error(error) => Err(error.code),
            })
            .collect()
    }

    /// What a consumer must be shown at the goal: the first item of each type.
    fn expected(&self, consumer_id: &str) -> BTreeMap<String, String> {
        let mut shown = BTreeMap::new();
        let ranking = self.stand_in.ranking_of(consumer_id, &GOAL);
        for item_id in ranking.into_iter().take(10) {
            shown
                .entry(item_type(&item_id).to_owned())
                .or_insert(item_id);
        }
        shown
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.server.stopped().await.unwrap();
        self.embedded.stop().await;
        self.stand_in.stop().await.unwrap();
    }
}

/// The context of event `1`, as Personalize must be asked with it.
const GOAL: [(&str, &str); 5] = [
    ("MATCH_EVENT", "GOAL"),
    ("MATCH_TIMING", "SECOND-HALF-2"),
    ("SCORE_DIFFERENCE", "1"),
    ("MATCH_TYPE", "FINAL"),
    ("MATCH_VENUE", "France"),
];

/// Event `1` as its row says it: a number among the texts, and attributes that are no context.
async fn put_goal(tables: &aws_sdk_dynamodb::Client) {
    let row = GOAL_ROW.map(|(name, value)| match name {
        "score_difference" => (name, AttributeValue::N(value.to_owned())),
        _ => (name, rows::text(value)),
    });
    rows::put(tables, rows::EVENT_TABLE, row).await.unwrap();
}

const GOAL_ROW: [(&str, &str); 8] = [
    ("event_id", "1"),
    ("match_event", "GOAL"),
    ("match_timing", "SECOND-HALF-2"),
    ("score_difference", "1"),
    ("match_type", "FINAL"),
    ("match_venue", "France"),
    ("display_clock", "67:12"),
    ("referee", "Marciniak"),
];

fn goal() -> EventState {
    let attributes = GOAL_ROW[1..].iter();
    EventState {
        event_id: "1".to_owned(),
        attributes: attributes
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..EventState::default()
    }
}

fn item_type(item_id: &str) -> &'static str {
    let number: usize = item_id.trim_start_matches("ITEM_ID_").parse().unwrap();
    [
        "PLAYER", "GENERAL", "PLAYER", "MONETIZE", "PLAYER", "SOCIAL",
    ][number % 6]
}

fn by_type(set: &ComponentSet) -> BTreeMap<String, String> {
    let components = set.components.iter();
    components
        .map(|component| (component.item_type.clone(), component.item_id.clone()))
        .collect()
}

fn consumers(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("fan-{number}")).collect()
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().unwrap().reason.clone()
}

#[tokio::test]
async fn consumer_and_context_arrive_as_the_prototype_sent_them() {
    let bench = Bench::start().await;
    let set = bench.get("diego").await.unwrap();

    let context = GOAL.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let call = Call {
        campaign_arn: CAMPAIGN_ARN.to_owned(),
        consumer_id: "diego".to_owned(),
        num_results: 10,
        context: BTreeMap::from(context),
    };
    assert_eq!(bench.stand_in.calls(), [(call, 1)]);
    assert_eq!(by_type(&set), bench.expected("diego"));
    assert_eq!(set.origin(), Origin::Personalize);
    assert_eq!(set.freshness(), Freshness::Live);
    assert!(!set.recommendation_id.is_empty());
    bench.stop().await;
}

#[tokio::test]
async fn an_attribute_that_is_missing_from_the_row_is_left_out_of_the_context() {
    let bench = Bench::start().await;
    let row = [
        ("event_id", rows::text("1")),
        ("match_event", rows::text("GOAL")),
    ];
    rows::put(&bench.tables, rows::EVENT_TABLE, row)
        .await
        .unwrap();
    bench.get("diego").await.unwrap();
    let calls = bench.stand_in.calls();
    let context = &calls[0].0.context;
    let keys: Vec<_> = context.keys().collect();
    assert_eq!(keys, ["MATCH_EVENT"]);
    bench.stop().await;
}

#[tokio::test]
async fn equal_lookups_at_one_moment_are_asked_once_and_later_ones_are_cached() {
    let bench = Bench::start().await;
    slow_down(&bench, 100.0);
    let sets = join_all((0..50).map(|_| bench.get("diego"))).await;
    assert_eq!(bench.stand_in.calls_total(), 1);
    for set in sets {
        assert_eq!(by_type(&set.unwrap()), bench.expected("diego"));
    }

    let cached = bench.get("diego").await.unwrap();
    assert_eq!(cached.freshness(), Freshness::Cached);
    assert_eq!(bench.stand_in.calls_total(), 1);
    bench.get("camille").await.unwrap();
    assert_eq!(bench.stand_in.calls_for("camille"), 1);
    bench.stop().await;
}

#[tokio::test]
async fn a_batch_asks_no_more_at_a_time_than_it_may() {
    let bench = Bench::start_with(|args| args.personalize_concurrency = 4).await;
    slow_down(&bench, 5.0);
    let consumers = consumers(100);
    for (consumer_id, answer) in consumers.iter().zip(bench.batch(&consumers).await) {
        assert_eq!(answer.unwrap(), bench.expected(consumer_id));
    }
    assert_eq!(bench.stand_in.calls_total(), 100);
    assert_eq!(bench.stand_in.calls_at_once_max(), 4);
    bench.stop().await;
}

#[tokio::test]
async fn one_consumer_that_fails_leaves_the_others_of_a_batch_alone() {
    let bench = Bench::start().await;
    bench.stand_in.behave(|behaviour| {
        let faults = &mut behaviour.consumer_faults;
        faults.insert("fan-1".to_owned(), Fault::Throttle);
        faults.insert("fan-3".to_owned(), Fault::Error);
        faults.insert("fan-5".to_owned(), Fault::Reset);
    });
    let consumers = consumers(7);
    let answers = bench.batch(&consumers).await;
    let refused = |place: usize| answers[place].clone().unwrap_err();
    assert_eq!(refused(1), Code::ResourceExhausted as i32);
    assert_eq!(refused(3), Code::Unavailable as i32);
    assert_eq!(refused(5), Code::Unavailable as i32);
    for place in [0, 2, 4, 6] {
        let expected = bench.expected(&consumers[place]);
        assert_eq!(answers[place], Ok(expected));
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_throttle_is_resource_exhausted_says_when_to_come_back_and_is_not_kept() {
    let bench = Bench::start().await;
    fail(&bench, Some(Fault::Throttle));
    let status = bench.get("diego").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status), "RECOMMENDER_THROTTLED");
    let details = status.get_error_details();
    let retry = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(retry > Duration::ZERO);
    assert_eq!(
        bench.stand_in.calls_total(),
        1,
        "a throttle is not answered by asking more"
    );

    fail(&bench, None);
    assert_eq!(
        by_type(&bench.get("diego").await.unwrap()),
        bench.expected("diego")
    );
    bench.stop().await;
}

#[tokio::test]
async fn errors_resets_and_garbage_are_unavailable_and_tell_nothing_internal() {
    let bench = Bench::start().await;
    for fault in [Fault::Error, Fault::Reset, Fault::Garbage] {
        fail(&bench, Some(fault));
        let status = bench.get("diego").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{fault:?}");
        assert_eq!(reason(&status), "RECOMMENDER_UNAVAILABLE", "{fault:?}");
        assert_eq!(status.message(), "the recommender is not available");
    }
    fail(&bench, None);
    assert!(bench.get("diego").await.is_ok());
    bench.stop().await;
}

#[tokio::test]
async fn a_campaign_that_does_not_exist_is_a_failed_precondition() {
    let elsewhere = CAMPAIGN_ARN.replace("touchline", "elsewhere");
    let bench = Bench::start_with(|args| args.campaign_arn = Some(elsewhere)).await;
    let status = bench.get("diego").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(!status.message().contains("arn:"), "{}", status.message());
    bench.stop().await;
}

#[tokio::test]
async fn a_recommender_that_hangs_costs_its_time_out_and_nobody_elses_answer() {
    let quickly = Duration::from_millis(300);
    let bench = Bench::start_with(|args| args.personalize_timeout = quickly).await;
    bench.stand_in.behave(|behaviour| {
        let faults = &mut behaviour.consumer_faults;
        faults.insert("diego".to_owned(), Fault::Hang);
    });
    let (hung, served) = tokio::join!(bench.get("diego"), bench.get("camille"));
    assert_eq!(hung.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(by_type(&served.unwrap()), bench.expected("camille"));
    bench.stop().await;
}

#[tokio::test]
async fn items_that_the_catalog_does_not_know_are_skipped_and_an_empty_ranking_is_an_empty_set() {
    let bench = Bench::start().await;
    bench.stand_in.behave(|behaviour| {
        let known = ["ITEM_ID_1", "ITEM_ID_2", "ITEM_ID_3"].map(str::to_owned);
        let unknown = (0..5).map(|number| format!("UNKNOWN_{number}"));
        behaviour.items = unknown.chain(known).collect();
    });
    let types: Vec<_> = by_type(&bench.get("diego").await.unwrap())
        .into_keys()
        .collect();
    assert_eq!(types, ["GENERAL", "MONETIZE", "PLAYER"]);

    bench.stand_in.behave(|behaviour| behaviour.items.clear());
    let set = bench.get("camille").await.unwrap();
    assert!(set.components.is_empty());
    bench.stop().await;
}

fn slow_down(bench: &Bench, median_ms: f64) {
    bench.stand_in.behave(|behaviour| {
        behaviour.latency = Latency {
            median_ms,
            ..Latency::default()
        };
    });
}

fn fail(bench: &Bench, fault: Option<Fault>) {
    bench.stand_in.behave(|behaviour| behaviour.fault = fault);
}
