//! Amazon Personalize, by its own SDK. Asks one question a query (there is no batch call) and asks
//! it once: trying again, caching and falling back are decided by whoever serves.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_personalizeruntime::{
    Client,
    config::{Builder, retry::RetryConfig, timeout::TimeoutConfig},
    error::{ProvideErrorMetadata, SdkError},
    operation::get_recommendations::{GetRecommendationsError, GetRecommendationsOutput},
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use futures::{StreamExt, stream};
use touchline_store::ids::ItemId;

use super::{
    Interaction, Origin, Query, RankedItem, Ranking, RecommendError, Recommender, Recorded,
};

/// Queries of one call that are asked at the same time.
const CONCURRENCY: usize = 16;
/// Opening a connection takes at most this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A throttle that does not say when to come back.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Errors by which AWS services throttle; Personalize's model names none of them.
const THROTTLING_CODES: [&str; 6] = [
    "ThrottlingException",
    "Throttling",
    "ThrottledException",
    "TooManyRequestsException",
    "LimitExceededException",
    "RequestLimitExceeded",
];

/// How Personalize is reached.
#[derive(Debug, Clone)]
pub struct PersonalizeConfig {
    /// The campaign that is asked.
    pub campaign_arn: String,
    /// Its region.
    pub region: String,
    /// Where Personalize is; `None`: AWS.
    pub endpoint: Option<String>,
    /// One question takes at most this long, whatever the caller's deadline.
    pub timeout: Duration,
}

/// A Personalize campaign.
#[derive(Debug, Clone)]
pub struct PersonalizeRecommender {
    client: Client,
    campaign_arn: Arc<str>,
}

impl PersonalizeRecommender {
    /// A client whose connections are kept open; no call is made.
    pub async fn connect(config: &PersonalizeConfig) -> Self {
        let shared = touchline_store::aws::sdk_config(
            Some(&config.region),
            config.endpoint.as_deref(),
            config.timeout,
        )
        .await;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT.min(config.timeout))
            .operation_attempt_timeout(config.timeout)
            .operation_timeout(config.timeout)
            .build();
        let runtime = Builder::from(&shared)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .build();
        Self {
            client: Client::from_conf(runtime),
            campaign_arn: config.campaign_arn.as_str().into(),
        }
    }

    async fn rank_one(&self, query: &Query) -> Result<Ranking, RecommendError> {
        let num_results = i32::try_from(query.num_results).unwrap_or(i32::MAX);
        let context: HashMap<String, String> = query
            .context
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let answer = self
            .client
            .get_recommendations()
            .campaign_arn(self.campaign_arn.as_ref())
            .user_id(query.consumer_id.as_str())
            .num_results(num_results)
            .set_context((!context.is_empty()).then_some(context))
            .send()
            .await;
        answer.map(|answer| ranking(&answer)).map_err(failure)
    }
}

#[async_trait]
impl Recommender for PersonalizeRecommender {
    async fn rank(&self, queries: &[Query]) -> Vec<Result<Ranking, RecommendError>> {
        stream::iter(queries.to_vec())
            .map(|query| async move { self.rank_one(&query).await })
            .buffered(CONCURRENCY)
            .collect()
            .await
    }

    async fn record(&self, _: &[Interaction]) -> Result<Recorded, RecommendError> {
        Err(RecommendError::Unsupported(
            "this server does not record interactions for Amazon Personalize; send them to a \
             Personalize event tracker (PutEvents), or run the server with --recommender embedded",
        ))
    }
}

fn ranking(answer: &GetRecommendationsOutput) -> Ranking {
    let items = answer.item_list();
    Ranking {
        items: items
            .iter()
            .filter_map(|predicted| {
                // An item without an id is nothing that could be shown.
                let item_id = ItemId::new(predicted.item_id()?).ok()?;
                Some(RankedItem {
                    item_id,
                    score: predicted.score(),
                })
            })
            .collect(),
        recommendation_id: answer.recommendation_id().map(str::to_owned),
        origin: Origin::Personalize,
    }
}

fn failure(error: SdkError<GetRecommendationsError, HttpResponse>) -> RecommendError {
    let service = match error {
        SdkError::TimeoutError(_) => return RecommendError::TimedOut,
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            return RecommendError::TimedOut;
        }
        SdkError::ServiceError(service) => service,
        other => {
            return RecommendError::Unavailable(
                aws_sdk_personalizeruntime::error::DisplayErrorContext(other).to_string(),
            );
        }
    };
    let (error, response) = (service.err(), service.raw());
    let status = response.status().as_u16();
    let code = error.code().unwrap_or_default();
    let text = format!(
        "HTTP {status} {code}: {}",
        error.message().unwrap_or("no message")
    );
    if status == 429 || THROTTLING_CODES.contains(&code) {
        let seconds = response.headers().get("retry-after");
        return RecommendError::Throttled {
            retry_after: seconds
                .and_then(|seconds| seconds.parse().ok())
                .map_or(RETRY_AFTER, Duration::from_secs),
        };
    }
    if error.is_invalid_input_exception()
        || error.is_resource_not_found_exception()
        || code == "ValidationException"
    {
        return RecommendError::Invalid(text);
    }
    RecommendError::Unavailable(text)
}
