//! A server on an in-memory store, and what tests say about its answers.

use std::{collections::BTreeMap, future::Future, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;
use touchline_proto::v1::{
    Context, EventState, GetComponentsRequest, PutEventRequest,
    component_service_client::ComponentServiceClient, event_service_client::EventServiceClient,
    feedback_service_client::FeedbackServiceClient, get_components_request::Situation,
};
use touchline_server::{
    Running, ServerArgs,
    config::{RecommenderKind, serving::ServingArgs},
    recommend::serving::Source,
    start,
};
use touchline_store::{
    aws::AwsArgs,
    embedded::{Embedded, Place},
    ids::{ItemId, ItemType},
    item::Item,
    tables::{Store, StoreArgs, TableNames},
};

use crate::standin::Standin;

/// Waits for something that has to happen, with a deadline.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("what was waited for did not happen within 20 s")
}

/// Repeats until it is so.
pub(crate) async fn until<F: Future<Output = bool>>(mut is_so: impl FnMut() -> F) {
    soon(async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// The status and the body of one answer of the port for metrics and health.
pub(crate) async fn observed(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = soon(async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    })
    .await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// Waits until the metrics have each of these lines.
pub(crate) async fn until_shown(address: SocketAddr, lines: &[&str]) {
    until(|| async {
        let (_, shown) = observed(address, "/metrics").await;
        let mut lines = lines.iter();
        let missing = lines.find(|line| !shown.lines().any(|shown| shown == **line));
        missing.is_none_or(|missing| {
            // The last of these is the reason when time is over.
            eprintln!("not shown: {missing}");
            false
        })
    })
    .await;
}

/// An in-memory store with its tables.
pub(crate) struct Tables {
    pub(crate) embedded: Embedded,
    pub(crate) store: Store,
}

impl Tables {
    pub(crate) async fn start() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let embedded = Embedded::start(Place::Memory, listen).await.unwrap();
        let store = Store::connect(&store_args(embedded.address())).await;
        store.prepare().await.unwrap();
        store.put_items(&catalog(), &[], &|_| {}).await.unwrap();
        Self { embedded, store }
    }
}

pub(crate) fn store_args(address: SocketAddr) -> StoreArgs {
    StoreArgs {
        aws: AwsArgs {
            region: Some("eu-west-1".to_owned()),
            dynamodb_endpoint: Some(format!("http://{address}")),
        },
        names: TableNames {
            event: "rt_personalize_event_manager".to_owned(),
            session: "rt_personalize_user_session_store".to_owned(),
            item: "rt_personalize_soccer_ux_item".to_owned(),
            lease: "touchline_push_lease".to_owned(),
        },
    }
}

/// Two items a type: `a1`, `a2` of PLAYER, `b1`, `b2` of SOCIAL, `c1`, `c2` of MONETIZE.
fn catalog() -> Vec<Item> {
    [
        ("a1", "PLAYER"),
        ("a2", "PLAYER"),
        ("b1", "SOCIAL"),
        ("b2", "SOCIAL"),
        ("c1", "MONETIZE"),
        ("c2", "MONETIZE"),
    ]
    .into_iter()
    .map(|(item_id, item_type)| item(item_id, item_type))
    .collect()
}

pub(crate) fn item(item_id: &str, item_type: &str) -> Item {
    Item {
        item_id: ItemId::new(item_id).unwrap(),
        item_type: ItemType::new(item_type).unwrap(),
        attributes: BTreeMap::from([("item_label".to_owned(), format!("Label of {item_id}"))]),
    }
}

/// A running server, ready to answer.
pub(crate) struct Server {
    pub(crate) tables: Tables,
    pub(crate) running: Running,
    pub(crate) shutdown: CancellationToken,
    pub(crate) channel: Channel,
}

impl Server {
    /// With the embedded ranker.
    pub(crate) async fn embedded() -> Self {
        Self::with(ServerArgs::default()).await
    }

    /// With a stand-in for Personalize.
    pub(crate) async fn personalize(standin: &Standin) -> Self {
        Self::with(asking(standin)).await
    }

    pub(crate) async fn with(args: ServerArgs) -> Self {
        Box::pin(Self::on(Tables::start().await, args)).await
    }

    pub(crate) async fn on(tables: Tables, args: ServerArgs) -> Self {
        let args = ServerArgs {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..args
        };
        let shutdown = CancellationToken::new();
        // Boxed, as it holds its whole configuration.
        let running = Box::pin(start(args, tables.store.clone(), shutdown.clone()))
            .await
            .unwrap();
        soon(running.ready()).await.unwrap();
        let address = format!("http://{}", running.grpc_address);
        let channel = Channel::from_shared(address).unwrap().connect_lazy();
        Self {
            tables,
            running,
            shutdown,
            channel,
        }
    }

    pub(crate) fn components(&self) -> ComponentServiceClient<Channel> {
        ComponentServiceClient::new(self.channel.clone())
    }

    pub(crate) fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone())
    }

    pub(crate) fn feedback(&self) -> FeedbackServiceClient<Channel> {
        FeedbackServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn put(&self, state: EventState) -> EventState {
        let request = PutEventRequest {
            event: Some(state),
            merge: false,
        };
        let answer = self.events().put_event(request).await.unwrap();
        answer.into_inner().state.unwrap()
    }

    /// Stops and waits until nothing of it is left.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        drop(self.channel);
        soon(self.running.stopped()).await.unwrap();
        self.tables.embedded.stop().await;
    }
}

/// Flags that ask a stand-in, with time enough for a machine that is busy with other tests.
pub(crate) fn asking(standin: &Standin) -> ServerArgs {
    ServerArgs {
        recommender: RecommenderKind::Personalize,
        campaign_arn: Some("arn:aws:personalize:eu-west-1:123456789012:campaign/fans".to_owned()),
        personalize_endpoint: Some(format!("http://{}", standin.address)),
        personalize_timeout: Duration::from_secs(20),
        default_deadline: Duration::from_secs(20),
        serving: ServingArgs {
            personalize_tps: 100_000,
            patience: Duration::from_secs(20),
            fallback: vec![Source::None],
            ..ServingArgs::default()
        },
        ..ServerArgs::default()
    }
}

/// An event's state.
pub(crate) fn event(event_id: &str, attributes: &[(&str, &str)]) -> EventState {
    EventState {
        event_id: event_id.to_owned(),
        attributes: attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..EventState::default()
    }
}

pub(crate) fn by_event(consumer_id: &str, event_id: &str) -> GetComponentsRequest {
    GetComponentsRequest {
        consumer_id: consumer_id.to_owned(),
        situation: Some(Situation::EventId(event_id.to_owned())),
        num_results: 0,
        ..Default::default()
    }
}

pub(crate) fn by_context(consumer_id: &str, values: &[(&str, &str)]) -> GetComponentsRequest {
    let values = values
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    GetComponentsRequest {
        consumer_id: consumer_id.to_owned(),
        situation: Some(Situation::Context(Context { values })),
        num_results: 0,
        ..Default::default()
    }
}

/// The fields that a refusal names; every refusal has an `ErrorInfo` of the right domain.
pub(crate) fn refused_fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(reason(status), "INVALID_REQUEST");
    let details = status.get_error_details();
    let bad_request = details.bad_request().expect("a refusal names its fields");
    bad_request
        .field_violations
        .iter()
        .map(|violation| violation.field.clone())
        .collect()
}

/// `ErrorInfo.reason`.
pub(crate) fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().expect("every error has an ErrorInfo");
    assert_eq!(info.domain, "touchline");
    info.reason.clone()
}

/// Whether the caller is told when to ask again.
pub(crate) fn says_when_to_retry(status: &Status) -> bool {
    let details = status.get_error_details();
    details
        .retry_info()
        .is_some_and(|info| info.retry_delay.is_some())
}
