//! Amazon Personalize, by its own SDK. Asks one question a query (there is no batch call) and asks
//! it once: trying again, caching and falling back are decided by whoever serves.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_personalizeruntime::{
    Client,
    config::{Builder, retry::RetryConfig, timeout::TimeoutConfig},
    error::{ProvideErrorMetadata, SdkError},
    operation::get_recommendations::{
        GetRecommendationsError, GetRecommendationsOutput,
        builders::GetRecommendationsFluentBuilder,
    },
    types::{PredictedItem, Promotion as SdkPromotion},
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use futures::{StreamExt, stream};
use touchline_store::ids::ItemId;

use super::{
    Details, Interaction, Origin, Query, RankedItem, Ranking, RecommendError, Recommender,
    Recorded,
    refinement::{Refinement, is_arn},
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
/// The data set whose columns `metadataColumns` names.
const ITEMS: &str = "ITEMS";

/// How Personalize is reached.
#[derive(Debug, Clone)]
pub struct PersonalizeConfig {
    /// What is asked.
    pub target: Target,
    /// Its region.
    pub region: String,
    /// Where Personalize is; `None`: AWS.
    pub endpoint: Option<String>,
    /// One question takes at most this long, whatever the caller's deadline.
    pub timeout: Duration,
}

/// What is asked: a campaign (custom data set groups) or a recommender (domain data set groups).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A campaign's ARN.
    Campaign(String),
    /// A recommender's ARN.
    Recommender(String),
}

impl Target {
    /// Reads an ARN as whichever of the two it is.
    pub fn parse(arn: &str) -> Option<Self> {
        if is_arn(arn, "campaign/") {
            return Some(Self::Campaign(arn.to_owned()));
        }
        is_arn(arn, "recommender/").then(|| Self::Recommender(arn.to_owned()))
    }

    /// The ARN.
    pub fn arn(&self) -> &str {
        match self {
            Self::Campaign(arn) | Self::Recommender(arn) => arn,
        }
    }

    /// The region that the ARN names.
    pub fn region(&self) -> &str {
        self.arn().split(':').nth(3).unwrap_or_default()
    }
}

/// A Personalize campaign, or recommender.
#[derive(Debug, Clone)]
pub struct PersonalizeRecommender {
    asked: Arc<RwLock<Arc<Asked>>>,
}

/// What is asked at a time.
#[derive(Debug)]
struct Asked {
    config: PersonalizeConfig,
    client: Client,
    /// How often it was changed.
    generation: u64,
}

impl PersonalizeRecommender {
    /// A client whose connections are kept open; no call is made.
    pub async fn connect(config: &PersonalizeConfig) -> Self {
        let asked = Asked {
            client: client(config).await,
            config: config.clone(),
            generation: 0,
        };
        Self {
            asked: Arc::new(RwLock::new(Arc::new(asked))),
        }
    }

    /// Asks another campaign from now on, in the region given or, without one, where the one before
    /// was; what was answered before is out of date. False when it is the one that is asked already.
    pub async fn retarget(&self, target: Target, region: Option<&str>) -> bool {
        let before = self.asked();
        let region = region.unwrap_or(&before.config.region);
        if before.config.target == target && before.config.region == region {
            return false;
        }
        let config = PersonalizeConfig {
            target,
            region: region.to_owned(),
            ..before.config.clone()
        };
        // Requests are signed for a region.
        let client = match config.region == before.config.region {
            true => before.client.clone(),
            false => client(&config).await,
        };
        let mut asked = self.asked.write().unwrap_or_else(PoisonError::into_inner);
        *asked = Arc::new(Asked {
            config,
            client,
            generation: asked.generation + 1,
        });
        true
    }

    fn asked(&self) -> Arc<Asked> {
        let asked = self.asked.read().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }

    async fn rank_one(&self, query: &Query) -> Result<Ranking, RecommendError> {
        let num_results = i32::try_from(query.num_results).unwrap_or(i32::MAX);
        let context: HashMap<String, String> = query
            .context
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let asked = self.asked();
        let request = asked
            .client
            .get_recommendations()
            .user_id(query.consumer_id.as_str())
            .num_results(num_results)
            .set_context((!context.is_empty()).then_some(context));
        let request = match &asked.config.target {
            Target::Campaign(arn) => request.campaign_arn(arn),
            Target::Recommender(arn) => request.recommender_arn(arn),
        };
        let answer = refined(request, &query.refinement).send().await;
        answer.map(ranking).map_err(failure)
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

    fn refines(&self) -> bool {
        true
    }

    fn generation(&self) -> u64 {
        self.asked().generation
    }
}

async fn client(config: &PersonalizeConfig) -> Client {
    let endpoint = config.endpoint.as_deref();
    let region = Some(config.region.as_str());
    let shared = touchline_store::aws::sdk_config(region, endpoint, config.timeout).await;
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT.min(config.timeout))
        .operation_attempt_timeout(config.timeout)
        .operation_timeout(config.timeout)
        .build();
    let runtime = Builder::from(&shared)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .build();
    Client::from_conf(runtime)
}

fn refined(
    request: GetRecommendationsFluentBuilder,
    refinement: &Refinement,
) -> GetRecommendationsFluentBuilder {
    let map = |values: &BTreeMap<String, String>| -> Option<HashMap<String, String>> {
        let values = values.iter();
        let values: HashMap<_, _> = values
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        (!values.is_empty()).then_some(values)
    };
    let mut request = request;
    if let Some(filter) = &refinement.filter {
        request = request
            .filter_arn(&filter.arn)
            .set_filter_values(map(&filter.values));
    }
    if let Some(promotion) = &refinement.promotion {
        let promotion = SdkPromotion::builder()
            .name(&promotion.name)
            .percent_promoted_items(i32::try_from(promotion.percent).unwrap_or(i32::MAX))
            .filter_arn(&promotion.filter.arn)
            .set_filter_values(map(&promotion.filter.values))
            .build();
        request = request.promotions(promotion);
    }
    if !refinement.metadata_columns.is_empty() {
        request = request.metadata_columns(ITEMS, refinement.metadata_columns.clone());
    }
    request
}

fn ranking(answer: GetRecommendationsOutput) -> Ranking {
    let items = answer.item_list.unwrap_or_default();
    Ranking {
        // An item without an id is nothing that could be shown.
        items: items.iter().filter_map(ranked).collect(),
        recommendation_id: answer.recommendation_id,
        origin: Origin::Personalize,
    }
}

fn ranked(predicted: &PredictedItem) -> Option<RankedItem> {
    let details = Details {
        reasons: predicted.reason().to_vec(),
        promotion: predicted.promotion_name().map(str::to_owned),
        metadata: predicted
            .metadata()
            .map(|metadata| metadata.clone().into_iter().collect())
            .unwrap_or_default(),
    };
    Some(RankedItem {
        item_id: ItemId::new(predicted.item_id()?).ok()?,
        score: predicted.score(),
        details: (details != Details::default()).then(|| Arc::new(details)),
    })
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
