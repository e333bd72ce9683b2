//! The stand-in for Personalize, asked through the real SDK: what the service promises and how it
//! fails is what a caller sees. Nothing of Touchline takes part.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_personalizeruntime::{
    Client,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig, timeout::TimeoutConfig},
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    operation::get_recommendations::{
        GetRecommendationsError, GetRecommendationsOutput,
        builders::GetRecommendationsFluentBuilder,
    },
    types::PredictedItem,
};
use aws_smithy_http_client::Builder;
use touchline_tests::personalize::{Budget, CAMPAIGN_ARN, Fault, Latency, StandIn};

/// A client that tries once.
fn client(stand_in: &StandIn) -> Client {
    Client::from_conf(
        config(stand_in)
            .retry_config(RetryConfig::disabled())
            .build(),
    )
}

fn config(stand_in: &StandIn) -> aws_sdk_personalizeruntime::config::Builder {
    aws_sdk_personalizeruntime::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("key", "secret", None, None, "test"))
        .endpoint_url(stand_in.endpoint())
        .http_client(Builder::new().build_http())
}

fn ask(client: &Client, consumer_id: &str) -> GetRecommendationsFluentBuilder {
    client
        .get_recommendations()
        .campaign_arn(CAMPAIGN_ARN)
        .user_id(consumer_id)
        .num_results(10)
        .context("MATCH_EVENT", "GOAL")
}

fn items(output: &GetRecommendationsOutput) -> Vec<&str> {
    let ids = output.item_list().iter().filter_map(|item| item.item_id());
    ids.collect()
}

/// The name of the error that the service gave.
fn refusal<R>(
    result: Result<GetRecommendationsOutput, SdkError<GetRecommendationsError, R>>,
) -> String
where
    R: std::fmt::Debug,
{
    match result.expect_err("an error was expected") {
        SdkError::ServiceError(error) => error.err().code().unwrap_or_default().to_owned(),
        other => panic!("no service error: {}", DisplayErrorContext(other)),
    }
}

#[tokio::test]
async fn consumers_and_contexts_get_rankings_of_their_own_and_the_same_ones_again() {
    let stand_in = StandIn::start_well_behaved().await.unwrap();
    let client = client(&stand_in);
    let ann = ask(&client, "ann").send().await.unwrap();
    let again = ask(&client, "ann").send().await.unwrap();
    let bob = ask(&client, "bob").send().await.unwrap();
    let injury = ask(&client, "ann").context("MATCH_EVENT", "INJURY");
    let injury = injury.send().await.unwrap();

    assert_eq!(items(&ann).len(), 10);
    assert_eq!(items(&ann), items(&again));
    assert_ne!(items(&ann), items(&bob));
    assert_ne!(items(&ann), items(&injury));
    let scores: Vec<_> = ann.item_list().iter().map(PredictedItem::score).collect();
    assert!(scores.iter().all(Option::is_some) && scores.is_sorted_by(|one, two| one >= two));
    assert_ne!(ann.recommendation_id(), again.recommendation_id());
    let told = stand_in.ranking_of("ann", &[("MATCH_EVENT", "GOAL")]);
    assert_eq!(items(&ann), told[..10]);
}

#[tokio::test]
async fn each_different_call_is_counted() {
    let stand_in = StandIn::start_well_behaved().await.unwrap();
    let client = client(&stand_in);
    for consumer_id in ["ann", "bob", "ann"] {
        ask(&client, consumer_id).send().await.unwrap();
    }
    let calls = stand_in.calls();
    assert_eq!(stand_in.calls_total(), 3);
    assert_eq!(stand_in.calls_for("ann"), 2);
    let (call, count) = &calls[0];
    assert_eq!((call.consumer_id.as_str(), *count), ("ann", 2));
    assert_eq!(call.campaign_arn, CAMPAIGN_ARN);
    assert_eq!(call.num_results, 10);
    let goal = ("MATCH_EVENT".to_owned(), "GOAL".to_owned());
    assert_eq!(call.context, BTreeMap::from([goal]));
    stand_in.forget_calls();
    assert_eq!((stand_in.calls_total(), stand_in.calls().len()), (0, 0));
}

#[tokio::test]
async fn what_the_service_refuses_is_refused_by_its_name() {
    let stand_in = StandIn::start_well_behaved().await.unwrap();
    let client = client(&stand_in);
    let at_its_limits = ask(&client, &"x".repeat(256)).num_results(500);
    assert!(at_its_limits.send().await.is_ok());

    let too_many_keys = (0..151).fold(ask(&client, "ann"), |ask, number| {
        ask.context(format!("KEY_{number}"), "value")
    });
    let odd_key = ask(&client, "ann").context("MATCH EVENT", "GOAL");
    let long_value = ask(&client, "ann").context("KEY", "v".repeat(1001));
    for (what, request) in [
        ("501 results", ask(&client, "ann").num_results(501)),
        ("257 characters", ask(&client, &"x".repeat(257))),
        ("no consumer", ask(&client, "ann").set_user_id(None)),
        ("151 keys", too_many_keys),
        ("a key with a space", odd_key),
        ("a value of 1,001 characters", long_value),
        ("no campaign", ask(&client, "ann").set_campaign_arn(None)),
    ] {
        let name = refusal(request.send().await);
        assert_eq!(name, "InvalidInputException", "{what}");
    }
    let elsewhere = CAMPAIGN_ARN.replace("touchline", "elsewhere");
    let unknown = ask(&client, "ann").campaign_arn(elsewhere).send().await;
    assert_eq!(refusal(unknown), "ResourceNotFoundException");
}

#[tokio::test]
async fn a_budget_throttles_and_a_client_that_tries_again_gets_through() {
    let stand_in = StandIn::start_well_behaved().await.unwrap();
    stand_in.behave(|behaviour| {
        behaviour.budget = Some(Budget {
            per_second: 2.0,
            burst: 1.0,
        });
    });
    let once = client(&stand_in);
    assert!(ask(&once, "ann").send().await.is_ok());
    let throttled = ask(&once, "ann").send().await;
    assert_eq!(refusal(throttled), "ThrottlingException");

    let retries = RetryConfig::standard().with_max_attempts(10);
    let patient = Client::from_conf(config(&stand_in).retry_config(retries).build());
    stand_in.forget_calls();
    ask(&patient, "ann").send().await.unwrap();
    let calls = stand_in.calls_total();
    assert!(calls > 1, "the SDK took it for a throttle and tried again");
}

#[tokio::test]
async fn failures_look_like_the_services_and_can_be_switched_at_run_time() {
    let stand_in = StandIn::start_well_behaved().await.unwrap();
    let client = client(&stand_in);
    stand_in.behave(|behaviour| behaviour.fault = Some(Fault::Error));
    let failed = ask(&client, "ann").send().await.unwrap_err();
    let status = failed.raw_response().map(|answer| answer.status().as_u16());
    assert_eq!(status, Some(500));
    assert_eq!(failed.code(), Some("InternalFailure"));

    stand_in.behave(|behaviour| behaviour.fault = Some(Fault::Throttle));
    let throttled = ask(&client, "ann").send().await;
    assert_eq!(refusal(throttled), "ThrottlingException");

    stand_in.behave(|behaviour| behaviour.fault = Some(Fault::Reset));
    let reset = ask(&client, "ann").send().await.unwrap_err();
    assert!(matches!(reset, SdkError::DispatchFailure(_)), "{reset:?}");

    stand_in.behave(|behaviour| behaviour.fault = Some(Fault::Garbage));
    let garbage = ask(&client, "ann").send().await;
    assert!(garbage.is_err(), "an HTML page is no answer");

    stand_in.behave(|behaviour| behaviour.fault = None);
    assert!(ask(&client, "ann").send().await.is_ok());
}

#[tokio::test]
async fn one_consumers_fault_is_nobody_elses() {
    let stand_in = StandIn::start_well_behaved().await.unwrap();
    stand_in.behave(|behaviour| {
        let faults = &mut behaviour.consumer_faults;
        faults.insert("ann".to_owned(), Fault::Error);
    });
    let client = client(&stand_in);
    assert_eq!(refusal(ask(&client, "ann").send().await), "InternalFailure");
    assert!(ask(&client, "bob").send().await.is_ok());
}

#[tokio::test]
async fn a_hang_lasts_until_the_caller_gives_up_and_does_not_keep_it_from_stopping() {
    let stand_in = StandIn::start_well_behaved().await.unwrap();
    stand_in.behave(|behaviour| behaviour.fault = Some(Fault::Hang));
    let timeouts = TimeoutConfig::builder()
        .operation_timeout(Duration::from_millis(50))
        .build();
    let hasty = Client::from_conf(config(&stand_in).timeout_config(timeouts).build());
    let hung = ask(&hasty, "ann").send().await.unwrap_err();
    assert!(matches!(hung, SdkError::TimeoutError(_)), "{hung:?}");

    let client = client(&stand_in);
    let waiting = ask(&client, "bob").send();
    let (hung, stopped) = tokio::join!(waiting, async {
        while stand_in.calls_for("bob") == 0 {
            tokio::task::yield_now().await;
        }
        stand_in.stop().await
    });
    assert!(hung.is_err() && stopped.is_ok());
}

#[tokio::test]
async fn an_answer_takes_as_long_as_it_is_told_to() {
    let stand_in = StandIn::start_well_behaved().await.unwrap();
    stand_in.behave(|behaviour| {
        behaviour.latency = Latency {
            median_ms: 50.0,
            ..Latency::default()
        };
    });
    let client = client(&stand_in);
    let begun = std::time::Instant::now();
    let (ann, bob) = tokio::join!(ask(&client, "ann").send(), ask(&client, "bob").send());
    assert!(ann.is_ok() && bob.is_ok());
    assert!(begun.elapsed() >= Duration::from_millis(50));
    assert_eq!(stand_in.calls_at_once_max(), 2);
}
