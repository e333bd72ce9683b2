//! The processes of this benchmark and those who ask: a DynamoDB, touchline-server, and the stand-in for
//! Personalize in this process. Checks each answer; keeps no time.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use touchline_cli::{demo, items_csv};
use touchline_client::{Client, Deadlines, Situation, proto};
use touchline_tests::personalize::{Behaviour, Budget, CAMPAIGN_ARN, Latency, StandIn};

use super::{answers::Answers, pace::Pace};
use crate::{
    dynamodb::DynamoDb,
    service::{ANY, Service, text},
    system::DEADLINE,
};

/// Half of the answers of Personalize come within it.
const LATENCY_MEDIAN_MS: f64 = 30.0;
/// And 99 of 100 within three times that.
const LATENCY_SPREAD: f64 = 0.5;
/// How often it is looked whether something has come about.
const LOOK: Duration = Duration::from_millis(100);

/// What consumers were given.
pub(super) type Sets = Vec<(String, Arc<proto::ComponentSet>)>;

/// Everything that runs; killed when dropped.
pub(super) struct World {
    pub(super) stand_in: Arc<StandIn>,
    /// All of the users file.
    pub(super) fans: Vec<String>,
    server: Service,
    client: Client,
    metrics: String,
    types: HashMap<String, String>,
    _users: NamedTempFile,
    _dynamodb: DynamoDb,
}

impl World {
    /// With an empty cache.
    pub(super) async fn start(fans: usize, budget: u32) -> Result<Self> {
        let per_second = f64::from(budget);
        let behaviour = Behaviour {
            latency: Latency {
                median_ms: LATENCY_MEDIAN_MS,
                spread: LATENCY_SPREAD,
                ..Latency::default()
            },
            // Calls that were delayed on the way come together.
            budget: Some(Budget {
                per_second,
                burst: per_second,
            }),
            ..Behaviour::default()
        };
        let stand_in = Arc::new(StandIn::start(([127, 0, 0, 1], 0).into(), behaviour).await?);
        let dynamodb = DynamoDb::start().await?;
        let store = dynamodb.store().await;
        store.prepare().await?;
        let items = demo::items();
        store
            .put_items(&items, &items_csv::NUMERIC, &|_| {})
            .await?;
        let fans: Vec<String> = (0..fans).map(|number| format!("fan-{number}")).collect();
        let users = users_file(&fans)?;
        let path = users
            .path()
            .to_str()
            .context("a path of a temporary file")?;
        let tps = budget.to_string();
        let flags = [
            ("--dynamodb-endpoint", &*dynamodb.endpoint),
            ("--listen", ANY),
            ("--recommender", "personalize"),
            ("--campaign-arn", CAMPAIGN_ARN),
            ("--personalize-endpoint", &*stand_in.endpoint()),
            ("--personalize-tps", &*tps),
            ("--users", path),
            // What is cached stays fresh for the whole run, and everybody's own answer is waited for.
            ("--ranking-ttl", "1h"),
            ("--late-answers", "5m"),
            ("--max-calls", "10000"),
        ];
        let messages = ["metrics and health listen", "gRPC listens", "ready"];
        let (server, [observed, listens, _]) =
            Service::start(("server", "touchline-server"), &flags, messages).await?;
        let url = format!("http://{}", text(&listens, "address")?);
        Ok(Self {
            client: Client::connect(&url)?,
            metrics: text(&observed, "address")?.to_owned(),
            types: items
                .into_iter()
                .map(|item| (item.item_id.to_string(), item.item_type.to_string()))
                .collect(),
            stand_in,
            fans,
            server,
            _users: users,
            _dynamodb: dynamodb,
        })
    }

    /// The end of the server's log, for a person to read.
    pub(super) fn log(&self) -> String {
        self.server.log()
    }

    /// Counts calls of Personalize, from none.
    pub(super) fn pace(&self) -> Pace {
        self.stand_in.forget_calls();
        let stand_in = self.stand_in.clone();
        Pace::start(move || stand_in.calls_total())
    }

    /// Asks for one consumer, in an open-loop caller's time.
    pub(super) async fn get(
        &self,
        event: &str,
        consumer: &str,
        deadline: Duration,
        answers: &mut Answers,
    ) -> Result<()> {
        let client = self.client.clone().with_deadlines(Deadlines {
            call: deadline,
            ..Deadlines::default()
        });
        let values = [("MATCH_EVENT".to_owned(), event.to_owned())];
        let asked = client.get_components(consumer, Situation::Context(values.into()));
        match asked.await {
            Ok(set) => {
                answers.answered(&set);
                self.check(&set, event, consumer)
            }
            Err(_) => {
                answers.failed();
                Ok(())
            }
        }
    }

    /// Asks for many, as the push adapter does. The sets are for [`World::check_all`], once nobody is
    /// waited for: comparing takes longer than answering.
    pub(super) async fn batch(
        &self,
        event: &str,
        consumers: &[String],
        answers: &mut Answers,
    ) -> Result<Sets> {
        let state = proto::EventState {
            event_id: "1".to_owned(),
            attributes: [("match_event".to_owned(), event.to_owned())].into(),
            ..proto::EventState::default()
        };
        let mut given = std::pin::pin!(self.client.batch(state, consumers.to_vec()));
        let mut sets = Vec::with_capacity(consumers.len());
        while let Some(answer) = given.next().await {
            let answer = answer.context("a batch")?;
            match answer.component_set {
                Ok(set) => {
                    answers.answered(&set);
                    sets.push((consumers[answer.consumer_index].clone(), set));
                }
                Err(_) => answers.failed(),
            }
        }
        Ok(sets)
    }

    /// Each of Personalize's own answers must be its consumer's.
    pub(super) fn check_all(&self, event: &str, sets: &Sets) -> Result<()> {
        let mut sets = sets.iter();
        sets.try_for_each(|(consumer, set)| self.check(set, event, consumer))
    }

    /// Personalize's own answer must be this consumer's.
    fn check(&self, set: &proto::ComponentSet, event: &str, consumer: &str) -> Result<()> {
        if set.origin() != proto::Origin::Personalize {
            ensure!(!set.components.is_empty(), "nothing is shown to {consumer}");
            return Ok(());
        }
        let ranking = self
            .stand_in
            .ranking_of(consumer, &[("MATCH_EVENT", event)]);
        let mut expected = BTreeMap::new();
        for item_id in ranking.into_iter().take(10) {
            let item_type = self.types.get(&item_id).context("the stand-in's item")?;
            expected.entry(item_type.as_str()).or_insert(item_id);
        }
        let shown: BTreeMap<&str, String> = set
            .components
            .iter()
            .map(|component| (component.item_type.as_str(), component.item_id.clone()))
            .collect();
        ensure!(
            shown == expected,
            "{consumer} is shown {shown:?}, not {expected:?}"
        );
        Ok(())
    }

    /// Waits until so many calls came in; gives their number.
    pub(super) async fn asked_until(&self, calls: u64) -> Result<u64> {
        self.until("everybody's own ranking is asked for", || {
            let total = self.stand_in.calls_total();
            (total >= calls).then_some(total)
        })
        .await
    }

    /// Waits until everybody's ranking was asked for ahead, in this context.
    pub(super) async fn ahead(&self, event: &str) -> Result<()> {
        self.until("everybody is asked for ahead", || {
            let calls = self.stand_in.calls();
            let of = calls
                .iter()
                .filter(|(call, _)| call.context["MATCH_EVENT"] == event);
            (of.count() >= self.fans.len()).then_some(())
        })
        .await
    }

    async fn until<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> Result<T> {
        let (mut before, mut moved) = (0, Instant::now());
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            let total = self.stand_in.calls_total();
            if total != before {
                (before, moved) = (total, Instant::now());
            }
            ensure!(moved.elapsed() < DEADLINE, "stands still: {what}");
            sleep(LOOK).await;
        }
    }

    /// Personalize never had to throttle.
    pub(super) async fn check_throttles(&self) -> Result<()> {
        let throttled = "touchline_server_recommender_questions_total{outcome=\"throttled\"} ";
        let shown = timeout(DEADLINE, self.metrics()).await??;
        let line = shown.lines().find_map(|line| line.strip_prefix(throttled));
        match line {
            Some("0") => Ok(()),
            Some(count) => bail!("Personalize had to throttle {count} calls"),
            None => bail!("no metric {throttled}"),
        }
    }

    async fn metrics(&self) -> Result<String> {
        let mut stream = TcpStream::connect(&self.metrics).await?;
        let request = format!("GET /metrics HTTP/1.0\r\nhost: {}\r\n\r\n", self.metrics);
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

/// Everybody in one of 40 cohorts.
fn users_file(fans: &[String]) -> Result<NamedTempFile> {
    let mut text = "USER_ID,AGE,GENDER,COUNTRY\n".to_owned();
    for (number, fan) in fans.iter().enumerate() {
        let age = [20, 30, 40, 50, 60][number % 5];
        let gender = ["F", "M"][number / 5 % 2];
        let country = ["AR", "FR", "DE", "GB"][number / 10 % 4];
        writeln!(text, "{fan},{age},{gender},{country}")?;
    }
    let file = NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    Ok(file)
}
