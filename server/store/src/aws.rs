//! AWS clients from flags. Knows nothing of tables.

use std::time::Duration;

use aws_config::{
    BehaviorVersion, Region, SdkConfig, meta::region::RegionProviderChain, retry::RetryConfig,
    timeout::TimeoutConfig,
};
use aws_credential_types::{Credentials, provider::ProvideCredentials};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};

/// Longest wait for a connection; an attempt as a whole has the caller's time-out.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(2);
/// Attempts of one call, the first included; the SDK backs off between them.
const ATTEMPTS_MAX: u32 = 4;
/// Region where none is configured and an endpoint is given: any will do.
const ENDPOINT_REGION: &str = "us-east-1";

/// Where DynamoDB is.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AwsArgs {
    /// AWS region [default: what the AWS configuration says, or us-east-1 beside an endpoint]
    #[arg(long, env = "AWS_REGION", value_name = "REGION")]
    pub region: Option<String>,
    /// DynamoDB endpoint, such as http://127.0.0.1:8000 for a local stack [default: AWS]
    #[arg(long, env = "TOUCHLINE_DYNAMODB_ENDPOINT", value_name = "URL")]
    pub dynamodb_endpoint: Option<String>,
}

/// SDK configuration for AWS itself, or for an endpoint that speaks one of its protocols: TLS by
/// ring, credentials from the usual chain. For an `http://` endpoint without credentials in the
/// environment, fixed ones are used, since no AWS is behind it.
///
/// `timeout` bounds each attempt of a call. A call is tried up to four times, with the SDK's
/// standard back-off; throttling counts as a reason to try again.
pub async fn sdk_config(
    region: Option<&str>,
    endpoint: Option<&str>,
    timeout: Duration,
) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(timeout.min(CONNECT_TIMEOUT_MAX))
                .operation_attempt_timeout(timeout)
                .build(),
        );
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let region = region.filter(|region| !region.is_empty());
    let region = region.map(|region| Region::new(region.to_owned()));
    let default = Region::from_static(ENDPOINT_REGION);
    loader = match (region, endpoint) {
        (Some(region), _) => loader.region(region),
        // Asking the rest of the chain would be asking the instance that this is not.
        (None, Some(_)) if is_plain => loader.region(default),
        (None, Some(_)) => loader.region(RegionProviderChain::default_provider().or_else(default)),
        (None, None) => loader,
    };
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if is_plain {
        // Without TLS the system's certificates need not be read.
        loader = loader.http_client(Builder::new().build_http());
        let environment = aws_config::environment::EnvironmentVariableCredentialsProvider::new();
        if environment.provide_credentials().await.is_err() {
            let fixed = Credentials::new("touchline", "touchline", None, None, "no AWS behind it");
            loader = loader.credentials_provider(fixed);
        }
    } else {
        let tls = Provider::Rustls(CryptoMode::Ring);
        loader = loader.http_client(Builder::new().tls_provider(tls).build_https());
    }
    loader.load().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_endpoint_needs_neither_region_nor_credentials() {
        let config = sdk_config(
            None,
            Some("http://127.0.0.1:8000"),
            Duration::from_millis(300),
        )
        .await;
        assert_eq!(config.region().unwrap().as_ref(), "us-east-1");
        assert_eq!(config.endpoint_url(), Some("http://127.0.0.1:8000"));
        assert!(config.credentials_provider().is_some());
        let timeouts = config.timeout_config().unwrap();
        assert_eq!(timeouts.connect_timeout(), Some(Duration::from_millis(300)));
        assert_eq!(
            timeouts.operation_attempt_timeout(),
            Some(Duration::from_millis(300))
        );
    }

    #[tokio::test]
    async fn a_region_that_is_given_wins_over_the_endpoints_default() {
        let endpoint = Some("http://127.0.0.1:8000");
        let config = sdk_config(Some("eu-west-1"), endpoint, Duration::from_secs(1)).await;
        assert_eq!(config.region().unwrap().as_ref(), "eu-west-1");
    }
}
