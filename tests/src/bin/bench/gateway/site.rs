//! What is measured, a process each: a DynamoDB, touchline-server, a push adapter that leads and has no
//! fans, and a gateway that has them all. Personalize's stand-in is in this process; it is asked only
//! until the cache is filled.

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use futures::StreamExt;
use prost::Message;
use tempfile::{NamedTempFile, TempDir};
use tokio::time::{Instant, sleep};
use touchline_cli::{demo, items_csv};
use touchline_client::{Client, Deadlines, proto};
use touchline_store::tables::Store;
use touchline_tests::{
    calls,
    personalize::{CAMPAIGN_ARN, StandIn},
};

use super::{
    book::{Book, Consumer},
    script::{EVENT, STATES, message, row},
};
use crate::{
    dynamodb::DynamoDb,
    load::unix_ns,
    service::{ANY, Service, adapter_flags, text},
    system::DEADLINE,
};

/// Consumers of one call, as the push adapter asks.
const PAGE: usize = 500;

/// Pause between two looks at something that is to come about.
const LOOK: Duration = Duration::from_millis(20);

/// Flags of a gateway to whom all fans come from one address, and many are one consumer.
const LIMITS: [(&str, &str); 3] = [
    ("--handshakes-per-address", "1000000"),
    ("--messages-per-address", "1000000"),
    ("--messages-per-consumer", "1000000"),
];

/// Who holds the fans' connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Front {
    /// The gateway role
    Gateway,
    /// An adapter that never leads, whose connections the leader posts to: it counts no states, so that
    /// what it did is not balanced
    NeverLead,
}

/// The processes but for the gateway; killed when dropped.
pub(super) struct Site {
    front: Front,
    /// Flags that each process has more.
    extra: Vec<(String, String)>,
    /// Where the metrics of the server and of the leader are.
    pub(super) metrics: Vec<String>,
    dynamodb: DynamoDb,
    server: Service,
    leader: Service,
    server_url: String,
    client: Client,
    store: Store,
    stand_in: StandIn,
    /// The number of the state that was written last.
    state: Cell<usize>,
    /// For files that processes hand to each other.
    pub(super) folder: TempDir,
}

/// The process that holds the fans' connections; killed when dropped.
pub(super) struct Gateway {
    pub(super) service: Service,
    pub(super) address: SocketAddr,
    /// Where its metrics are; `None` where it counts no states.
    pub(super) metrics: Option<String>,
}

impl Site {
    /// Starts all of it with the demo's catalog, and waits until the server answers from the change
    /// feed.
    pub(super) async fn start(front: Front) -> Result<Self> {
        Self::start_with(front, &[]).await
    }

    /// The same, each process with these flags more.
    pub(super) async fn start_with(front: Front, extra: &[(&str, &str)]) -> Result<Self> {
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
            ("--personalize-tps", "100000"),
            // Everybody's own answer is waited for, and what is cached stays so for the whole run.
            ("--patience", "30s"),
            ("--ranking-ttl", "1h"),
            ("--ranking-cache-bytes", "4000000000"),
        ];
        flags.extend(extra);
        let messages = ["metrics and health listen", "gRPC listens", "ready"];
        let (server, [observed, listens, _]) =
            Service::start(("server", "touchline-server"), &flags, messages).await?;
        let server_url = format!("http://{}", text(&listens, "address")?);
        let mut flags = adapter_flags(&dynamodb.endpoint, &server_url);
        // A machine that is busy for a moment is no reason to have another term, and messages twice.
        flags.extend([("--fans-listen", ANY), ("--lease-duration", "10s")]);
        flags.extend(extra);
        let (leader, [started]) =
            Service::start(("leader", "touchline-push"), &flags, ["started"]).await?;
        let deadlines = Deadlines {
            batch: 2 * DEADLINE,
            ..Deadlines::default()
        };
        let owned = |(flag, value): &(&str, &str)| ((*flag).to_owned(), (*value).to_owned());
        let site = Self {
            front,
            extra: extra.iter().map(owned).collect(),
            metrics: vec![
                text(&observed, "address")?.to_owned(),
                text(&started, "metrics")?.to_owned(),
            ],
            client: Client::connect(&server_url)?.with_deadlines(deadlines),
            dynamodb,
            server,
            leader,
            server_url,
            store,
            stand_in,
            state: Cell::new(0),
            folder: tempfile::tempdir()?,
        };
        site.change(0).await?;
        site.follows().await?;
        Ok(site)
    }

    /// Starts a gateway without fans, on any free port.
    pub(super) async fn gateway(&self, extra: &[(&str, &str)]) -> Result<Gateway> {
        self.gateway_at(ANY, extra).await
    }

    /// The same at an address.
    pub(super) async fn gateway_at(
        &self,
        address: &str,
        extra: &[(&str, &str)],
    ) -> Result<Gateway> {
        let (endpoint, server) = (&*self.dynamodb.endpoint, &*self.server_url);
        let mut flags = match self.front {
            Front::Gateway => vec![
                ("gateway", ""),
                ("--dynamodb-endpoint", endpoint),
                ("--server", server),
                ("--listen", "127.0.0.1:0"),
            ]
            .into_iter()
            .chain(LIMITS)
            .collect(),
            Front::NeverLead => {
                let mut flags = adapter_flags(endpoint, server);
                flags.push(("--never-lead", ""));
                flags
            }
        };
        flags.extend([
            ("--fans-listen", address),
            ("--stage", "dev"),
            ("--fans-max", "20000"),
            ("--fans-per-address-max", "20000"),
        ]);
        flags.extend(self.extra.iter().map(|(flag, value)| (&**flag, &**value)));
        flags.extend(extra);
        let (service, [started]) =
            Service::start(("gateway", "touchline-push"), &flags, ["started"]).await?;
        // Where there can be none, an address is logged as an option.
        let address = text(&started, "fans")?;
        let address = address.strip_prefix("Some(").unwrap_or(address);
        let metrics = text(&started, "metrics")?.to_owned();
        Ok(Gateway {
            service,
            address: address.trim_end_matches(')').parse()?,
            metrics: (self.front == Front::Gateway).then_some(metrics),
        })
    }

    /// Lets the match have a state, as any DynamoDB client does; gives when the write began, in
    /// nanoseconds since 1970.
    pub(super) async fn change(&self, state: usize) -> Result<u64> {
        let row = row(state)?;
        let begin = unix_ns(SystemTime::now());
        self.store.put_event(&row, false).await?;
        self.state.set(state);
        Ok(begin)
    }

    /// The number of the state that was written last.
    pub(super) fn state(&self) -> usize {
        self.state.get()
    }

    /// The number of the one that comes next.
    pub(super) fn next_state(&self) -> usize {
        (self.state() + 1) % STATES
    }

    /// The processes that a push costs something beside the gateway.
    pub(super) fn pids(&self) -> [u32; 3] {
        [self.dynamodb.pid, self.server.pid, self.leader.pid]
    }

    /// How often Personalize was asked.
    pub(super) fn asked(&self) -> u64 {
        self.stand_in.calls_total()
    }

    /// Has the server fill its cache with everybody's ranking in each state, and writes down what it
    /// shows.
    pub(super) async fn book(&self, consumers: &[String]) -> Result<NamedTempFile> {
        let mut book = Book {
            versions: Vec::new(),
            consumers: consumers.iter().map(|id| Consumer::new(id)).collect(),
        };
        for state in 0..STATES {
            let version = row(state)?.version().as_str().to_owned();
            for page in book.consumers.chunks_mut(PAGE) {
                self.note(page, state, &version).await?;
            }
            book.versions.push(version);
        }
        let file = NamedTempFile::new_in(self.folder.path())?;
        std::fs::write(file.path(), book.encode_to_vec())?;
        Ok(file)
    }

    async fn note(&self, page: &mut [Consumer], state: usize, version: &str) -> Result<()> {
        let start = Instant::now();
        let mut missing: BTreeMap<String, &mut Consumer> = page
            .iter_mut()
            .map(|consumer| (consumer.consumer_id.clone(), consumer))
            .collect();
        while !missing.is_empty() {
            ensure!(
                start.elapsed() < DEADLINE,
                "{} consumers are never answered from the cache",
                missing.len()
            );
            let consumers: Vec<String> = missing.keys().cloned().collect();
            let asked = message(state)?;
            let purpose = proto::Purpose::Warm;
            let mut answers =
                std::pin::pin!(self.client.batch_for(purpose, asked, consumers.clone()));
            while let Some(answer) = answers.next().await {
                let answer = answer.context("filling the cache")?;
                let Ok(set) = answer.component_set else {
                    continue;
                };
                let is_own = set.origin() == proto::Origin::Personalize;
                if is_own && set.freshness() == proto::Freshness::Cached {
                    let consumer = missing.remove(&consumers[answer.consumer_index]);
                    let consumer = consumer.context("answered twice")?;
                    consumer.note(state, version, &answer.recommendation_id, &set);
                }
            }
        }
        Ok(())
    }

    /// The ends of all logs, for a person to read.
    pub(super) fn logs(&self) -> String {
        [&self.server, &self.leader].map(Service::log).concat()
    }

    async fn follows(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let set = calls::components(&self.client, "nobody", EVENT).await?;
            if set.position.is_some() {
                return Ok(());
            }
            if start.elapsed() > DEADLINE {
                bail!("the change feed is not followed");
            }
            sleep(LOOK).await;
        }
    }
}
