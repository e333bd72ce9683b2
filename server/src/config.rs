//! What can be set, and whether it makes sense: everything is checked before a socket is bound. The
//! doc comments are the text of `--help`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::ValueEnum;
use touchline_auth::{AuthArgs, CallerArgs};
use touchline_runtime::traces::TraceArgs;
use touchline_store::event::DEFAULT_CONTEXT_KEYS;

use self::serving::ServingArgs;
use crate::recommend::{
    personalize::{PersonalizeConfig, Target},
    refinement::{CONTEXT_KEY_CHARACTERS_MAX, CONTEXT_KEYS_MAX, is_name},
    serving::RemoteLimits,
};

mod num_results;
pub mod serving;
#[cfg(test)]
mod tests;

pub use num_results::NumResults;

/// Interactions that the feedback file keeps: some 200 MB.
const FEEDBACK_MAX: usize = 1_000_000;

/// Who ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RecommenderKind {
    /// The contextual ranker in this process
    Embedded,
    /// An Amazon Personalize campaign
    Personalize,
}

/// The recommendation service.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerArgs {
    /// Address of the gRPC services; port 0 takes any free one
    #[arg(
        long,
        env = "TOUCHLINE_SERVER_LISTEN",
        default_value = "127.0.0.1:50051",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
    /// Address of metrics and health (HTTP: /metrics, /healthz, /readyz). They carry none of the data,
    /// so this may be any address without --insecure
    #[arg(
        long,
        env = "TOUCHLINE_METRICS_LISTEN",
        default_value = "127.0.0.1:9090",
        value_name = "ADDRESS"
    )]
    pub metrics_listen: SocketAddr,
    /// Serve beyond loopback although callers are not authenticated
    #[arg(long, env = "TOUCHLINE_INSECURE")]
    pub insecure: bool,
    /// Who may call.
    #[command(flatten)]
    pub auth: AuthArgs,
    /// What is presented to the push adapter's leader.
    #[command(flatten)]
    pub caller: CallerArgs,
    /// Who ranks items for consumers
    #[arg(
        long,
        env = "TOUCHLINE_RECOMMENDER",
        default_value = "embedded",
        value_enum
    )]
    pub recommender: RecommenderKind,
    /// Interactions that the embedded ranker learns from, also where it stands in for Personalize: a
    /// CSV file in Personalize's schema with context columns [default: none]
    #[arg(long, env = "TOUCHLINE_INTERACTIONS", value_name = "FILE")]
    pub interactions: Option<PathBuf>,
    /// File that keeps what RecordInteractions is told, for the embedded ranker; its folder must be
    /// writable, as FILE.lock and FILE.new stand beside it [default: kept in memory only]
    #[arg(long, env = "TOUCHLINE_FEEDBACK", value_name = "FILE")]
    pub feedback: Option<PathBuf>,
    /// Interactions that the feedback file keeps, the newest ones, 1 to 10,000,000; older ones are
    /// left out from time to time, when there are a quarter more
    #[arg(
        long,
        env = "TOUCHLINE_FEEDBACK_MAX",
        default_value_t = FEEDBACK_MAX,
        value_name = "COUNT"
    )]
    pub feedback_max: usize,
    /// The Personalize campaign to ask; this or --recommender-arn is needed with --recommender
    /// personalize
    #[arg(long, env = "TOUCHLINE_CAMPAIGN_ARN", value_name = "ARN")]
    pub campaign_arn: Option<String>,
    /// Region of the campaign [default: the one that its ARN names]
    #[arg(long, env = "TOUCHLINE_PERSONALIZE_REGION", value_name = "REGION")]
    pub personalize_region: Option<String>,
    /// Personalize runtime endpoint [default: AWS]
    #[arg(long, env = "TOUCHLINE_PERSONALIZE_ENDPOINT", value_name = "URL")]
    pub personalize_endpoint: Option<String>,
    /// One question to Personalize takes at most this long, 10ms to 30s
    #[arg(long, env = "TOUCHLINE_PERSONALIZE_TIMEOUT", default_value = "1s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub personalize_timeout: Duration,
    /// Questions to Personalize at the same time, 1 to 10,000
    #[arg(
        long,
        env = "TOUCHLINE_PERSONALIZE_CONCURRENCY",
        default_value_t = 256,
        value_name = "COUNT"
    )]
    pub personalize_concurrency: usize,
    /// How long a ranking of Personalize is served again to the same consumer in the same context,
    /// at most 1h
    #[arg(long, env = "TOUCHLINE_RANKING_TTL", default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub ranking_ttl: Duration,
    /// Size of the cache of Personalize's rankings, in bytes
    #[arg(
        long,
        env = "TOUCHLINE_RANKING_CACHE_BYTES",
        default_value_t = 64 << 20,
        value_name = "BYTES"
    )]
    pub ranking_cache_bytes: u64,
    /// Items that the recommender is asked for when the caller does not say: 1 to 500, or `all`, which
    /// is as many as the catalog has, 500 at most; with fewer, slots whose items all rank below stay
    /// empty
    #[arg(
        long,
        env = "TOUCHLINE_NUM_RESULTS",
        default_value_t = NumResults::Count(10),
        value_name = "COUNT|all"
    )]
    pub num_results: NumResults,
    /// What is known of consumers, a CSV file in Personalize's users schema: USER_ID and any of AGE,
    /// GENDER, COUNTRY and further columns [default: nothing is known of anybody]
    #[arg(long, env = "TOUCHLINE_USERS", value_name = "FILE")]
    pub users: Option<PathBuf>,
    /// What may be shown to whom, when and how often, a TOML file (docs/policies.md); read again
    /// when it changes [default: one item a type, to anybody, always]
    #[arg(long, env = "TOUCHLINE_POLICIES", value_name = "FILE")]
    pub policies: Option<PathBuf>,
    /// Memory of what was shown to whom, in bytes; used while policies have caps
    #[arg(
        long,
        env = "TOUCHLINE_IMPRESSIONS_BYTES",
        default_value_t = 64 << 20,
        value_name = "BYTES"
    )]
    pub impressions_bytes: u64,
    /// Event attributes that the recommender is asked with, in upper case, separated by commas
    #[arg(
        long,
        env = "TOUCHLINE_CONTEXT_KEYS",
        value_delimiter = ',',
        default_values = DEFAULT_CONTEXT_KEYS,
        value_name = "KEYS"
    )]
    pub context_keys: Vec<String>,
    /// How often the item table is read again, 1s to 1h
    #[arg(long, env = "TOUCHLINE_CATALOG_REFRESH", default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub catalog_refresh: Duration,
    /// Deadline of a call whose caller gives none, 10ms to 10m
    #[arg(long, env = "TOUCHLINE_DEFAULT_DEADLINE", default_value = "5s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub default_deadline: Duration,
    /// Calls in flight; further ones are answered RESOURCE_EXHAUSTED at once, 1 to 1,000,000
    #[arg(
        long,
        env = "TOUCHLINE_MAX_CALLS",
        default_value_t = 1_024,
        value_name = "COUNT"
    )]
    pub max_calls: usize,
    /// BatchGetComponents streams at the same time, 1 to 10,000
    #[arg(
        long,
        env = "TOUCHLINE_MAX_BATCHES",
        default_value_t = 256,
        value_name = "COUNT"
    )]
    pub max_batches: usize,
    /// WatchEvent streams at the same time, 1 to 1,000,000
    #[arg(
        long,
        env = "TOUCHLINE_MAX_WATCHES",
        default_value_t = 10_000,
        value_name = "COUNT"
    )]
    pub max_watches: usize,
    /// Connections at the same time; further ones are closed at once, 1 to 1,000,000
    #[arg(
        long,
        env = "TOUCHLINE_MAX_CONNECTIONS",
        default_value_t = 10_000,
        value_name = "COUNT"
    )]
    pub max_connections: usize,
    /// Callers connect anew after this, so that load spreads over replicas as they come and go:
    /// connections end with GOAWAY once their calls have, WatchEvent streams with UNAVAILABLE up to a
    /// tenth earlier; 1s to 24h, or 0s for never
    #[arg(long, env = "TOUCHLINE_MAX_CONNECTION_AGE", default_value = "30m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub max_connection_age: Duration,
    /// On shutdown, calls have this long to end, at most 10m
    #[arg(long, env = "TOUCHLINE_DRAIN", default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub drain: Duration,
    #[command(flatten)]
    /// How Personalize is asked, and what stands in for it.
    pub serving: ServingArgs,
    #[command(flatten)]
    /// Where traces are sent.
    pub traces: TraceArgs,
}

impl Default for ServerArgs {
    /// The defaults of the flags, whatever the environment says.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 50_051)),
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 9_090)),
            insecure: false,
            auth: AuthArgs::default(),
            caller: CallerArgs::default(),
            recommender: RecommenderKind::Embedded,
            interactions: None,
            feedback: None,
            feedback_max: FEEDBACK_MAX,
            campaign_arn: None,
            personalize_region: None,
            personalize_endpoint: None,
            personalize_timeout: Duration::from_secs(1),
            personalize_concurrency: 256,
            ranking_ttl: Duration::from_secs(30),
            ranking_cache_bytes: 64 << 20,
            num_results: NumResults::Count(10),
            users: None,
            policies: None,
            impressions_bytes: 64 << 20,
            context_keys: DEFAULT_CONTEXT_KEYS.map(str::to_owned).to_vec(),
            catalog_refresh: Duration::from_secs(30),
            default_deadline: Duration::from_secs(5),
            max_calls: 1_024,
            max_batches: 256,
            max_watches: 10_000,
            max_connections: 10_000,
            max_connection_age: Duration::from_mins(30),
            drain: Duration::from_secs(10),
            serving: ServingArgs::default(),
            traces: TraceArgs::default(),
        }
    }
}

/// A flag whose value cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag} {value}: {accepted}")]
pub struct InvalidFlag {
    /// The flag.
    pub flag: &'static str,
    /// Its value.
    pub value: String,
    /// What would be accepted.
    pub accepted: String,
}

impl From<touchline_auth::InvalidFlag> for InvalidFlag {
    fn from(invalid: touchline_auth::InvalidFlag) -> Self {
        Self {
            flag: invalid.flag,
            value: invalid.value,
            accepted: invalid.accepted,
        }
    }
}

impl ServerArgs {
    /// Checks everything that can be checked without a socket.
    pub fn validate(&self) -> Result<(), InvalidFlag> {
        self.auth.validate()?;
        if !self.listen.ip().is_loopback() && !self.insecure && !self.auth.is_on() {
            let accepted = "a loopback address is accepted, or any with --auth-jwks or \
                            --tls-client-ca, or with --insecure: callers are not authenticated";
            return Err(refuse("--listen", self.listen, accepted));
        }
        let ms = Duration::from_millis;
        let seconds = Duration::from_secs;
        let hour = Duration::from_hours(1);
        let minutes = Duration::from_mins(10);
        let timeout = self.personalize_timeout;
        duration("--personalize-timeout", timeout, ms(10), seconds(30))?;
        duration("--ranking-ttl", self.ranking_ttl, Duration::ZERO, hour)?;
        duration("--catalog-refresh", self.catalog_refresh, seconds(1), hour)?;
        let deadline = self.default_deadline;
        duration("--default-deadline", deadline, ms(10), minutes)?;
        if !self.max_connection_age.is_zero() {
            let (age, day) = (self.max_connection_age, Duration::from_hours(24));
            duration("--max-connection-age", age, seconds(1), day)?;
        }
        duration("--drain", self.drain, Duration::ZERO, minutes)?;
        let concurrency = self.personalize_concurrency;
        count("--personalize-concurrency", concurrency, 10_000)?;
        let num_results = self.num_results;
        let checked = num_results.check();
        checked.map_err(|accepted| refuse("--num-results", num_results, accepted))?;
        count("--feedback-max", self.feedback_max, 10_000_000)?;
        count("--max-calls", self.max_calls, 1_000_000)?;
        count("--max-batches", self.max_batches, 10_000)?;
        count("--max-watches", self.max_watches, 1_000_000)?;
        count("--max-connections", self.max_connections, 1_000_000)?;
        self.validate_context_keys()?;
        self.validate_files()?;
        let count = match self.num_results {
            NumResults::Count(count) => count as usize,
            // Asks for no more than may be asked for with metadata.
            NumResults::All => 1,
        };
        self.serving.validate(count)?;
        if self.recommender == RecommenderKind::Personalize {
            self.personalize()?;
        }
        Ok(())
    }

    fn validate_context_keys(&self) -> Result<(), InvalidFlag> {
        count("--context-keys", self.context_keys.len(), CONTEXT_KEYS_MAX)?;
        for key in &self.context_keys {
            if !is_name(key, CONTEXT_KEY_CHARACTERS_MAX) || *key != key.to_uppercase() {
                let accepted = "keys in upper case, separated by commas, such as MATCH_EVENT; at \
                                most 150 letters, digits and _ each";
                return Err(refuse("--context-keys", key, accepted));
            }
        }
        Ok(())
    }

    fn validate_files(&self) -> Result<(), InvalidFlag> {
        if let Some(path) = &self.interactions
            && !path.is_file()
        {
            let accepted = "a file that exists";
            return Err(refuse("--interactions", path.display(), accepted));
        }
        if let Some(path) = &self.users
            && !path.is_file()
        {
            let accepted = "a file that exists";
            return Err(refuse("--users", path.display(), accepted));
        }
        if let Some(path) = &self.policies
            && !path.is_file()
        {
            let accepted = "a file that exists";
            return Err(refuse("--policies", path.display(), accepted));
        }
        if let Some(path) = &self.feedback
            && path.is_dir()
        {
            let accepted = "a file, which is made when it does not exist";
            return Err(refuse("--feedback", path.display(), accepted));
        }
        Ok(())
    }

    /// How Personalize is reached, checked.
    pub(crate) fn personalize(&self) -> Result<PersonalizeConfig, InvalidFlag> {
        let target = self.target()?;
        if let Some(endpoint) = &self.personalize_endpoint {
            let uri = endpoint.parse::<http::Uri>().ok();
            if !uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https"))) {
                let accepted = "a URL such as https://personalize-runtime.eu-west-1.amazonaws.com";
                return Err(refuse("--personalize-endpoint", endpoint, accepted));
            }
        }
        Ok(PersonalizeConfig {
            region: self
                .personalize_region
                .clone()
                .unwrap_or_else(|| target.region().to_owned()),
            target,
            endpoint: self.personalize_endpoint.clone(),
            timeout: self.personalize_timeout,
        })
    }

    /// What is asked: by the file, if one is given, otherwise by the ARN.
    fn target(&self) -> Result<Target, InvalidFlag> {
        if let Some(path) = &self.serving.campaign_file {
            let arn = std::fs::read_to_string(path).unwrap_or_default();
            return Target::parse(arn.trim()).ok_or_else(|| {
                let accepted = "a file that holds one ARN, of a campaign or of a recommender";
                refuse("--campaign-file", path.display(), accepted)
            });
        }
        let (flag, example, arn) = match &self.serving.recommender_arn {
            Some(arn) => ("--recommender-arn", "recommender/NAME", arn.clone()),
            None => {
                let arn = self.campaign_arn.clone().unwrap_or_default();
                ("--campaign-arn", "campaign/NAME", arn)
            }
        };
        let example = format!("arn:aws:personalize:REGION:ACCOUNT:{example}");
        let target = Target::parse(&arn);
        let is_kind = |target: &Target| {
            let recommender = matches!(target, Target::Recommender(_));
            recommender == self.serving.recommender_arn.is_some()
        };
        target.filter(is_kind).ok_or_else(|| {
            let accepted = match arn.is_empty() {
                true => format!("{example} is needed with --recommender personalize"),
                false => format!("{example} is accepted"),
            };
            refuse(flag, arn, accepted)
        })
    }

    pub(crate) fn remote_limits(&self) -> RemoteLimits {
        RemoteLimits {
            time_to_live: self.ranking_ttl,
            cache_bytes: self.ranking_cache_bytes,
            concurrency: self.personalize_concurrency,
            stale_for: self.serving.ranking_stale,
            per_second: f64::from(self.serving.personalize_tps),
            patience: self.serving.patience,
            late: self.serving.late_answers,
        }
    }
}

fn refuse(
    flag: &'static str,
    value: impl std::fmt::Display,
    accepted: impl Into<String>,
) -> InvalidFlag {
    InvalidFlag {
        flag,
        value: value.to_string(),
        accepted: accepted.into(),
    }
}

fn duration(
    flag: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
) -> Result<(), InvalidFlag> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let [value, min, max] = [value, min, max].map(humantime::format_duration);
    let accepted = format!("{min} to {max} is accepted");
    Err(refuse(flag, value, accepted))
}

fn count(flag: &'static str, value: usize, max: usize) -> Result<(), InvalidFlag> {
    if (1..=max).contains(&value) {
        return Ok(());
    }
    Err(refuse(flag, value, format!("1 to {max} is accepted")))
}
