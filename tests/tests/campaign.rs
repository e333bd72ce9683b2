//! Raising a campaign's `minProvisionedTPS` over the real SDK, against a stand-in of Personalize's
//! control plane. Needs the feature `campaign`.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{io::Write, time::Duration};

use clap::Parser;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use touchline_cli::{
    args::{Cli, Command},
    commands::warm,
    warm::campaign::{Campaign, CampaignError, Pace},
};
use touchline_tests::{
    DEADLINE,
    alone::{Alone, consumers},
    campaign::{Call, CampaignStandIn},
    personalize::CAMPAIGN_ARN,
};

const QUICKLY: Pace = Pace {
    look: Duration::from_millis(5),
    patience: DEADLINE,
};

async fn campaign(stand_in: &CampaignStandIn, pace: Pace) -> Campaign {
    Campaign::connect(CAMPAIGN_ARN, None, Some(&stand_in.endpoint()), pace).await
}

async fn raise(stand_in: &CampaignStandIn, tps: u32) -> Result<u32, CampaignError> {
    let campaign = campaign(stand_in, QUICKLY).await;
    let raising = campaign.raise_to(tps, &|_| ());
    timeout(DEADLINE, raising).await.expect("it ends in time")
}

#[tokio::test]
async fn it_is_raised_once_and_waited_for() {
    let stand_in = CampaignStandIn::start(20).await.unwrap();
    stand_in.behave(|it| it.looks = 3);
    assert_eq!(raise(&stand_in, 500).await.unwrap(), 20);
    assert_eq!(stand_in.tps(), 500);
    let calls = stand_in.calls();
    let updates = calls.iter().filter(|call| **call == Call::Update(500));
    assert_eq!(updates.count(), 1, "{calls:?}");
    assert_eq!(calls.len(), 6, "one look before, four after: {calls:?}");
    let campaign = campaign(&stand_in, QUICKLY).await;
    assert_eq!(campaign.min_provisioned_tps().await.unwrap(), 500);
}

#[tokio::test]
async fn what_is_high_enough_is_left_alone() {
    let stand_in = CampaignStandIn::start(20).await.unwrap();
    assert_eq!(raise(&stand_in, 20).await.unwrap(), 20);
    assert_eq!(stand_in.calls(), [Call::Describe]);
}

#[tokio::test]
async fn somebody_elses_update_is_waited_for_first() {
    let stand_in = CampaignStandIn::start(20).await.unwrap();
    stand_in.behave(|it| it.somebody_updates(30, 3));
    assert_eq!(raise(&stand_in, 40).await.unwrap(), 30);
    assert_eq!(stand_in.tps(), 40);
    // And one that is as high needs none after it.
    stand_in.behave(|it| it.somebody_updates(60, 2));
    assert_eq!(raise(&stand_in, 50).await.unwrap(), 60);
    assert_eq!(stand_in.tps(), 60);
}

#[tokio::test]
async fn one_that_is_in_use_just_then_is_tried_again() {
    let stand_in = CampaignStandIn::start(20).await.unwrap();
    stand_in.behave(|it| it.refusals = ["ResourceInUseException"; 2].into());
    assert_eq!(raise(&stand_in, 40).await.unwrap(), 20);
    assert_eq!(stand_in.tps(), 40);
}

#[tokio::test]
async fn what_personalize_refuses_is_said_and_not_repeated_for_ever() {
    // An SDK takes the first for a throttle, and tries again a few times.
    for (name, attempts) in [("LimitExceededException", 4), ("InvalidInputException", 1)] {
        let stand_in = CampaignStandIn::start(20).await.unwrap();
        stand_in.behave(|it| it.refusals = [name; 100].into());
        let error = raise(&stand_in, 5_000).await.unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        assert!(error.contains("as the test says"), "{error}");
        let calls = stand_in.calls();
        let (first, updates) = calls.split_first().unwrap();
        assert_eq!(*first, Call::Describe);
        assert_eq!(updates, vec![Call::Update(5_000); attempts]);
        assert_eq!(stand_in.tps(), 20);
    }
    let stand_in = CampaignStandIn::start(20).await.unwrap();
    let (arn, endpoint) = (format!("{CAMPAIGN_ARN}-2"), stand_in.endpoint());
    let other = Campaign::connect(&arn, None, Some(&endpoint), QUICKLY).await;
    let error = other.min_provisioned_tps().await.unwrap_err();
    assert!(
        error.to_string().contains("ResourceNotFoundException"),
        "{error}"
    );
}

#[tokio::test]
async fn an_update_that_fails_says_why_and_an_older_failure_is_not_taken_for_it() {
    let stand_in = CampaignStandIn::start(20).await.unwrap();
    stand_in.behave(|it| it.failure = Some("no capacity"));
    let error = raise(&stand_in, 40).await.unwrap_err();
    assert!(
        matches!(error, CampaignError::Failed { tps: 40, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("no capacity"), "{error}");
    assert_eq!(stand_in.tps(), 20);
    stand_in.behave(|it| it.failure = None);
    assert_eq!(raise(&stand_in, 40).await.unwrap(), 20);
    assert_eq!(stand_in.tps(), 40);
}

#[tokio::test]
async fn an_update_that_does_not_end_is_left_to_itself() {
    let stand_in = CampaignStandIn::start(20).await.unwrap();
    stand_in.behave(|it| it.looks = u32::MAX);
    let pace = Pace {
        look: Duration::from_millis(5),
        patience: Duration::from_millis(100),
    };
    let campaign = campaign(&stand_in, pace).await;
    let raising = timeout(DEADLINE, campaign.raise_to(40, &|_| ()));
    let error = raising.await.unwrap().unwrap_err();
    assert!(matches!(error, CampaignError::Late(_)), "{error}");
    // Whoever comes next waits for it, as long.
    let error = campaign.raise_to(40, &|_| ()).await.unwrap_err();
    assert!(matches!(error, CampaignError::Late(_)), "{error}");
}

#[tokio::test]
async fn a_campaign_that_is_being_deleted_or_is_not_there_is_not_changed() {
    let stand_in = CampaignStandIn::start(20).await.unwrap();
    stand_in.behave(|it| it.status = "DELETE IN_PROGRESS");
    let error = raise(&stand_in, 40).await.unwrap_err();
    assert_eq!(error.to_string(), "the campaign is DELETE IN_PROGRESS");
    assert_eq!(stand_in.calls(), [Call::Describe]);

    let campaign = campaign(&stand_in, QUICKLY).await;
    drop(stand_in);
    let error = campaign.min_provisioned_tps().await.unwrap_err();
    assert!(matches!(error, CampaignError::Unreachable(_)), "{error}");
}

/// `touchline warm` with these flags more, in this process.
async fn warm(alone: &Alone, control: &CampaignStandIn, more: &[&str]) -> Result<(), String> {
    let mut list = tempfile::NamedTempFile::new().unwrap();
    for consumer in consumers(40) {
        writeln!(list, "{consumer}").unwrap();
    }
    list.flush().unwrap();
    let server = format!("http://{}", alone.server.grpc_address);
    let (list, control) = (list.path().to_str().unwrap(), control.endpoint());
    let mut arguments = vec!["touchline", "warm", "1", "--consumers", list];
    arguments.extend(["--server", &server, "--campaign-arn", CAMPAIGN_ARN]);
    arguments.extend(["--personalize-control-endpoint", &control]);
    arguments.extend(more);
    let Some(Command::Warm(args)) = Cli::parse_from(arguments).command else {
        panic!("it is another command");
    };
    let running = warm::run(args, CancellationToken::new());
    let ended = timeout(DEADLINE, running).await.expect("it ends in time");
    ended.map_err(|error| error.to_string())
}

#[tokio::test]
async fn warming_raises_only_on_request_and_warms_nothing_when_that_fails() {
    let alone = Alone::start().await;
    let control = CampaignStandIn::start(1).await.unwrap();
    warm(&alone, &control, &["--within", "10s", "--dry-run"])
        .await
        .unwrap();
    assert_eq!(control.calls(), [Call::Describe]);
    assert_eq!(alone.stand_in.calls_total(), 1);

    let apply = ["--within", "10s", "--apply-min-provisioned-tps"];
    control.behave(|it| it.refusals = ["InvalidInputException"].into());
    let error = warm(&alone, &control, &apply).await.unwrap_err();
    assert!(error.contains("InvalidInputException"), "{error}");
    assert!(error.contains("aws personalize update-campaign"), "{error}");
    assert_eq!(
        alone.stand_in.calls_total(),
        1,
        "the question for the budget"
    );

    control.behave(|it| it.looks = 0);
    warm(&alone, &control, &apply).await.unwrap();
    assert_eq!(control.tps(), 4, "40 questions in 10 s");
    assert_eq!(alone.stand_in.calls_total(), 40);
    alone.stop().await;
}
