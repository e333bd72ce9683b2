//! touchline-server as it runs beside Personalize, a process each: a DynamoDB, the server, and a push
//! adapter that leads, whose change feed the server follows. Personalize's stand-in is in this process;
//! it is asked only until the cache is filled.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::{Instant, sleep};
use touchline_cli::{demo, items_csv};
use touchline_client::{Client, Situation, proto};
use touchline_store::{
    event::{Attribute, EventState},
    ids::EventId,
    tables::Store,
};
use touchline_tests::{
    calls,
    personalize::{CAMPAIGN_ARN, StandIn},
};

use super::script::is_cached;
use crate::{
    dynamodb::DynamoDb,
    service::{ANY, Service, adapter_flags, text},
    system::DEADLINE,
};

/// The event that is asked for and watched.
pub(super) const EVENT: &str = "1";

/// What happens in the match, in turn; the place is the number of the state.
pub(super) const MATCH_EVENTS: [&str; 4] = ["GOAL", "PENALTY", "CORNER", "FOUL"];

/// Questions under way while the cache is filled.
const WARMING_MAX: usize = 16;

/// Pause before a consumer whose set did not come from the cache is asked for again.
const WARM_PAUSE: Duration = Duration::from_millis(20);

/// The processes; killed when dropped.
pub(super) struct Touchline {
    /// The one that is measured.
    pub(super) server: Service,
    /// Where its metrics are.
    pub(super) metrics: String,
    adapter: Service,
    url: String,
    store: Store,
    _dynamodb: DynamoDb,
    _stand_in: StandIn,
}

impl Touchline {
    /// Starts all of it with the demo's catalog, and waits until the server answers from the change
    /// feed.
    pub(super) async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// The same, each process with these flags more.
    pub(super) async fn start_with(extra: &[(&str, &str)]) -> Result<Self> {
        let stand_in = StandIn::start_well_behaved().await?;
        let dynamodb = DynamoDb::start().await?;
        let store = dynamodb.store().await;
        store.prepare().await?;
        store
            .put_items(&demo::items(), &items_csv::NUMERIC, &|_| {})
            .await?;
        let personalize = stand_in.endpoint();
        let mut flags = vec![
            ("--dynamodb-endpoint", &*dynamodb.endpoint),
            ("--listen", ANY),
            ("--recommender", "personalize"),
            ("--campaign-arn", CAMPAIGN_ARN),
            ("--personalize-endpoint", &*personalize),
            // What is cached stays so for the whole run.
            ("--ranking-ttl", "1h"),
            ("--num-results", "all"),
        ];
        flags.extend(extra);
        let messages = ["metrics and health listen", "gRPC listens", "ready"];
        let (server, [observed, listens, _]) =
            Service::start(("server", "touchline-server"), &flags, messages).await?;
        let url = format!("http://{}", text(&listens, "address")?);
        let mut flags = adapter_flags(&dynamodb.endpoint, &url);
        flags.push(("--fans-listen", ANY));
        flags.extend(extra);
        let (adapter, [_]) =
            Service::start(("adapter", "touchline-push"), &flags, ["started"]).await?;
        let touchline = Self {
            metrics: text(&observed, "address")?.to_owned(),
            server,
            adapter,
            url,
            store,
            _dynamodb: dynamodb,
            _stand_in: stand_in,
        };
        touchline.change(0).await?;
        touchline.follows().await?;
        Ok(touchline)
    }

    /// Where the server serves.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Writes a state as any DynamoDB client does.
    pub(super) async fn change(&self, number: usize) -> Result<()> {
        let match_event = MATCH_EVENTS[number].to_owned();
        let state = EventState {
            event_id: EventId::new(EVENT)?,
            attributes: [("match_event".to_owned(), Attribute::Text(match_event))].into(),
            contents: [].into(),
        };
        self.store.put_event(&state, false).await?;
        Ok(())
    }

    /// Asks for each consumer in each state until it is answered from the cache.
    pub(super) async fn warm(&self, consumers: &[String]) -> Result<()> {
        let client = Client::connect(&self.url)?;
        let all = consumers.iter().flat_map(|consumer_id| {
            let events = MATCH_EVENTS.iter();
            events.map(move |match_event| (consumer_id, *match_event))
        });
        stream::iter(all)
            .map(|(consumer_id, match_event)| cached(&client, consumer_id, match_event))
            .buffer_unordered(WARMING_MAX)
            .try_collect()
            .await
    }

    /// The ends of all logs, for a person to read.
    pub(super) fn logs(&self) -> String {
        [&self.server, &self.adapter].map(Service::log).concat()
    }

    async fn follows(&self) -> Result<()> {
        let client = Client::connect(&self.url)?;
        let start = Instant::now();
        loop {
            let set = calls::components(&client, "nobody", EVENT).await?;
            if set.position.is_some() {
                return Ok(());
            }
            ensure!(
                start.elapsed() < DEADLINE,
                "the change feed is not followed"
            );
            // The pace of looking.
            sleep(WARM_PAUSE).await;
        }
    }
}

async fn cached(client: &Client, consumer_id: &str, match_event: &str) -> Result<()> {
    let start = Instant::now();
    loop {
        let values = [("MATCH_EVENT".to_owned(), match_event.to_owned())];
        let context = Situation::Context(values.into());
        let asked = client.get_components(consumer_id, context).await;
        let set: proto::ComponentSet = asked.context("filling the cache")?;
        if is_cached(&set) {
            return Ok(());
        }
        ensure!(start.elapsed() < DEADLINE, "never cached: {set:?}");
        // A budget may be spent; an answer that was asked for is in the cache at once.
        if set.freshness() != proto::Freshness::Live {
            sleep(WARM_PAUSE).await;
        }
    }
}
