//! The prototype's five parameters in Systems Manager: where they are, and what they say. Decides
//! nothing: a flag wins over a parameter, and that is for whoever has the flags.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::{Error, Result, aws::sdk_config};

/// Longest wait for one attempt of a call.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the parameters are.
#[derive(Debug, Clone, clap::Args)]
pub struct ParameterArgs {
    /// Read the prototype's parameters below this path, /rt_personalize as it has it; a flag that is
    /// given wins over its parameter [default: none is read]
    #[arg(long, env = "TOUCHLINE_SSM_PREFIX", value_parser = prefix, value_name = "PATH")]
    pub ssm_prefix: Option<String>,
    /// How often they are read again
    #[arg(long, env = "TOUCHLINE_SSM_REFRESH", default_value = "1m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub ssm_refresh: Duration,
    /// Systems Manager's endpoint [default: AWS]
    #[arg(long, env = "TOUCHLINE_SSM_ENDPOINT", value_name = "URL")]
    pub ssm_endpoint: Option<String>,
}

fn prefix(text: &str) -> std::result::Result<String, String> {
    let trimmed = text.trim_end_matches('/');
    match trimmed.starts_with('/') && trimmed.len() > 1 {
        true => Ok(trimmed.to_owned()),
        false => Err("a path such as /rt_personalize is accepted".to_owned()),
    }
}

/// What the parameters say; one that is missing or empty is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    /// `aws_personalize/campaign_arn`.
    pub campaign_arn: Option<String>,
    /// `aws_personalize/num_results`.
    pub num_results: Option<String>,
    /// `aws_personalize/region`.
    pub region: Option<String>,
    /// `api/api_gateway/domain`.
    pub domain: Option<String>,
    /// `api/api_gateway/stage`.
    pub stage: Option<String>,
}

impl Parameters {
    /// Where messages are posted to connections whose row names no endpoint.
    pub fn api_gateway_endpoint(&self) -> Option<String> {
        let (domain, stage) = (self.domain.as_ref()?, self.stage.as_ref()?);
        Some(match domain.contains("://") {
            true => format!("{domain}/{stage}"),
            false => format!("https://{domain}/{stage}"),
        })
    }
}

/// Reads the parameters.
#[derive(Debug, Clone)]
pub struct ParameterStore {
    client: aws_sdk_ssm::Client,
    prefix: String,
}

const CAMPAIGN_ARN: &str = "/aws_personalize/campaign_arn";
const NUM_RESULTS: &str = "/aws_personalize/num_results";
const REGION: &str = "/aws_personalize/region";
const DOMAIN: &str = "/api/api_gateway/domain";
const STAGE: &str = "/api/api_gateway/stage";

impl ParameterStore {
    /// `None` where no prefix is given. Makes no call.
    pub async fn connect(args: &ParameterArgs, region: Option<&str>) -> Option<Self> {
        let prefix = args.ssm_prefix.clone()?;
        let config = sdk_config(region, args.ssm_endpoint.as_deref(), ATTEMPT_TIMEOUT).await;
        Some(Self {
            client: aws_sdk_ssm::Client::new(&config),
            prefix,
        })
    }

    /// Reads them at once and then after each `pause`; what differs from `known` is a change.
    pub fn follow(self, pause: Duration, known: Parameters) -> Following {
        Following {
            store: self,
            pause,
            next: Instant::now(),
            known,
        }
    }

    /// What they say now, by one call.
    pub async fn read(&self) -> Result<Parameters> {
        let names = [CAMPAIGN_ARN, NUM_RESULTS, REGION, DOMAIN, STAGE];
        let names = names.map(|name| format!("{}{name}", self.prefix));
        let read = self.client.get_parameters().set_names(Some(names.to_vec()));
        let read = read.send().await;
        let read = read.map_err(|error| Error::from_sdk("the parameters", error))?;
        let of = |name: &str| {
            let name = format!("{}{name}", self.prefix);
            let found = read
                .parameters()
                .iter()
                .find(|one| one.name() == Some(&name))?;
            let value = found.value().map(str::trim);
            // The template writes `none` where there is no campaign: a parameter cannot be empty.
            value
                .filter(|value| !value.is_empty() && *value != "none")
                .map(str::to_owned)
        };
        Ok(Parameters {
            campaign_arn: of(CAMPAIGN_ARN),
            num_results: of(NUM_RESULTS),
            region: of(REGION),
            domain: of(DOMAIN),
            stage: of(STAGE),
        })
    }
}

/// Parameters that are read again and again.
#[derive(Debug)]
pub struct Following {
    store: ParameterStore,
    pause: Duration,
    next: Instant,
    known: Parameters,
}

impl Following {
    /// Waits until they say something else, and gives that. What cannot be read changes nothing.
    pub async fn changed(&mut self) -> &Parameters {
        loop {
            sleep_until(self.next).await;
            let read = self.store.read().await;
            self.next = Instant::now() + self.pause;
            match read {
                Ok(read) if read == self.known => {}
                Ok(read) => {
                    self.known = read;
                    return &self.known;
                }
                Err(error) => tracing::warn!(%error, "the parameters cannot be read"),
            }
        }
    }
}
