//! Who may come to the WebSocket front and what a fan may cost: its flags, and how far each can be set.
//! Says nothing of where the front listens.

use std::{path::PathBuf, time::Duration};

use http::HeaderValue;
use touchline_auth::tls::ServerTls;

use super::{ConfigError, invalid};

/// Who may come to the WebSocket front, and by which way.
#[derive(Debug, Clone, clap::Args)]
pub struct FanAccess {
    /// Origins of pages that may connect, such as https://fans.example, separated by commas; * for any.
    /// Software that is no browser names no origin and may connect
    #[arg(
        long,
        env = "TOUCHLINE_FAN_ORIGINS",
        value_delimiter = ',',
        value_name = "ORIGIN,..."
    )]
    pub fan_origins: Vec<String>,
    /// Certificate of the fans' WebSocket, PEM with its chain; read again when it changes. Without it
    /// the front speaks plain text, for a load balancer that ends TLS
    #[arg(long, env = "TOUCHLINE_FANS_TLS_CERTIFICATE", value_name = "FILE")]
    pub fans_tls_certificate: Option<PathBuf>,
    /// Private key of --fans-tls-certificate, PEM
    #[arg(long, env = "TOUCHLINE_FANS_TLS_KEY", value_name = "FILE")]
    pub fans_tls_key: Option<PathBuf>,
    /// A TCP load balancer says in the PROXY protocol, 1 or 2, where each fan connects from; connections
    /// that do not begin with it are refused
    #[arg(long, env = "TOUCHLINE_PROXY_PROTOCOL")]
    pub proxy_protocol: bool,
    /// HTTP proxies before this front that add to X-Forwarded-For: a fan's address is the one that the
    /// outermost of them saw. 0: the header is not looked at; up to 16
    #[arg(
        long,
        env = "TOUCHLINE_FORWARDED_HOPS",
        default_value_t = 0,
        value_name = "N",
        value_parser = clap::value_parser!(u8).range(..=16)
    )]
    pub forwarded_hops: u8,
}

impl FanAccess {
    /// Whether a page of this origin may connect. Without a list every page may.
    pub fn allows_origin(&self, origin: &HeaderValue) -> bool {
        let allowed = &self.fan_origins;
        allowed.is_empty()
            || allowed
                .iter()
                .any(|allowed| allowed == "*" || origin.as_bytes() == allowed.as_bytes())
    }

    /// Whether somebody else says where a fan connects from.
    pub fn is_by_proxy(&self) -> bool {
        self.proxy_protocol || self.forwarded_hops > 0
    }

    /// What fans' connections are encrypted with; `None`: plain text.
    pub fn tls(&self) -> Result<Option<ServerTls>, ConfigError> {
        let (certificate, key) = match (&self.fans_tls_certificate, &self.fans_tls_key) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(certificate), None) => {
                let certificate = certificate.display().to_string();
                let accepted = "accepted together with --fans-tls-key";
                return Err(invalid("--fans-tls-certificate", &certificate, accepted));
            }
            (None, Some(key)) => {
                let accepted = "accepted together with --fans-tls-certificate";
                return Err(invalid(
                    "--fans-tls-key",
                    &key.display().to_string(),
                    accepted,
                ));
            }
        };
        ServerTls::open(certificate, key, None, &[b"http/1.1"])
            .map(Some)
            .map_err(|reason| {
                let certificate = certificate.display().to_string();
                invalid("--fans-tls-certificate", &certificate, &reason)
            })
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        for origin in &self.fan_origins {
            let rest = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            let is_origin = rest.is_some_and(|rest| !rest.is_empty() && !rest.contains('/'));
            if origin != "*" && !is_origin {
                let accepted = "scheme and host, such as https://fans.example, or * are accepted";
                return Err(invalid("--fan-origins", origin, accepted));
            }
        }
        self.tls().map(drop)
    }
}

/// Limits of the WebSocket front.
#[derive(Debug, Clone, clap::Args)]
pub struct FanLimits {
    /// Fans' connections, in all
    #[arg(
        long,
        env = "TOUCHLINE_FANS_MAX",
        default_value_t = 20_000,
        value_name = "N"
    )]
    pub fans_max: usize,
    /// Fans' connections from one address
    #[arg(
        long,
        env = "TOUCHLINE_FANS_PER_ADDRESS_MAX",
        default_value_t = 10_000,
        value_name = "N"
    )]
    pub fans_per_address_max: usize,
    /// Messages a second that a fan may send, after a burst of five times as many
    #[arg(
        long,
        env = "TOUCHLINE_FAN_MESSAGES_PER_SECOND",
        default_value_t = 10,
        value_name = "N"
    )]
    pub fan_messages_per_second: u32,
    /// Bytes a second that a fan may send, after a burst of five times as many; who sends more is
    /// closed
    #[arg(
        long,
        env = "TOUCHLINE_FAN_BYTES_PER_SECOND",
        default_value_t = 131_072,
        value_name = "BYTES"
    )]
    pub fan_bytes_per_second: u32,
    /// Messages a second that all fans of one address may send, after a burst of five times as many
    #[arg(
        long,
        env = "TOUCHLINE_MESSAGES_PER_ADDRESS",
        default_value_t = 10_000,
        value_name = "N"
    )]
    pub messages_per_address: u32,
    /// Messages a second that all connections of one consumer may send, after a burst of five times as
    /// many
    #[arg(
        long,
        env = "TOUCHLINE_MESSAGES_PER_CONSUMER",
        default_value_t = 100,
        value_name = "N"
    )]
    pub messages_per_consumer: u32,
    /// Fans a second who are let in; more wait to be accepted, so that a crowd that comes back at once
    /// does not take everything from who is connected
    #[arg(
        long,
        env = "TOUCHLINE_HANDSHAKES_PER_SECOND",
        default_value_t = 4_000,
        value_name = "N"
    )]
    pub handshakes_per_second: u32,
    /// Handshakes a second from one address, after a burst of five times as many; more are refused
    /// with 429
    #[arg(
        long,
        env = "TOUCHLINE_HANDSHAKES_PER_ADDRESS",
        default_value_t = 4_000,
        value_name = "N"
    )]
    pub handshakes_per_address: u32,
    /// A fan who takes nothing for this long is closed
    #[arg(long, env = "TOUCHLINE_FAN_WRITE_DEADLINE", default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub fan_write_deadline: Duration,
    /// Time for the WebSocket handshake
    #[arg(long, env = "TOUCHLINE_FAN_HANDSHAKE_TIMEOUT", default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub fan_handshake_timeout: Duration,
    /// A fan who has not registered by then is closed; the prototype lets one be for ten minutes
    #[arg(long, env = "TOUCHLINE_FAN_REGISTRATION_TIMEOUT", default_value = "10m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub fan_registration_timeout: Duration,
    /// Pause between two pings to a fan
    #[arg(long, env = "TOUCHLINE_FAN_PING_INTERVAL", default_value = "1m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub fan_ping_interval: Duration,
    /// A connection without messages in either direction is closed after this (API Gateway: 10m)
    #[arg(long, env = "TOUCHLINE_FAN_IDLE_TIMEOUT", default_value = "10m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub fan_idle_timeout: Duration,
    /// A connection is closed after this, or up to a tenth earlier so that those who came together do
    /// not end together, whatever it does (API Gateway: 2h)
    #[arg(long, env = "TOUCHLINE_FAN_LIFETIME_MAX", default_value = "2h", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub fan_lifetime_max: Duration,
}

impl FanLimits {
    /// Each flag that is a number, its value, and the largest that is accepted; the smallest is 1.
    pub(super) fn numbers(&self) -> [(&'static str, usize, usize); 8] {
        [
            ("--fans-max", self.fans_max, 10_000_000),
            (
                "--fans-per-address-max",
                self.fans_per_address_max,
                10_000_000,
            ),
            (
                "--fan-messages-per-second",
                self.fan_messages_per_second as usize,
                1_000_000,
            ),
            (
                "--fan-bytes-per-second",
                self.fan_bytes_per_second as usize,
                1 << 30,
            ),
            (
                "--messages-per-address",
                self.messages_per_address as usize,
                10_000_000,
            ),
            (
                "--messages-per-consumer",
                self.messages_per_consumer as usize,
                10_000_000,
            ),
            (
                "--handshakes-per-second",
                self.handshakes_per_second as usize,
                1_000_000,
            ),
            (
                "--handshakes-per-address",
                self.handshakes_per_address as usize,
                1_000_000,
            ),
        ]
    }

    /// Each flag that is a time, its value, and the shortest and the longest that are accepted.
    pub(super) fn durations(&self) -> [(&'static str, Duration, Duration, Duration); 6] {
        let millisecond = Duration::from_millis(1);
        let (minutes, day) = (Duration::from_mins(10), Duration::from_hours(24));
        [
            ("--fan-write-deadline", self.fan_write_deadline, minutes),
            (
                "--fan-handshake-timeout",
                self.fan_handshake_timeout,
                minutes,
            ),
            (
                "--fan-registration-timeout",
                self.fan_registration_timeout,
                day,
            ),
            ("--fan-ping-interval", self.fan_ping_interval, day),
            ("--fan-idle-timeout", self.fan_idle_timeout, day),
            ("--fan-lifetime-max", self.fan_lifetime_max, day),
        ]
        .map(|(flag, value, max)| (flag, value, millisecond, max))
    }
}
