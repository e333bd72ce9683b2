//! All of Touchline in one process: an embedded DynamoDB, the server, the push adapter. What
//! `touchline local` starts is what the tests start. Holds no behaviour of its own: the parts talk
//! over the same sockets as on a cluster.

pub(crate) mod ports;
mod seed;

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    time::Duration,
};

use clap::{ArgAction, Args, Parser};
use tempfile::TempDir;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use touchline_push::{PushArgs, Round, config::LookupArgs};
use touchline_runtime::traces::TraceArgs;
use touchline_server::{
    ServerArgs,
    config::{NumResults, RecommenderKind},
};
use touchline_store::{
    aws::AwsArgs,
    embedded::{Embedded, Place},
    tables::{Store, StoreArgs, TableNames},
};

use crate::Error;

/// How often the push adapter looks at the embedded stream, which costs next to nothing and is not
/// subject to AWS's five readings a second.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The embedded index shows a row at once, so that only who registered during a fan-out is late.
const SECOND_LOOK: Duration = Duration::from_millis(100);
/// The store belongs to this process, so nobody waits for the lease: a machine that is busy for a
/// while shall not lose it.
const LEASE_DURATION: Duration = Duration::from_secs(60);

/// Longest wait for the end of a part, which drains for ten seconds at most.
const END_MAX: Duration = Duration::from_secs(15);

/// The parts, as they are named to people.
const EMBEDDED: &str = "the embedded DynamoDB";
const SERVER: &str = "the server";
const PUSH: &str = "the push adapter";

/// What runs, and where.
#[derive(Debug, Clone, Args)]
pub struct StackArgs {
    /// Folder of the data; made when absent, used by one process at a time
    #[arg(
        long,
        env = "TOUCHLINE_DATA_DIR",
        default_value = ".touchline",
        value_name = "FOLDER"
    )]
    pub data_dir: PathBuf,
    /// Keep everything in memory: gone at the end
    #[arg(long, env = "TOUCHLINE_MEMORY")]
    pub memory: bool,
    /// Leave an empty store empty, instead of filling it with the demo's items and consumers
    #[arg(long = "no-demo", action = ArgAction::SetFalse)]
    pub demo: bool,
    /// Port of the fans' WebSocket; 0, here as below, takes any free one
    #[arg(
        long,
        env = "TOUCHLINE_FANS_PORT",
        default_value_t = 8081,
        value_name = "PORT"
    )]
    pub fans_port: u16,
    /// Port of the gateway's management API, `/@connections`
    #[arg(
        long,
        env = "TOUCHLINE_MANAGEMENT_PORT",
        default_value_t = 8082,
        value_name = "PORT"
    )]
    pub management_port: u16,
    /// Port of the server's gRPC services
    #[arg(
        long,
        env = "TOUCHLINE_GRPC_PORT",
        default_value_t = 50051,
        value_name = "PORT"
    )]
    pub grpc_port: u16,
    /// Port of the push adapter's gRPC service, the change feed
    #[arg(
        long,
        env = "TOUCHLINE_PUSH_GRPC_PORT",
        default_value_t = 50052,
        value_name = "PORT"
    )]
    pub push_grpc_port: u16,
    /// Port of the server's metrics and health
    #[arg(
        long,
        env = "TOUCHLINE_METRICS_PORT",
        default_value_t = 9090,
        value_name = "PORT"
    )]
    pub metrics_port: u16,
    /// Port of the push adapter's metrics and health
    #[arg(
        long,
        env = "TOUCHLINE_PUSH_METRICS_PORT",
        default_value_t = 9091,
        value_name = "PORT"
    )]
    pub push_metrics_port: u16,
    /// Port of the embedded DynamoDB
    #[arg(
        long,
        env = "TOUCHLINE_DYNAMODB_PORT",
        default_value_t = 8000,
        value_name = "PORT"
    )]
    pub dynamodb_port: u16,
    /// Stage: the path of the fans' WebSocket address
    #[arg(
        long,
        env = "TOUCHLINE_STAGE",
        default_value = "dev",
        value_name = "NAME"
    )]
    pub stage: String,
    /// Who ranks items for consumers
    #[arg(
        long,
        env = "TOUCHLINE_RECOMMENDER",
        default_value = "embedded",
        value_enum
    )]
    pub recommender: RecommenderKind,
    /// The Personalize campaign to ask; needed with --recommender personalize
    #[arg(long, env = "TOUCHLINE_CAMPAIGN_ARN", value_name = "ARN")]
    pub campaign_arn: Option<String>,
    /// Items that the recommender is asked for: 1 to 500, or `all`, which is as many as the catalog
    /// has, 500 at most; with fewer, slots whose items all rank below stay empty
    #[arg(
        long,
        env = "TOUCHLINE_NUM_RESULTS",
        default_value_t = NumResults::All,
        value_name = "COUNT|all"
    )]
    pub num_results: NumResults,
    /// Interactions that the embedded ranker learns from, a CSV file in Personalize's schema with
    /// context columns [default: interactions.csv in the data folder, where the demo's are written
    /// if there is none]
    #[arg(long, env = "TOUCHLINE_INTERACTIONS", value_name = "FILE")]
    pub interactions: Option<PathBuf>,
    /// What is known of consumers, a CSV file in Personalize's users schema: USER_ID and any of AGE,
    /// GENDER, COUNTRY and further columns [default: nothing is known of anybody]
    #[arg(long, env = "TOUCHLINE_USERS", value_name = "FILE")]
    pub users: Option<PathBuf>,
    /// What may be shown to whom, when and how often, a TOML file (docs/policies.md); read again when
    /// it changes [default: one item a type, to anybody, always]
    #[arg(long, env = "TOUCHLINE_POLICIES", value_name = "FILE")]
    pub policies: Option<PathBuf>,
    /// Where traces are sent
    #[command(flatten)]
    pub traces: TraceArgs,
}

impl StackArgs {
    /// A stack for itself: in memory, on free ports, empty.
    pub fn in_memory() -> Self {
        Self {
            data_dir: PathBuf::new(),
            memory: true,
            demo: false,
            fans_port: 0,
            management_port: 0,
            grpc_port: 0,
            push_grpc_port: 0,
            metrics_port: 0,
            push_metrics_port: 0,
            dynamodb_port: 0,
            stage: "dev".to_owned(),
            recommender: RecommenderKind::Embedded,
            campaign_arn: None,
            num_results: ServerArgs::default().num_results,
            interactions: None,
            users: None,
            policies: None,
            traces: TraceArgs::default(),
        }
    }
}

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// The embedded DynamoDB.
    pub dynamodb: SocketAddr,
    /// The server's gRPC services.
    pub grpc: SocketAddr,
    /// The push adapter's change feed.
    pub push_grpc: SocketAddr,
    /// The fans' WebSocket front.
    pub fans: SocketAddr,
    /// The front's management API.
    pub management: SocketAddr,
    /// The server's metrics and health.
    pub metrics: SocketAddr,
    /// The push adapter's metrics and health.
    pub push_metrics: SocketAddr,
    /// The path of the front.
    pub stage: String,
}

impl Addresses {
    /// The server's address as a client takes it.
    pub fn server_url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// The gateway's address as a fan takes it.
    pub fn gateway_url(&self) -> String {
        format!("ws://{}/{}", self.fans, self.stage)
    }

    /// DynamoDB's address as any AWS client takes it.
    pub fn dynamodb_url(&self) -> String {
        format!("http://{}", self.dynamodb)
    }
}

/// A running system. Dropping it ends it somehow; [`Stack::stop`] ends it in order.
#[derive(Debug)]
pub struct Stack {
    addresses: Addresses,
    store: Store,
    push: touchline_push::Running,
    push_shutdown: CancellationToken,
    server: touchline_server::Running,
    server_shutdown: CancellationToken,
    embedded: Embedded,
    // Where a stack in memory keeps the files that its parts read.
    _files: Option<TempDir>,
}

impl Stack {
    /// Starts everything, the store first, and waits until it serves. Ports are tried before anything
    /// is started.
    pub async fn start(args: StackArgs) -> Result<Self, Error> {
        ports::check(&args)?;
        let (folder, files) = folder(&args)?;
        let place = match args.memory {
            true => Place::Memory,
            false => Place::Folder(folder.join("tables")),
        };
        let embedded = Embedded::start(place, local(args.dynamodb_port)).await?;
        let store = Store::connect(&StoreArgs {
            aws: AwsArgs {
                region: None,
                dynamodb_endpoint: Some(format!("http://{}", embedded.address())),
            },
            names: table_names(),
        })
        .await;
        store.prepare().await?;
        let interactions = seed::seed(&args, &store, &folder).await?;

        let server_shutdown = CancellationToken::new();
        let server_args = ServerArgs {
            listen: local(args.grpc_port),
            metrics_listen: local(args.metrics_port),
            recommender: args.recommender,
            campaign_arn: args.campaign_arn,
            num_results: args.num_results,
            interactions,
            users: args.users,
            policies: args.policies,
            feedback: Some(folder.join("feedback.csv")),
            traces: args.traces.clone(),
            ..ServerArgs::default()
        };
        // Boxed: what starts holds its whole configuration.
        let starting = touchline_server::start(server_args, store.clone(), server_shutdown.clone());
        let server = Box::pin(starting)
            .await
            .map_err(|source| part("the server does not start", source))?;

        let push_shutdown = CancellationToken::new();
        let push_args = PushArgs {
            listen: local(args.push_grpc_port),
            lookup: LookupArgs {
                server: format!("http://{}", server.grpc_address),
                ..PushArgs::default().lookup
            },
            fans_listen: local(args.fans_port),
            management_listen: local(args.management_port),
            metrics_listen: local(args.push_metrics_port),
            stage: args.stage.clone(),
            sole_leader: true,
            poll_interval: POLL_INTERVAL,
            shard_reads_per_second: NonZeroU32::MAX,
            second_look: SECOND_LOOK,
            lease_duration: LEASE_DURATION,
            traces: args.traces,
            ..PushArgs::default()
        };
        let starting = touchline_push::start(push_args, store.clone(), push_shutdown.clone());
        let push = Box::pin(starting)
            .await
            .map_err(|source| part("the push adapter does not start", source))?;

        server
            .ready()
            .await
            .map_err(|source| part("the server does not become ready", source))?;
        // An error says that it ended before it led, which the parts' own end says better.
        let _ = push.led().wait_for(Option::is_some).await;

        let fronts = "a push adapter with local connections has its front in this process";
        Ok(Self {
            addresses: Addresses {
                dynamodb: embedded.address(),
                grpc: server.grpc_address,
                push_grpc: push.grpc_address,
                fans: push.fans_address.expect(fronts),
                management: push.management_address.expect(fronts),
                metrics: server.metrics_address,
                push_metrics: push.metrics_address,
                stage: args.stage,
            },
            store,
            push,
            push_shutdown,
            server,
            server_shutdown,
            embedded,
            _files: files,
        })
    }

    /// Where everything is.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The tables.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// How many fans are connected.
    pub fn fans(&self) -> usize {
        self.push.fans()
    }

    /// Each finished fan-out from now on. A reader that is too slow loses the oldest.
    pub fn rounds(&self) -> broadcast::Receiver<Round> {
        self.push.rounds()
    }

    /// Waits until a part ends although nobody asked it to, and names it. What is left is for
    /// [`Stack::stop`].
    pub async fn part_ended(&self) -> &'static str {
        let mut led = self.push.led();
        tokio::select! {
            () = self.embedded.ended() => EMBEDDED,
            () = self.server.ending() => SERVER,
            // Nothing but the end of the leader closes it.
            _ = led.wait_for(|_| false) => PUSH,
        }
    }

    /// Ends everything in order: the push adapter, the server, the store. Each part ends even if
    /// one before it did not end well, or not in time; the first such error is returned.
    pub async fn stop(self) -> Result<(), Error> {
        self.push_shutdown.cancel();
        let push = ended("the push adapter does not end well", self.push.stopped()).await;
        self.server_shutdown.cancel();
        let server = ended("the server does not end well", self.server.stopped()).await;
        self.embedded.stop().await;
        push.and(server)
    }
}

/// Waits for a part's end, but not for ever: one that has lost what it needs may hang on to it.
async fn ended<E>(
    what: &'static str,
    stopped: impl Future<Output = Result<(), E>>,
) -> Result<(), Error>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match tokio::time::timeout(END_MAX, stopped).await {
        Ok(ended) => ended.map_err(|source| part(what, source)),
        Err(_) => Err(part(what, format!("not within {} s", END_MAX.as_secs()))),
    }
}

/// The folder of the data, made if need be: a temporary one for a stack in memory.
fn folder(args: &StackArgs) -> Result<(PathBuf, Option<TempDir>), Error> {
    if args.memory {
        let files = tempfile::tempdir().map_err(|error| Error::File {
            path: std::env::temp_dir(),
            reason: format!("no temporary folder can be made there: {error}"),
        })?;
        return Ok((files.path().to_owned(), Some(files)));
    }
    std::fs::create_dir_all(&args.data_dir).map_err(|error| Error::File {
        path: args.data_dir.clone(),
        reason: format!(
            "the data folder cannot be made: {error}; --data-dir names another, --memory needs none"
        ),
    })?;
    Ok((args.data_dir.clone(), None))
}

/// The tables' own names: nobody else uses an embedded store.
fn table_names() -> TableNames {
    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        names: TableNames,
    }
    Alone::parse_from(["touchline"]).names
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn part(what: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Part {
        what,
        source: source.into(),
    }
}

/// A part, and what makes it end as if by itself.
#[cfg(test)]
type PartAndEnd = (&'static str, fn(&Stack));

#[cfg(test)]
impl Stack {
    pub(crate) const PARTS: [PartAndEnd; 3] = [
        (EMBEDDED, |stack| stack.embedded.begin_stop()),
        (SERVER, |stack| stack.server_shutdown.cancel()),
        (PUSH, |stack| stack.push_shutdown.cancel()),
    ];
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_is_named() {
        for (part, end) in Stack::PARTS {
            let stack = Stack::start(StackArgs::in_memory()).await.unwrap();
            let mut ended = std::pin::pin!(stack.part_ended());
            assert!(poll!(&mut ended).is_pending(), "all parts are there");
            end(&stack);
            let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
            assert_eq!(ended, Ok(part));
        }
    }
}
