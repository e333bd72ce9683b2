//! What Personalize keeps ready for a campaign, `minProvisionedTPS`: what would be needed, the commands
//! that change it, and where it is asked for, changing it. Never lowers it.

use std::{fmt::Write as _, time::Duration};

use clap::Args;

use super::words::{count, time};
use crate::{Error, output, warm::plan::region_of};

/// The campaign behind the server.
#[derive(Debug, Args)]
pub struct CampaignArgs {
    /// The Personalize campaign that the server asks, to show and change what it keeps ready
    #[arg(long, env = "TOUCHLINE_CAMPAIGN_ARN", value_parser = campaign_arn, value_name = "ARN")]
    pub campaign_arn: Option<String>,
    /// Raise the campaign's minProvisionedTPS to what --within needs, and begin when that is in
    /// force. COSTS MONEY until it is lowered again. Needs a touchline that was built with
    /// `--features campaign`; others say the command
    #[arg(
        long,
        requires = "within",
        requires = "campaign_arn",
        conflicts_with = "dry_run"
    )]
    pub apply_min_provisioned_tps: bool,
    /// Region of the campaign [default: the one that its ARN names]
    #[arg(long, env = "TOUCHLINE_PERSONALIZE_REGION", value_name = "REGION")]
    pub personalize_region: Option<String>,
    /// Endpoint of Personalize's control plane [default: AWS]
    #[cfg(feature = "campaign")]
    #[arg(
        long,
        env = "TOUCHLINE_PERSONALIZE_CONTROL_ENDPOINT",
        value_name = "URL"
    )]
    pub personalize_control_endpoint: Option<String>,
}

/// Says what the campaign has to keep ready, and where it was asked for changes that. Returns the
/// reminder of what that costs. `needed`: within how long, and how many a second that is.
pub(super) async fn provision(
    args: &CampaignArgs,
    needed: Option<(Duration, u32)>,
) -> Result<Option<String>, Error> {
    let Some((within, tps)) = needed else {
        return Ok(None);
    };
    let needs = format!(
        "within {}: {} a second, minProvisionedTPS {tps}",
        time(within),
        count(tps.into())
    );
    let raised = raise(args, tps, &needs).await?;
    Ok(raised.map(|before| {
        let lower = update_command(
            args.campaign_arn.as_deref(),
            args.personalize_region.as_deref(),
            &before.to_string(),
        );
        format!("minProvisionedTPS {tps} costs money until it is lowered again:\n  {lower}")
    }))
}

/// What to know when the waiting for it was interrupted; `None` where nothing was asked for.
pub(super) fn interrupted(args: &CampaignArgs) -> Option<String> {
    let arn = args.campaign_arn.as_deref();
    let lower = update_command(arn, args.personalize_region.as_deref(), "1");
    args.apply_min_provisioned_tps.then(|| {
        format!(
            "an update of the campaign that has begun goes on, and costs money until              minProvisionedTPS is lowered again, to 1 or to what it was:\n  {lower}"
        )
    })
}

/// What `minProvisionedTPS` was, if it was raised.
#[cfg(feature = "campaign")]
async fn raise(args: &CampaignArgs, tps: u32, needs: &str) -> Result<Option<u32>, Error> {
    use crate::warm::campaign::{Campaign, Pace};
    let Some(arn) = &args.campaign_arn else {
        output::note(by_hand(args, tps, None, needs));
        return Ok(None);
    };
    let endpoint = args.personalize_control_endpoint.as_deref();
    let region = args.personalize_region.as_deref();
    let campaign = Campaign::connect(arn, region, endpoint, Pace::default()).await;
    let failed = |error: crate::warm::campaign::CampaignError| {
        let hint = by_hand(args, tps, None, needs);
        Error::Warm(format!("minProvisionedTPS: {error}\n{hint}"))
    };
    if !args.apply_min_provisioned_tps {
        match campaign.min_provisioned_tps().await {
            Ok(now) if now >= tps => output::note(format_args!("{needs}; it is {now} now")),
            Ok(now) => {
                let by_hand = by_hand(args, tps, Some(now), &format!("{needs}; it is {now} now"));
                output::note(by_hand);
            }
            Err(error) => {
                output::note(by_hand(args, tps, None, needs));
                output::note(format_args!("what it is now cannot be told: {error}"));
            }
        }
        return Ok(None);
    }
    let told = |text: &str| output::note(text);
    let before = campaign.raise_to(tps, &told).await.map_err(failed)?;
    if before >= tps {
        output::note(format_args!("{needs}; it is {before} already"));
        return Ok(None);
    }
    output::note(format_args!("{needs}; it was {before} and is raised now"));
    Ok(Some(before))
}

/// Without the SDK a person has to do it.
#[cfg(not(feature = "campaign"))]
async fn raise(args: &CampaignArgs, tps: u32, needs: &str) -> Result<Option<u32>, Error> {
    let by_hand = by_hand(args, tps, None, needs);
    if args.apply_min_provisioned_tps {
        return Err(Error::Warm(format!(
            "this touchline was built without `--features campaign` and cannot change a campaign; \
             nothing was warmed\n{by_hand}"
        )));
    }
    output::note(by_hand);
    Ok(None)
}

/// The commands that show, raise and lower it; `now` is what it is, where that is known.
fn by_hand(args: &CampaignArgs, tps: u32, now: Option<u32>, needs: &str) -> String {
    let arn = args.campaign_arn.as_deref();
    let region = args.personalize_region.as_deref();
    let raise = update_command(arn, region, &tps.to_string());
    let lower = update_command(arn, region, &now.unwrap_or(1).to_string());
    let mut text = needs.to_owned();
    let mut command = |what: &str, command: &str| {
        let _ = write!(text, "\n  {what}:\n    {command}");
    };
    if now.is_none() {
        command("what it is now", &describe_command(arn, region));
    }
    command(
        "to raise it, which costs money until it is lowered again",
        &raise,
    );
    match now {
        Some(_) => command("to lower it again", &lower),
        None => command("to lower it again, to 1 or to what it was", &lower),
    }
    text
}

fn campaign_arn(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.splitn(6, ':').collect();
    match parts[..] {
        ["arn", _, "personalize", region, _, resource]
            if !region.is_empty() && resource.starts_with("campaign/") =>
        {
            Ok(text.to_owned())
        }
        _ => Err("a campaign's ARN is accepted, such as \
                  arn:aws:personalize:eu-west-1:123456789012:campaign/NAME"
            .to_owned()),
    }
}

/// The command that sets a campaign's minimum.
fn update_command(campaign_arn: Option<&str>, region: Option<&str>, tps: &str) -> String {
    let (arn, region) = named(campaign_arn, region);
    format!(
        "aws personalize update-campaign --campaign-arn {arn} --min-provisioned-tps {tps}{region}"
    )
}

/// The command that shows it.
fn describe_command(campaign_arn: Option<&str>, region: Option<&str>) -> String {
    let (arn, region) = named(campaign_arn, region);
    format!(
        "aws personalize describe-campaign --campaign-arn {arn} --query \
         campaign.minProvisionedTPS{region}"
    )
}

fn named<'a>(campaign_arn: Option<&'a str>, region: Option<&str>) -> (&'a str, String) {
    let region = region.or(campaign_arn.and_then(region_of));
    let region = region.map_or_else(String::new, |region| format!(" --region {region}"));
    (campaign_arn.unwrap_or("CAMPAIGN_ARN"), region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_campaigns_arn_is_accepted() {
        for bad in [
            "arn:aws:personalize:eu-west-1:1:recommender/r",
            "arn:aws:dynamodb:eu-west-1:1:campaign/c",
            "campaign",
        ] {
            assert!(campaign_arn(bad).unwrap_err().contains("campaign's ARN"));
        }
    }

    #[test]
    fn commands_can_be_pasted() {
        let arn = Some("arn:aws:personalize:eu-west-1:1:campaign/c");
        assert_eq!(
            update_command(arn, None, "20"),
            "aws personalize update-campaign --campaign-arn \
             arn:aws:personalize:eu-west-1:1:campaign/c --min-provisioned-tps 20 --region eu-west-1"
        );
        assert!(describe_command(None, None).ends_with("--query campaign.minProvisionedTPS"));
    }
}
