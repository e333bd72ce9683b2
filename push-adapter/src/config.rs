//! The push adapter's flags. Everything is checked before the first socket is bound; nothing else
//! in this crate reads the environment.

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use clap::Parser as _;
use tonic::transport::Endpoint;
use touchline_auth::{AuthArgs, CallerArgs};
use touchline_runtime::traces::TraceArgs;

mod fans;
mod gateway;
mod lookup;
#[cfg(test)]
mod tests;

pub use fans::{FanAccess, FanLimits};
pub use gateway::GatewayArgs;
pub use lookup::LookupArgs;

/// Why the flags cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag's value cannot be accepted.
    #[error("{flag} {value}: {accepted}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What would be accepted.
        accepted: String,
    },
    /// A flag of authentication cannot be accepted.
    #[error(transparent)]
    Auth(#[from] touchline_auth::InvalidFlag),
    /// A listening address cannot be had.
    #[error("{flag} {address} cannot be bound; {flag} takes another address")]
    Bind {
        /// The flag that moves it.
        flag: &'static str,
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Which front holds the fans' connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Front {
    /// This process is a WebSocket front; rows of other fronts are posted to their own endpoint
    Local,
    /// API Gateway holds the connections; this process has no front
    ApiGateway,
}

/// Flags of the push adapter.
#[derive(Debug, Clone, clap::Args)]
pub struct PushArgs {
    /// Address of the change feed (gRPC), with health and reflection
    #[arg(
        long,
        env = "TOUCHLINE_PUSH_LISTEN",
        default_value = "127.0.0.1:50052",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
    /// URL under which others reach the change feed; written into the lease row [default: http://
    /// and the address of --listen]
    #[arg(long, env = "TOUCHLINE_PUSH_ADVERTISE", value_name = "URL")]
    pub advertise: Option<String>,
    /// How the server is asked.
    #[command(flatten)]
    pub lookup: LookupArgs,
    /// Which front holds the fans' connections
    #[arg(
        long,
        env = "TOUCHLINE_PUSH_CONNECTIONS",
        value_enum,
        default_value = "local",
        value_name = "FRONT"
    )]
    pub connections: Front,
    /// Where connections without an endpoint of their own are posted to, such as
    /// https://{api}.execute-api.{region}.amazonaws.com/{stage}
    #[arg(long, env = "TOUCHLINE_API_GATEWAY_ENDPOINT", value_name = "URL")]
    pub api_gateway_endpoint: Option<String>,
    /// Address of the fans' WebSocket front; the path is the stage
    #[arg(
        long,
        env = "TOUCHLINE_FANS_LISTEN",
        default_value = "127.0.0.1:8081",
        value_name = "ADDRESS"
    )]
    pub fans_listen: SocketAddr,
    /// Address of the front's management API, `/@connections`
    #[arg(
        long,
        env = "TOUCHLINE_MANAGEMENT_LISTEN",
        default_value = "127.0.0.1:8082",
        value_name = "ADDRESS"
    )]
    pub management_listen: SocketAddr,
    /// URL under which a leader elsewhere reaches the management API; written into session rows
    /// [default: http://, the address of --management-listen, and the stage]
    #[arg(long, env = "TOUCHLINE_MANAGEMENT_ADVERTISE", value_name = "URL")]
    pub management_advertise: Option<String>,
    /// Address of metrics and health (HTTP: /metrics, /healthz, /readyz). They carry none of the data,
    /// so this may be any address without --insecure
    #[arg(
        long,
        env = "TOUCHLINE_METRICS_LISTEN",
        default_value = "127.0.0.1:9091",
        value_name = "ADDRESS"
    )]
    pub metrics_listen: SocketAddr,
    /// Stage, the path of the fans' WebSocket URL
    #[arg(
        long,
        env = "TOUCHLINE_STAGE",
        default_value = "dev",
        value_name = "NAME"
    )]
    pub stage: String,
    /// Take the lease at once instead of watching whether its owner is alive: for a store that
    /// belongs to this process alone
    #[arg(long, env = "TOUCHLINE_SOLE_LEADER")]
    pub sole_leader: bool,
    /// Never take the lease: a front for fans alone, whose connections whoever leads posts to
    #[arg(long, env = "TOUCHLINE_NEVER_LEAD")]
    pub never_lead: bool,
    /// Listen beyond this machine without authentication
    #[arg(long, env = "TOUCHLINE_INSECURE")]
    pub insecure: bool,
    /// Who may connect and call.
    #[command(flatten)]
    pub auth: AuthArgs,
    /// What is presented to the server, and to whoever leads.
    #[command(flatten)]
    pub caller: CallerArgs,
    /// How often connections at API Gateway whose token has expired are looked for and closed: a scan
    /// of the session table; 0 for never, else 10s to 1h
    #[arg(long, env = "TOUCHLINE_EXPIRY_SWEEP", default_value = "1m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub expiry_sweep: Duration,
    /// A leader whose lease does not move for this long has lost it; 500ms to 5m
    #[arg(long, env = "TOUCHLINE_LEASE_DURATION", default_value = "2s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub lease_duration: Duration,
    /// Pause between two readings of the stream while changes come; five times as long, and at most
    /// 250ms, when none do. AWS allows 5 readings a second and shard, so 250ms is its minimum
    #[arg(long, env = "TOUCHLINE_POLL_INTERVAL", default_value = "250ms", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub poll_interval: Duration,
    /// Pages of each shard of the stream that are read a second at most, also while a backlog is read;
    /// AWS allows 5
    #[arg(
        long,
        env = "TOUCHLINE_SHARD_READS_PER_SECOND",
        default_value = "5",
        value_name = "N"
    )]
    pub shard_reads_per_second: NonZeroU32,
    /// Pause between a fan-out and the look for fans who registered while it went on, whom the
    /// eventually consistent index may not have shown yet; at most 1m
    #[arg(long, env = "TOUCHLINE_SECOND_LOOK", default_value = "1s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub second_look: Duration,
    /// Events that are fanned out at once; 1 to 1,000
    #[arg(
        long,
        env = "TOUCHLINE_EVENTS_AT_ONCE",
        default_value_t = 8,
        value_name = "N"
    )]
    pub events_at_once: usize,
    /// Posts to other fronts in flight, in all; 1 to 10,000
    #[arg(
        long,
        env = "TOUCHLINE_POSTS_AT_ONCE",
        default_value_t = 256,
        value_name = "N"
    )]
    pub posts_at_once: usize,
    /// Posts a second to the APIs of one region, which share an account's quota; less while they are
    /// throttled; 1 to 1,000,000
    #[arg(
        long,
        env = "TOUCHLINE_POSTS_PER_SECOND",
        default_value_t = 10_000,
        value_name = "N"
    )]
    pub posts_per_second: u32,
    /// One post's time; a leader stops posting this long before its lease ends
    #[arg(long, env = "TOUCHLINE_POST_TIMEOUT", default_value = "1s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub post_timeout: Duration,
    /// Calls to the session table on behalf of fans and gone connections in flight; 1 to 10,000
    #[arg(
        long,
        env = "TOUCHLINE_SESSION_CALLS_AT_ONCE",
        default_value_t = 64,
        value_name = "N"
    )]
    pub session_calls_at_once: usize,
    /// How long shutdown waits for work in flight
    #[arg(long, env = "TOUCHLINE_DRAIN_TIMEOUT", default_value = "2s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub drain_timeout: Duration,
    /// Who may come to the WebSocket front.
    #[command(flatten)]
    pub fan_access: FanAccess,
    /// Limits of the WebSocket front.
    #[command(flatten)]
    pub fans: FanLimits,
    /// Where traces are sent.
    #[command(flatten)]
    pub traces: TraceArgs,
}

impl Default for PushArgs {
    /// The flags as they are when none is given.
    fn default() -> Self {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            push: PushArgs,
        }
        Alone::parse_from(["touchline-push"]).push
    }
}

impl PushArgs {
    /// Checks every flag; the error names the first that cannot be used.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.auth.validate()?;
        self.validate_addresses()?;
        self.lookup.validate()?;
        for (flag, value) in [
            ("--advertise", &self.advertise),
            ("--api-gateway-endpoint", &self.api_gateway_endpoint),
            ("--management-advertise", &self.management_advertise),
        ] {
            if let Some(value) = value {
                url(flag, value)?;
            }
        }
        validate_stage(&self.stage)?;
        self.fan_access.validate()?;
        self.validate_never_lead()?;
        self.validate_numbers()?;
        self.validate_durations()?;
        if self.post_timeout > self.lease_duration / 2 {
            let half = humantime::format_duration(self.lease_duration / 2);
            return Err(invalid(
                "--post-timeout",
                &humantime::format_duration(self.post_timeout).to_string(),
                &format!(
                    "a leader stops posting so long before its lease ends, so at most half of \
                     --lease-duration is accepted: {half}"
                ),
            ));
        }
        Ok(())
    }

    fn validate_addresses(&self) -> Result<(), ConfigError> {
        let mut addresses = vec![("--listen", self.listen)];
        if self.connections == Front::Local {
            addresses.push(("--fans-listen", self.fans_listen));
            addresses.push(("--management-listen", self.management_listen));
        }
        for (flag, address) in addresses {
            // The management API knows no callers: whoever reaches it may post.
            let is_authenticated = match flag {
                "--listen" => self.auth.is_on(),
                "--fans-listen" => self.auth.has_tokens(),
                _ => false,
            };
            if !address.ip().is_loopback() && !self.insecure && !is_authenticated {
                return Err(invalid(
                    flag,
                    &address.to_string(),
                    "this listens beyond this machine without authentication; a loopback address \
                     is accepted, or any with --insecure",
                ));
            }
        }
        for (flag, address, advertised, by) in [
            ("--listen", self.listen, &self.advertise, "--advertise"),
            (
                "--management-listen",
                self.management_listen,
                &self.management_advertise,
                "--management-advertise",
            ),
        ] {
            if address.ip().is_unspecified() && advertised.is_none() {
                let accepted = format!("others reach it by no such address; {by} names one");
                return Err(invalid(flag, &address.to_string(), &accepted));
            }
        }
        Ok(())
    }

    fn validate_never_lead(&self) -> Result<(), ConfigError> {
        let reason = match (self.sole_leader, self.connections) {
            (true, _) => "accepted without --sole-leader, which takes the lease at once",
            (_, Front::ApiGateway) => "accepted with --connections local: this would do nothing",
            (false, Front::Local) => return Ok(()),
        };
        match self.never_lead {
            true => Err(invalid("--never-lead", "true", reason)),
            false => Ok(()),
        }
    }

    fn validate_numbers(&self) -> Result<(), ConfigError> {
        let own = [
            ("--events-at-once", self.events_at_once, 1_000),
            ("--posts-at-once", self.posts_at_once, 10_000),
            (
                "--posts-per-second",
                self.posts_per_second as usize,
                1_000_000,
            ),
            (
                "--session-calls-at-once",
                self.session_calls_at_once,
                10_000,
            ),
        ];
        validate_numbers(own.into_iter().chain(self.fans.numbers()))
    }

    fn validate_durations(&self) -> Result<(), ConfigError> {
        let (millisecond, second) = (Duration::from_millis(1), Duration::from_secs(1));
        let own = [
            (
                "--lease-duration",
                self.lease_duration,
                second / 2,
                second * 300,
            ),
            (
                "--poll-interval",
                self.poll_interval,
                millisecond,
                second * 10,
            ),
            (
                "--second-look",
                self.second_look,
                Duration::ZERO,
                second * 60,
            ),
            (
                "--post-timeout",
                self.post_timeout,
                millisecond,
                second * 60,
            ),
            (
                "--drain-timeout",
                self.drain_timeout,
                Duration::ZERO,
                second * 600,
            ),
        ];
        let sweep = (
            "--expiry-sweep",
            self.expiry_sweep,
            second * 10,
            second * 3_600,
        );
        let sweep = Some(sweep).filter(|_| !self.expiry_sweep.is_zero());
        validate_durations(own.into_iter().chain(self.fans.durations()).chain(sweep))
    }
}

/// Flags that are numbers, each with its value and the largest that is accepted; the smallest is 1.
fn validate_numbers(
    numbers: impl Iterator<Item = (&'static str, usize, usize)>,
) -> Result<(), ConfigError> {
    for (flag, value, max) in numbers {
        if value == 0 || value > max {
            let accepted = format!("1 to {max} are accepted");
            return Err(invalid(flag, &value.to_string(), &accepted));
        }
    }
    Ok(())
}

/// Flags that are times, each with its value, and the shortest and the longest that are accepted.
fn validate_durations(
    durations: impl Iterator<Item = (&'static str, Duration, Duration, Duration)>,
) -> Result<(), ConfigError> {
    for (flag, value, min, max) in durations {
        if value < min || value > max {
            let accepted = format!(
                "{} to {} are accepted",
                humantime::format_duration(min),
                humantime::format_duration(max)
            );
            let value = humantime::format_duration(value).to_string();
            return Err(invalid(flag, &value, &accepted));
        }
    }
    Ok(())
}

fn validate_stage(stage: &str) -> Result<(), ConfigError> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_$".contains(character);
    match stage.is_empty() || stage.len() > 128 || !stage.chars().all(plain) {
        true => Err(invalid(
            "--stage",
            stage,
            "letters, digits, - and _ are accepted, at most 128",
        )),
        false => Ok(()),
    }
}

fn url(flag: &'static str, value: &str) -> Result<(), ConfigError> {
    let accepted = "an http:// or https:// URL is accepted";
    let scheme = value.starts_with("http://") || value.starts_with("https://");
    match Endpoint::from_shared(value.to_owned()) {
        Ok(endpoint) if scheme && endpoint.uri().host().is_some() => Ok(()),
        Ok(_) | Err(_) => Err(invalid(flag, value, accepted)),
    }
}

fn invalid(flag: &'static str, value: &str, accepted: &str) -> ConfigError {
    ConfigError::Flag {
        flag,
        value: value.to_owned(),
        accepted: accepted.to_owned(),
    }
}
