//! A store over the real wire protocol, each test's own. Decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use futures::StreamExt;
use touchline_store::{
    aws::AwsArgs,
    embedded::{self, Embedded},
    event::{Attribute, EventState},
    ids::{ConnectionId, ConsumerId, ContentId, DeviceId, EventId},
    session::{Protocol, Registration, Session},
    tables::{Store, StoreArgs, TableNames},
};

pub(crate) const EVENT_TABLE: &str = "rt_personalize_event_manager";
pub(crate) const SESSION_TABLE: &str = "rt_personalize_user_session_store";
pub(crate) const ITEM_TABLE: &str = "rt_personalize_soccer_ux_item";
pub(crate) const LEASE_TABLE: &str = "touchline_push_lease";

/// Names a DynamoDB to test against in place of the embedded one, such as
/// `http://127.0.0.1:8000`. It must keep the tables of each region apart, as DynamoDB Local does
/// without `-sharedDb`: each test has a region of its own.
const DYNAMODB_VARIABLE: &str = "TOUCHLINE_TEST_DYNAMODB";

/// The DynamoDB of one test.
pub(crate) enum Dynamodb {
    Embedded(Embedded),
    Given { endpoint: String, region: String },
}

/// Where a store's tables are.
pub(crate) trait Reachable {
    fn aws(&self) -> AwsArgs;
}

impl Reachable for Embedded {
    fn aws(&self) -> AwsArgs {
        no_region(format!("http://{}", self.address()))
    }
}

impl Reachable for Dynamodb {
    fn aws(&self) -> AwsArgs {
        match self {
            Self::Embedded(embedded) => embedded.aws(),
            Self::Given { endpoint, region } => AwsArgs {
                region: Some(region.clone()),
                dynamodb_endpoint: Some(endpoint.clone()),
            },
        }
    }
}

impl Dynamodb {
    async fn start() -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let Some(endpoint) = std::env::var_os(DYNAMODB_VARIABLE) else {
            return Self::Embedded(embedded().await);
        };
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        Self::Given {
            endpoint: endpoint.into_string().unwrap(),
            region: format!("test-{}-{number}", std::process::id()),
        }
    }
}

async fn embedded() -> Embedded {
    let listen = "127.0.0.1:0".parse().unwrap();
    Embedded::start(embedded::Place::Memory, listen)
        .await
        .unwrap()
}

/// A DynamoDB without tables, and a store over it.
pub(crate) async fn bare() -> (Dynamodb, Store) {
    let dynamodb = Dynamodb::start().await;
    let store = store(&dynamodb).await;
    (dynamodb, store)
}

/// The same with all tables as Touchline makes them.
pub(crate) async fn prepared() -> (Dynamodb, Store) {
    let (dynamodb, store) = bare().await;
    store.prepare().await.unwrap();
    (dynamodb, store)
}

/// As [`prepared`] but on the embedded engine whatever is given, for tests that stop it or have it
/// sweep: no other lets them.
pub(crate) async fn prepared_embedded() -> (Embedded, Store) {
    let embedded = embedded().await;
    let store = store(&embedded).await;
    store.prepare().await.unwrap();
    (embedded, store)
}

pub(crate) async fn store(place: &impl Reachable) -> Store {
    let args = StoreArgs {
        aws: place.aws(),
        names: names(),
    };
    Store::connect(&args).await
}

pub(crate) fn no_region(endpoint: String) -> AwsArgs {
    AwsArgs {
        region: None,
        dynamodb_endpoint: Some(endpoint),
    }
}

pub(crate) fn names() -> TableNames {
    TableNames {
        event: EVENT_TABLE.to_owned(),
        session: SESSION_TABLE.to_owned(),
        item: ITEM_TABLE.to_owned(),
        lease: LEASE_TABLE.to_owned(),
    }
}

/// A client that knows nothing of Touchline.
pub(crate) async fn dynamodb(place: &impl Reachable) -> aws_sdk_dynamodb::Client {
    let aws = place.aws();
    let (region, endpoint) = (aws.region.as_deref(), aws.dynamodb_endpoint.as_deref());
    let timeout = std::time::Duration::from_secs(5);
    let config = touchline_store::aws::sdk_config(region, endpoint, timeout).await;
    aws_sdk_dynamodb::Client::new(&config)
}

pub(crate) fn event_id(text: &str) -> EventId {
    EventId::new(text).unwrap()
}

pub(crate) fn connection(text: &str) -> ConnectionId {
    ConnectionId::new(text).unwrap()
}

pub(crate) fn contents(texts: &[&str]) -> BTreeSet<ContentId> {
    let texts = texts.iter();
    texts.map(|text| ContentId::new(text).unwrap()).collect()
}

pub(crate) fn state(event: &str, attributes: &[(&str, &str)], content_ids: &[&str]) -> EventState {
    EventState {
        event_id: event_id(event),
        attributes: attributes
            .iter()
            .map(|(name, text)| ((*name).to_owned(), Attribute::Text((*text).to_owned())))
            .collect::<BTreeMap<_, _>>(),
        contents: contents(content_ids),
    }
}

pub(crate) fn registration(consumer: &str, content: &str, protocol: Protocol) -> Registration {
    Registration {
        consumer_id: ConsumerId::new(consumer).unwrap(),
        device_id: DeviceId::new("phone").unwrap(),
        content_id: ContentId::new(content).unwrap(),
        protocol,
    }
}

/// Opens and registers a session.
pub(crate) async fn join(store: &Store, connection_id: &str, consumer: &str, content: &str) {
    let connection = connection(connection_id);
    store
        .open_session(&connection, "http://127.0.0.1:8082")
        .await
        .unwrap();
    let registration = registration(consumer, content, Protocol::V1);
    store
        .register_session(&connection, &registration)
        .await
        .unwrap();
}

/// The whole audience, by connection id, and how many rows were skipped.
pub(crate) async fn audience(
    store: &Store,
    content_ids: &[&str],
) -> (BTreeMap<String, Session>, usize) {
    let mut pages = store.audience(&contents(content_ids));
    let (mut sessions, mut skipped) = (BTreeMap::new(), 0);
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        skipped += page.skipped;
        for session in page.sessions {
            let id = session.connection_id.to_string();
            assert!(
                sessions.insert(id, session).is_none(),
                "a session came twice"
            );
        }
    }
    (sessions, skipped)
}

/// The connection ids of an audience.
pub(crate) async fn reached(store: &Store, content_ids: &[&str]) -> Vec<String> {
    audience(store, content_ids).await.0.into_keys().collect()
}
