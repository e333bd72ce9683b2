//! The flags of a gateway: a front for fans with their sessions in its memory.

use std::{net::SocketAddr, time::Duration};

use touchline_auth::{AuthArgs, CallerArgs};
use touchline_runtime::traces::TraceArgs;

use super::{ConfigError, FanAccess, FanLimits, LookupArgs, invalid, validate_stage};

/// Flags of a gateway.
#[derive(Debug, Clone, clap::Args)]
pub struct GatewayArgs {
    /// How the server is asked.
    #[command(flatten)]
    pub lookup: LookupArgs,
    /// Address of the fans' WebSocket; the path is the stage
    #[arg(
        long,
        env = "TOUCHLINE_FANS_LISTEN",
        default_value = "127.0.0.1:8081",
        value_name = "ADDRESS"
    )]
    pub fans_listen: SocketAddr,
    /// Address of gRPC, where the gateway is administered (AdminService) and says its health
    #[arg(
        long,
        env = "TOUCHLINE_GATEWAY_LISTEN",
        default_value = "127.0.0.1:50053",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
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
    /// How long shutdown takes at most: fans are sent to others in waves over most of it
    #[arg(long, env = "TOUCHLINE_DRAIN_TIMEOUT", default_value = "20s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub drain_timeout: Duration,
    /// Who may come, and by which way.
    #[command(flatten)]
    pub fan_access: FanAccess,
    /// Limits.
    #[command(flatten)]
    pub fans: FanLimits,
    /// Where traces are sent.
    #[command(flatten)]
    pub traces: TraceArgs,
}

impl GatewayArgs {
    /// Checks every flag; the error names the first that cannot be used.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.auth.validate()?;
        self.lookup.validate()?;
        validate_stage(&self.stage)?;
        self.fan_access.validate()?;
        let is_open = |address: SocketAddr| !address.ip().is_loopback() && !self.insecure;
        for (flag, address, is_known) in [
            ("--fans-listen", self.fans_listen, self.auth.has_tokens()),
            ("--listen", self.listen, self.auth.is_on()),
        ] {
            if is_open(address) && !is_known {
                let accepted = "this listens beyond this machine without authentication; a loopback \
                                address is accepted, or any with --insecure";
                return Err(invalid(flag, &address.to_string(), accepted));
            }
        }
        if is_open(self.fans_listen) && self.fan_access.fan_origins.is_empty() {
            let accepted = "beyond this machine --fan-origins is needed, which says whose pages may \
                            connect; * is accepted there";
            let address = self.fans_listen.to_string();
            return Err(invalid("--fans-listen", &address, accepted));
        }
        super::validate_numbers(self.fans.numbers().into_iter())?;
        let drain = (
            "--drain-timeout",
            self.drain_timeout,
            Duration::ZERO,
            Duration::from_mins(10),
        );
        super::validate_durations(self.fans.durations().into_iter().chain([drain]))
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
