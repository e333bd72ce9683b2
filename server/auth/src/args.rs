//! What can be set of who may call. Everything is off until it is set.

use std::{path::PathBuf, time::Duration};

use crate::{InvalidFlag, jwks::JwksPlace, scopes::Scope, tls::ServerTls};

/// What needs no caller's identity, if one says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Open {
    /// gRPC health, which orchestrators ask for
    Health,
    /// gRPC reflection, which grpcurl asks for
    Reflection,
    /// Nothing: both need an identity
    None,
}

/// Who may call. Without `--auth-jwks` and `--tls-client-ca` everybody may, and only on loopback.
#[derive(Debug, Clone, clap::Args)]
pub struct AuthArgs {
    /// Keys of the token issuer, a JSON Web Key Set: an https:// URL (http:// on this machine), fetched
    /// again as it ages and when a token names an unknown key, or a file, read again when it changes.
    /// Turns authentication by bearer token on (docs/tokens.md)
    #[arg(long, env = "TOUCHLINE_AUTH_JWKS", value_name = "URL|FILE")]
    pub auth_jwks: Option<JwksPlace>,
    /// Issuers whose tokens are accepted (claim `iss`), separated by commas; needed with --auth-jwks
    #[arg(
        long,
        env = "TOUCHLINE_AUTH_ISSUER",
        value_delimiter = ',',
        value_name = "ISSUER"
    )]
    pub auth_issuer: Vec<String>,
    /// Audiences for which tokens are accepted, separated by commas; needed with --auth-jwks
    #[arg(
        long,
        env = "TOUCHLINE_AUTH_AUDIENCE",
        value_delimiter = ',',
        value_name = "AUDIENCE"
    )]
    pub auth_audience: Vec<String>,
    /// Claim that names the audience; Cognito's access tokens have `client_id` in its place
    #[arg(
        long,
        env = "TOUCHLINE_AUTH_AUDIENCE_CLAIM",
        default_value = "aud",
        value_name = "CLAIM"
    )]
    pub auth_audience_claim: String,
    /// Accept tokens for any audience of the issuer, in place of --auth-audience
    #[arg(long, env = "TOUCHLINE_AUTH_ANY_AUDIENCE")]
    pub auth_any_audience: bool,
    /// How far the issuer's clock may be off, at most 5m
    #[arg(long, env = "TOUCHLINE_AUTH_CLOCK_SKEW", default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub auth_clock_skew: Duration,
    /// How often the keys are fetched again, 10s to 24h
    #[arg(long, env = "TOUCHLINE_AUTH_JWKS_REFRESH", default_value = "5m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub auth_jwks_refresh: Duration,
    /// Claim that names the consumer
    #[arg(
        long,
        env = "TOUCHLINE_AUTH_CONSUMER_CLAIM",
        default_value = "sub",
        value_name = "CLAIM"
    )]
    pub auth_consumer_claim: String,
    /// Claim that lists the scopes, as text separated by blanks or as a list; `scp` where it is absent
    #[arg(
        long,
        env = "TOUCHLINE_AUTH_SCOPE_CLAIM",
        default_value = "scope",
        value_name = "CLAIM"
    )]
    pub auth_scope_claim: String,
    /// What Touchline's scopes begin with in that claim, so that `touchline:components` is `components`
    #[arg(
        long,
        env = "TOUCHLINE_AUTH_SCOPE_PREFIX",
        default_value = "touchline:",
        value_name = "PREFIX"
    )]
    pub auth_scope_prefix: String,
    /// Scopes that every valid token has, separated by commas: components, components:any,
    /// events:read, events:write, feedback, feedback:any, admin [default: none]
    #[arg(
        long,
        env = "TOUCHLINE_AUTH_DEFAULT_SCOPES",
        value_delimiter = ',',
        value_name = "SCOPES"
    )]
    pub auth_default_scopes: Vec<Scope>,
    /// What may be called without an identity, separated by commas
    #[arg(
        long,
        env = "TOUCHLINE_AUTH_OPEN",
        value_enum,
        value_delimiter = ',',
        default_value = "health",
        value_name = "WHAT"
    )]
    pub auth_open: Vec<Open>,
    /// Certificate chain of the gRPC port, PEM, read again when it changes; turns TLS on
    #[arg(
        long,
        env = "TOUCHLINE_TLS_CERTIFICATE",
        requires = "tls_key",
        value_name = "FILE"
    )]
    pub tls_certificate: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(
        long,
        env = "TOUCHLINE_TLS_KEY",
        requires = "tls_certificate",
        value_name = "FILE"
    )]
    pub tls_key: Option<PathBuf>,
    /// Certificates of the authorities that sign callers' certificates, PEM: mutual TLS. Every caller
    /// then needs a certificate; without --auth-jwks it is all that they need
    #[arg(
        long,
        env = "TOUCHLINE_TLS_CLIENT_CA",
        requires = "tls_certificate",
        value_name = "FILE"
    )]
    pub tls_client_ca: Option<PathBuf>,
    /// Scopes of a caller who presents a certificate and no token, separated by commas [default: none]
    #[arg(
        long,
        env = "TOUCHLINE_TLS_CLIENT_SCOPES",
        value_delimiter = ',',
        value_name = "SCOPES"
    )]
    pub tls_client_scopes: Vec<Scope>,
}

impl Default for AuthArgs {
    /// Everything off, whatever the environment says.
    fn default() -> Self {
        Self {
            auth_jwks: None,
            auth_issuer: Vec::new(),
            auth_audience: Vec::new(),
            auth_audience_claim: "aud".to_owned(),
            auth_any_audience: false,
            auth_clock_skew: Duration::from_secs(30),
            auth_jwks_refresh: Duration::from_mins(5),
            auth_consumer_claim: "sub".to_owned(),
            auth_scope_claim: "scope".to_owned(),
            auth_scope_prefix: "touchline:".to_owned(),
            auth_default_scopes: Vec::new(),
            auth_open: vec![Open::Health],
            tls_certificate: None,
            tls_key: None,
            tls_client_ca: None,
            tls_client_scopes: Vec::new(),
        }
    }
}

impl AuthArgs {
    /// Whether callers are asked who they are.
    pub fn is_on(&self) -> bool {
        self.auth_jwks.is_some() || self.tls_client_ca.is_some()
    }

    /// Whether connecting fans are asked who they are: their certificates never are.
    pub fn has_tokens(&self) -> bool {
        self.auth_jwks.is_some()
    }

    /// Checks everything that can be checked without a socket.
    pub fn validate(&self) -> Result<(), InvalidFlag> {
        if self.auth_jwks.is_some() {
            if self.auth_issuer.is_empty() {
                let accepted =
                    "the issuer, as the tokens' claim iss names it, is needed with --auth-jwks";
                return Err(InvalidFlag::new("--auth-issuer", "(none)", accepted));
            }
            if self.auth_audience.is_empty() != self.auth_any_audience {
                let given = self.auth_audience.join(",");
                let given = if given.is_empty() { "(none)" } else { &given };
                let accepted = "either the audience of the tokens or --auth-any-audience is needed \
                                with --auth-jwks";
                return Err(InvalidFlag::new("--auth-audience", given, accepted));
            }
        }
        let (second, day) = (Duration::from_secs(1), Duration::from_hours(24));
        for (flag, value, min, max) in [
            (
                "--auth-clock-skew",
                self.auth_clock_skew,
                Duration::ZERO,
                second * 300,
            ),
            (
                "--auth-jwks-refresh",
                self.auth_jwks_refresh,
                second * 10,
                day,
            ),
        ] {
            if value < min || value > max {
                let accepted = format!(
                    "{} to {} are accepted",
                    humantime::format_duration(min),
                    humantime::format_duration(max)
                );
                return Err(InvalidFlag::new(
                    flag,
                    humantime::format_duration(value),
                    accepted,
                ));
            }
        }
        for (flag, claim) in [
            ("--auth-audience-claim", &self.auth_audience_claim),
            ("--auth-consumer-claim", &self.auth_consumer_claim),
            ("--auth-scope-claim", &self.auth_scope_claim),
        ] {
            if claim.is_empty() {
                return Err(InvalidFlag::new(
                    flag,
                    "(empty)",
                    "the name of a claim is accepted",
                ));
            }
        }
        if self.auth_open.contains(&Open::None) && self.auth_open.len() > 1 {
            let accepted = "none is accepted alone";
            return Err(InvalidFlag::new("--auth-open", "none", accepted));
        }
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            let accepted = "--tls-certificate and --tls-key are accepted together";
            return Err(InvalidFlag::new("--tls-certificate", "alone", accepted));
        }
        if self.tls_client_ca.is_some() && self.tls_certificate.is_none() {
            let accepted = "accepted with --tls-certificate and --tls-key";
            return Err(InvalidFlag::new("--tls-client-ca", "alone", accepted));
        }
        Ok(())
    }

    /// TLS of the gRPC port; `None` while it is off.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn server_tls(&self) -> Result<Option<ServerTls>, InvalidFlag> {
        let (Some(certificate), Some(key)) = (&self.tls_certificate, &self.tls_key) else {
            return Ok(None);
        };
        let tls = ServerTls::open(certificate, key, self.tls_client_ca.as_deref(), &[b"h2"]);
        tls.map(Some)
            .map_err(|reason| InvalidFlag::new("--tls-certificate", certificate.display(), reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on() -> AuthArgs {
        AuthArgs {
            auth_jwks: Some("keys.json".parse().unwrap()),
            auth_issuer: vec!["https://issuer.example".to_owned()],
            auth_audience: vec!["touchline".to_owned()],
            ..AuthArgs::default()
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_flags_and_turn_nothing_on() {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            auth: AuthArgs,
        }
        let parsed = <Alone as clap::Parser>::parse_from(["test"]).auth;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", AuthArgs::default()));
        parsed.validate().unwrap();
        assert!(!parsed.is_on());
        on().validate().unwrap();
    }

    #[test]
    fn issuer_and_audience_are_checked_unless_told_otherwise() {
        let refused = |change: fn(&mut AuthArgs)| {
            let mut args = on();
            change(&mut args);
            args.validate().unwrap_err().to_string()
        };
        let no_issuer = refused(|args| args.auth_issuer.clear());
        assert!(
            no_issuer.starts_with("--auth-issuer (none): "),
            "{no_issuer}"
        );
        let no_audience = refused(|args| args.auth_audience.clear());
        assert!(
            no_audience.starts_with("--auth-audience (none): "),
            "{no_audience}"
        );
        let both = refused(|args| args.auth_any_audience = true);
        assert!(both.starts_with("--auth-audience touchline: "), "{both}");
        let any = AuthArgs {
            auth_audience: Vec::new(),
            auth_any_audience: true,
            ..on()
        };
        any.validate().unwrap();
    }

    #[test]
    fn a_refused_value_is_named_with_what_would_be_accepted() {
        let args = AuthArgs {
            auth_clock_skew: Duration::from_secs(301),
            ..on()
        };
        assert_eq!(
            args.validate().unwrap_err().to_string(),
            "--auth-clock-skew 5m 1s: 0s to 5m are accepted"
        );
        let args = AuthArgs {
            tls_client_ca: Some("ca.pem".into()),
            ..AuthArgs::default()
        };
        assert_eq!(
            args.validate().unwrap_err().to_string(),
            "--tls-client-ca alone: accepted with --tls-certificate and --tls-key"
        );
    }
}
