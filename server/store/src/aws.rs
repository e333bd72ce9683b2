//! AWS clients from flags. Knows nothing of tables.

use std::time::Duration;

use aws_config::SdkConfig;

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
pub async fn sdk_config(
    region: Option<&str>,
    endpoint: Option<&str>,
    timeout: Duration,
) -> SdkConfig {
    let _ = (region, endpoint, timeout);
    todo!()
}
