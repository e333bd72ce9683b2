//! The flags of a gateway: a front for fans with their sessions in its memory.

use std::{net::SocketAddr, time::Duration};

use touchline_auth::{AuthArgs, CallerArgs};

use super::{ConfigError, FanAccess, FanLimits, invalid, url, validate_stage};

/// Flags of a gateway.
#[derive(Debug, Clone, clap::Args)]
pub struct GatewayArgs {
    /// gRPC URL of touchline-server, which gives the component sets; where its name has several
    /// addresses (a headless service), each consumer is asked for at one of them
    #[arg(
        long,
        env = "TOUCHLINE_SERVER",
        default_value = "http://127.0.0.1:50051",
        value_name = "URL"
    )]
    pub server: String,
    /// Address of the fans' WebSocket; the path is the stage
    #[arg(
        long,
        env = "TOUCHLINE_FANS_LISTEN",
        default_value = "127.0.0.1:8081",
        value_name = "ADDRESS"
    )]
    pub fans_listen: SocketAddr,
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
    /// Listen beyond this machine without authentication
    #[arg(long, env = "TOUCHLINE_INSECURE")]
    pub insecure: bool,
    /// Who may connect.
    #[command(flatten)]
    pub auth: AuthArgs,
    /// What is presented to the server, and to whoever leads.
    #[command(flatten)]
    pub caller: CallerArgs,
    /// Consumers a request to the server; 1 to 1,000
    #[arg(
        long,
        env = "TOUCHLINE_BATCH_CONSUMERS",
        default_value_t = 500,
        value_name = "N"
    )]
    pub batch_consumers: usize,
    /// Requests to the server in flight for one event; 1 to 256
    #[arg(
        long,
        env = "TOUCHLINE_BATCHES_AT_ONCE",
        default_value_t = 8,
        value_name = "N"
    )]
    pub batches_at_once: usize,
    /// One push's time: whoever has no answer of the server's by then is asked for again, with longer
    /// pauses
    #[arg(long, env = "TOUCHLINE_PUSH_DEADLINE", default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub push_deadline: Duration,
    /// One request's time at the server
    #[arg(long, env = "TOUCHLINE_SERVER_TIMEOUT", default_value = "5s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub server_timeout: Duration,
    /// How long shutdown takes at most: fans are sent to others in waves over most of it
    #[arg(long, env = "TOUCHLINE_DRAIN_TIMEOUT", default_value = "20s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub drain_timeout: Duration,
    /// Who may come, and by which way.
    #[command(flatten)]
    pub fan_access: FanAccess,
    /// Limits.
    #[command(flatten)]
    pub fans: FanLimits,
}

impl GatewayArgs {
    /// Checks every flag; the error names the first that cannot be used.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.auth.validate()?;
        url("--server", &self.server)?;
        validate_stage(&self.stage)?;
        self.fan_access.validate()?;
        let is_open = !self.fans_listen.ip().is_loopback() && !self.insecure;
        let address = self.fans_listen.to_string();
        if is_open && !self.auth.has_tokens() {
            let accepted = "this listens beyond this machine without authentication; a loopback \
                            address is accepted, or any with --insecure";
            return Err(invalid("--fans-listen", &address, accepted));
        }
        if is_open && self.fan_access.fan_origins.is_empty() {
            let accepted = "beyond this machine --fan-origins is needed, which says whose pages may \
                            connect; * is accepted there";
            return Err(invalid("--fans-listen", &address, accepted));
        }
        let own = [
            ("--batch-consumers", self.batch_consumers, 1_000),
            ("--batches-at-once", self.batches_at_once, 256),
        ];
        super::validate_numbers(own.into_iter().chain(self.fans.numbers()))?;
        let (millisecond, second) = (Duration::from_millis(1), Duration::from_secs(1));
        let own = [
            (
                "--push-deadline",
                self.push_deadline,
                millisecond,
                second * 600,
            ),
            (
                "--server-timeout",
                self.server_timeout,
                millisecond,
                second * 600,
            ),
            (
                "--drain-timeout",
                self.drain_timeout,
                Duration::ZERO,
                second * 600,
            ),
        ];
        super::validate_durations(own.into_iter().chain(self.fans.durations()))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn refused(flags: &[&str]) -> String {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            gateway: GatewayArgs,
        }
        let flags = ["gateway"].iter().chain(flags);
        let args = Alone::parse_from(flags).gateway;
        args.validate()
            .map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn a_gateway_beyond_this_machine_knows_its_fans_and_their_pages() {
        assert_eq!(refused(&[]), "");
        let open = ["--fans-listen", "0.0.0.0:8081"];
        assert!(refused(&open).contains("without authentication"));
        assert_eq!(refused(&[&open[..], &["--insecure"]].concat()), "");
        let known = [
            "--auth-jwks",
            "https://issuer.example/keys",
            "--auth-issuer",
            "https://issuer.example",
            "--auth-audience",
            "touchline",
        ];
        let error = refused(&[&open[..], &known].concat());
        assert!(error.contains("--fan-origins is needed"), "{error}");
        let origins = [
            "--fan-origins",
            "https://fans.example,https://beta.fans.example",
        ];
        assert_eq!(refused(&[&open[..], &known, &origins].concat()), "");
    }

    #[test]
    fn a_refused_value_is_named_with_its_flag_and_what_would_be_accepted() {
        for (flags, error) in [
            (
                ["--fan-origins", "fans.example"],
                "--fan-origins fans.example: scheme and host, such as https://fans.example, or * are \
                 accepted",
            ),
            (
                ["--handshakes-per-second", "0"],
                "--handshakes-per-second 0: 1 to 1000000 are accepted",
            ),
            (
                ["--fans-tls-key", "key.pem"],
                "--fans-tls-key key.pem: accepted together with --fans-tls-certificate",
            ),
        ] {
            assert_eq!(refused(&flags), error);
        }
    }
}
