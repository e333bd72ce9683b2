//! What Amazon Personalize keeps ready for a campaign: reading `minProvisionedTPS`, and changing it.
//! The one file of this crate with an AWS SDK in it. Lowers nothing by itself: only its owner knows
//! when the match is over.

use std::time::Duration;

use aws_sdk_personalize::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    primitives::DateTime,
    types::Campaign as Described,
};
use tokio::time::{Instant, sleep};

use super::plan::region_of;
use crate::error::causes;

/// One call takes at most this long.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// An update that goes on.
const IN_USE: &str = "ResourceInUseException";

/// How patiently an update is followed.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two looks.
    pub look: Duration,
    /// An update that takes longer is left to itself.
    pub patience: Duration,
}

impl Default for Pace {
    /// Updates take some minutes.
    fn default() -> Self {
        Self {
            look: Duration::from_secs(10),
            patience: Duration::from_mins(45),
        }
    }
}

/// Why it cannot be read or changed; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    /// Personalize says no.
    #[error("Personalize refuses ({code}): {message}")]
    Refused {
        /// Its name of the error.
        code: String,
        /// What it says.
        message: String,
    },
    /// Personalize cannot be asked.
    #[error("Personalize cannot be asked: {0}; are there credentials, and is it the region?")]
    Unreachable(String),
    /// The campaign is in no state to be changed.
    #[error("the campaign is {0}")]
    Unusable(String),
    /// The update failed.
    #[error("the update to minProvisionedTPS {tps} failed: {reason}")]
    Failed {
        /// What was wanted.
        tps: u32,
        /// What Personalize says.
        reason: String,
    },
    /// The update takes too long.
    #[error(
        "an update of the campaign goes on after {} min; warm again when it is ACTIVE",
        .0.as_secs() / 60
    )]
    Late(Duration),
}

/// A campaign, by Personalize's control plane.
#[derive(Debug, Clone)]
pub struct Campaign {
    client: Client,
    arn: String,
    pace: Pace,
}

/// What a campaign is like.
#[derive(Debug, Clone, PartialEq)]
struct State {
    /// Its minimum, as it is in force.
    tps: u32,
    status: String,
    update: Option<Update>,
}

#[derive(Debug, Clone, PartialEq)]
struct Update {
    tps: u32,
    status: String,
    reason: Option<String>,
    created: Option<DateTime>,
}

impl Campaign {
    /// The campaign of this ARN, in `region` or the one that the ARN names, at AWS or at another
    /// endpoint. No call is made.
    pub async fn connect(
        arn: &str,
        region: Option<&str>,
        endpoint: Option<&str>,
        pace: Pace,
    ) -> Self {
        let region = region.or(region_of(arn));
        let config = touchline_store::aws::sdk_config(region, endpoint, CALL_TIMEOUT).await;
        Self {
            client: Client::new(&config),
            arn: arn.to_owned(),
            pace,
        }
    }

    /// `minProvisionedTPS` as it is in force.
    pub async fn min_provisioned_tps(&self) -> Result<u32, CampaignError> {
        Ok(self.state().await?.tps)
    }

    /// Raises `minProvisionedTPS` and waits until that is in force. Waits for another update first;
    /// what is high enough already is left as it is. Returns what it was before.
    pub async fn raise_to(
        &self,
        tps: u32,
        told: &(dyn Fn(&str) + Sync),
    ) -> Result<u32, CampaignError> {
        let end = Instant::now() + self.pace.patience;
        let (before, last) = loop {
            let state = self.settled(end, told).await?;
            if state.tps >= tps {
                return Ok(state.tps);
            }
            match self.update(tps).await {
                Ok(()) => break (state.tps, state.update),
                // Somebody else was faster by a moment.
                Err(CampaignError::Refused { code, .. }) if code == IN_USE => {
                    self.pause(end).await?;
                }
                Err(error) => return Err(error),
            }
        };
        told(&format!(
            "minProvisionedTPS is being raised from {before} to {tps}; this takes some minutes"
        ));
        let last = last.and_then(|update| update.created);
        loop {
            let state = self.state().await?;
            // The update before this one may be what is described for a moment.
            if let Some(update) = state.update
                && update.tps == tps
                && (update.created.is_none() || update.created != last)
            {
                match update.status.as_str() {
                    "ACTIVE" => return Ok(before),
                    status if status.ends_with("FAILED") => {
                        let unknown = || "Personalize does not say why".to_owned();
                        let reason = update.reason.unwrap_or_else(unknown);
                        return Err(CampaignError::Failed { tps, reason });
                    }
                    _ => {}
                }
            }
            self.pause(end).await?;
        }
    }

    /// The campaign once nothing is changing it.
    async fn settled(
        &self,
        end: Instant,
        told: &(dyn Fn(&str) + Sync),
    ) -> Result<State, CampaignError> {
        let mut said = false;
        loop {
            let state = self.state().await?;
            let changing =
                |status: &str| status.ends_with("PENDING") || status.contains("PROGRESS");
            let updating = state.update.as_ref();
            let is_changing =
                changing(&state.status) || updating.is_some_and(|update| changing(&update.status));
            if state.status.starts_with("DELETE") || (!is_changing && state.status != "ACTIVE") {
                return Err(CampaignError::Unusable(state.status));
            }
            if !is_changing {
                return Ok(state);
            }
            if !std::mem::replace(&mut said, true) {
                told("an update of the campaign is in progress; waiting for its end");
            }
            self.pause(end).await?;
        }
    }

    async fn pause(&self, end: Instant) -> Result<(), CampaignError> {
        if Instant::now() + self.pace.look > end {
            return Err(CampaignError::Late(self.pace.patience));
        }
        sleep(self.pace.look).await;
        Ok(())
    }

    async fn state(&self) -> Result<State, CampaignError> {
        let described = self.client.describe_campaign().campaign_arn(&self.arn);
        let described = described.send().await.map_err(|error| failed(&error))?;
        let campaign = described.campaign.ok_or_else(|| {
            let nothing = "it describes no campaign".to_owned();
            CampaignError::Unreachable(nothing)
        })?;
        Ok(State::from(campaign))
    }

    async fn update(&self, tps: u32) -> Result<(), CampaignError> {
        let update = self.client.update_campaign().campaign_arn(&self.arn);
        let update = update.min_provisioned_tps(i32::try_from(tps).unwrap_or(i32::MAX));
        update.send().await.map_err(|error| failed(&error))?;
        Ok(())
    }
}

impl From<Described> for State {
    fn from(campaign: Described) -> Self {
        let count = |tps: Option<i32>| tps.and_then(|tps| tps.try_into().ok()).unwrap_or(1);
        let update = campaign.latest_campaign_update.map(|update| Update {
            tps: count(update.min_provisioned_tps),
            status: update.status.unwrap_or_default(),
            reason: update.failure_reason,
            created: update.creation_date_time,
        });
        let in_force = update.as_ref().filter(|update| update.status == "ACTIVE");
        Self {
            tps: in_force.map_or_else(|| count(campaign.min_provisioned_tps), |it| it.tps),
            status: campaign.status.unwrap_or_default(),
            update,
        }
    }
}

fn failed<E>(error: &SdkError<E>) -> CampaignError
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    match error.code() {
        Some(code) => CampaignError::Refused {
            code: code.to_owned(),
            message: error.message().unwrap_or("it does not say why").to_owned(),
        },
        None => CampaignError::Unreachable(causes(error)),
    }
}
