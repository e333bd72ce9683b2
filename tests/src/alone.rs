//! A server on its own, its tables and the stand-in for Personalize: what the recommender's tests ask.
//! The catalog holds the stand-in's items; event `1` is a goal.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, transport::Channel};
use touchline_proto::v1::{
    BatchGetComponentsRequest, BatchGetComponentsResponse, ComponentSet, EventState,
    GetComponentsRequest, component_service_client::ComponentServiceClient,
    consumer_answer::Answer, get_components_request::Situation,
};
use touchline_server::{
    ServerArgs,
    config::{RecommenderKind, serving::ServingArgs},
    recommend::serving::Source,
};
use touchline_store::{
    aws::AwsArgs,
    embedded::{Embedded, Place},
    tables::{Store, StoreArgs, TableNames},
};

use crate::{
    DEADLINE,
    personalize::{Behaviour, CAMPAIGN_ARN, Fault, Latency, StandIn},
    rows,
};

/// A server on its own, its tables and the stand-in.
#[derive(Debug)]
pub struct Alone {
    /// Personalize.
    pub stand_in: StandIn,
    /// A client of the server.
    pub client: ComponentServiceClient<Channel>,
    /// A plain AWS client of the tables.
    pub tables: aws_sdk_dynamodb::Client,
    shutdown: CancellationToken,
    /// The server.
    pub server: touchline_server::Running,
    embedded: Embedded,
}

impl Alone {
    /// With time enough for every answer, a budget without end, and nobody to stand in.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same, adjusted.
    pub async fn start_with(adjust: impl FnOnce(&mut ServerArgs)) -> Self {
        let stand_in = StandIn::start_well_behaved().await.unwrap();
        let loopback = ([127, 0, 0, 1], 0).into();
        let embedded = Embedded::start(Place::Memory, loopback).await.unwrap();
        let dynamodb = format!("http://{}", embedded.address());
        store(&dynamodb).await.prepare().await.unwrap();
        let tables = rows::dynamodb(&dynamodb);
        for item_id in Behaviour::default().items {
            let row = [
                ("item_type", rows::text(item_type(&item_id))),
                ("item_id", rows::text(&item_id)),
            ];
            rows::put(&tables, rows::ITEM_TABLE, row).await.unwrap();
        }
        put_goal(&tables).await;

        let Replica { server, shutdown } = serve(&stand_in, &dynamodb, adjust).await;
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

    /// Another server on the same tables, in front of the same stand-in.
    pub async fn replica(&self, adjust: impl FnOnce(&mut ServerArgs)) -> Replica {
        let dynamodb = format!("http://{}", self.embedded.address());
        serve(&self.stand_in, &dynamodb, adjust).await
    }

    /// One consumer's set for event `1`.
    pub async fn get(&self, consumer_id: &str) -> Result<ComponentSet, Status> {
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

    /// The answer of each consumer at the goal, in their order: item ids by type, or a code.
    pub async fn batch(
        &self,
        consumer_ids: &[String],
    ) -> Vec<Result<BTreeMap<String, String>, i32>> {
        self.batch_in(goal(), consumer_ids).await
    }

    /// The same in another state.
    pub async fn batch_in(
        &self,
        state: EventState,
        consumer_ids: &[String],
    ) -> Vec<Result<BTreeMap<String, String>, i32>> {
        let request = BatchGetComponentsRequest {
            state: Some(state),
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
    pub fn expected(&self, consumer_id: &str) -> BTreeMap<String, String> {
        let mut shown = BTreeMap::new();
        let ranking = self.stand_in.ranking_of(consumer_id, &GOAL);
        for item_id in ranking.into_iter().take(10) {
            shown
                .entry(item_type(&item_id).to_owned())
                .or_insert(item_id);
        }
        shown
    }

    /// Ends everything.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.server.stopped().await.unwrap();
        self.embedded.stop().await;
        self.stand_in.stop().await.unwrap();
    }
}

/// One of several servers.
#[derive(Debug)]
pub struct Replica {
    /// The server.
    pub server: touchline_server::Running,
    shutdown: CancellationToken,
}

impl Replica {
    /// Ends it.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.server.stopped().await.unwrap();
    }
}

async fn store(dynamodb: &str) -> Store {
    Store::connect(&StoreArgs {
        aws: AwsArgs {
            region: None,
            dynamodb_endpoint: Some(dynamodb.to_owned()),
        },
        names: TableNames {
            event: rows::EVENT_TABLE.to_owned(),
            session: rows::SESSION_TABLE.to_owned(),
            item: rows::ITEM_TABLE.to_owned(),
            lease: "touchline_push_lease".to_owned(),
        },
    })
    .await
}

async fn serve(
    stand_in: &StandIn,
    dynamodb: &str,
    adjust: impl FnOnce(&mut ServerArgs),
) -> Replica {
    let loopback = ([127, 0, 0, 1], 0).into();
    let mut args = ServerArgs {
        listen: loopback,
        metrics_listen: loopback,
        recommender: RecommenderKind::Personalize,
        campaign_arn: Some(CAMPAIGN_ARN.to_owned()),
        personalize_endpoint: Some(stand_in.endpoint()),
        serving: ServingArgs {
            personalize_tps: 100_000,
            patience: DEADLINE,
            fallback: vec![Source::None],
            ..ServingArgs::default()
        },
        ..ServerArgs::default()
    };
    adjust(&mut args);
    let shutdown = CancellationToken::new();
    let server = touchline_server::start(args, store(dynamodb).await, shutdown.clone());
    let server = server.await.unwrap();
    server.ready().await.unwrap();
    Replica { server, shutdown }
}

/// The context of event `1`, as Personalize must be asked with it.
pub const GOAL: [(&str, &str); 5] = [
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

/// The same as a state.
pub fn goal() -> EventState {
    let attributes = GOAL_ROW[1..].iter();
    EventState {
        event_id: "1".to_owned(),
        attributes: attributes
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..EventState::default()
    }
}

/// The same with another `match_event`.
pub fn state(match_event: &str) -> EventState {
    let mut state = goal();
    let event = "match_event".to_owned();
    state.attributes.insert(event, match_event.to_owned());
    state
}

/// The slot of an item.
pub fn item_type(item_id: &str) -> &'static str {
    let number: usize = item_id.trim_start_matches("ITEM_ID_").parse().unwrap();
    [
        "PLAYER", "GENERAL", "PLAYER", "MONETIZE", "PLAYER", "SOCIAL",
    ][number % 6]
}

/// Item by slot.
pub fn by_type(set: &ComponentSet) -> BTreeMap<String, String> {
    let components = set.components.iter();
    components
        .map(|component| (component.item_type.clone(), component.item_id.clone()))
        .collect()
}

/// That many of them.
pub fn consumers(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("fan-{number}")).collect()
}

/// Personalize takes this long from now on.
pub fn slow_down(alone: &Alone, median_ms: f64) {
    alone.stand_in.behave(|behaviour| {
        behaviour.latency = Latency {
            median_ms,
            ..Latency::default()
        };
    });
}

/// Personalize fails so from now on.
pub fn fail(alone: &Alone, fault: Option<Fault>) {
    alone.stand_in.behave(|behaviour| behaviour.fault = fault);
}
