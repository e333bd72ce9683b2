//! All of GetRecommendations: what is asked, what comes back, and what is refused before the call.

use serde_json::json;
use touchline_proto::v1::{Filter, GetComponentsRequest, Promotion, Refinement};
use touchline_server::{ServerArgs, config::serving::ServingArgs};

use crate::{
    harness::{Server, asking, by_context, refused_fields},
    standin::{Answer, Standin},
};

const FILTER: &str = "arn:aws:personalize:eu-west-1:123456789012:filter/kind";

fn filter() -> Filter {
    Filter {
        filter_arn: FILTER.to_owned(),
        values: [("KIND".to_owned(), "\"PLAYER\"".to_owned())].into(),
    }
}

fn whole() -> Refinement {
    Refinement {
        filter: Some(filter()),
        promotions: vec![Promotion {
            name: "sponsor".to_owned(),
            percent_promoted_items: 20,
            filter: Some(filter()),
        }],
        metadata_columns: vec!["ITEM_LABEL".to_owned()],
    }
}

fn refined(refinement: Refinement) -> GetComponentsRequest {
    GetComponentsRequest {
        refinement: Some(refinement),
        ..by_context("fan", &[("MATCH_EVENT", "GOAL")])
    }
}

async fn body() -> Standin {
    Standin::start(|_| {
        Answer::Body(json!({
            "recommendationId": "RID-9",
            "itemList": [{
                "itemId": "a1", "score": 0.25, "promotionName": "sponsor",
                "reason": ["popular with fans"], "metadata": {"itemlabel": "Messi"},
            }],
        }))
    })
    .await
}

#[tokio::test]
async fn filter_promotion_and_metadata_are_asked_and_what_comes_back_is_told() {
    let standin = body().await;
    let server = Server::personalize(&standin).await;
    let answer = server.components().get_components(refined(whole())).await;
    let set = answer.unwrap().into_inner().component_set.unwrap();
    let question = standin.asked.lock().unwrap()[0].clone();
    assert_eq!(question["filterArn"], FILTER);
    assert_eq!(question["filterValues"], json!({"KIND": "\"PLAYER\""}));
    assert_eq!(
        question["promotions"],
        json!([{
            "name": "sponsor", "percentPromotedItems": 20, "filterArn": FILTER,
            "filterValues": {"KIND": "\"PLAYER\""},
        }])
    );
    assert_eq!(
        question["metadataColumns"],
        json!({"ITEMS": ["ITEM_LABEL"]})
    );
    let component = &set.components[0];
    assert_eq!(component.reasons, ["popular with fans"]);
    assert_eq!(component.promotion, "sponsor");
    assert_eq!(component.metadata["itemlabel"], "Messi");
    assert_eq!(set.recommendation_id, "RID-9");

    // Another filter is another question, an equal one is not.
    let plain = refined(Refinement::default());
    server.components().get_components(plain).await.unwrap();
    let again = refined(whole());
    server.components().get_components(again).await.unwrap();
    assert_eq!(standin.questions(), 2);
    server.stop().await;
}

#[tokio::test]
async fn a_recommender_is_asked_by_its_own_name_and_the_servers_refinement_is_the_default() {
    let standin = body().await;
    let recommender = "arn:aws:personalize:eu-west-1:123456789012:recommender/fans";
    let server = Server::with(ServerArgs {
        campaign_arn: None,
        serving: ServingArgs {
            recommender_arn: Some(recommender.to_owned()),
            filter_arn: Some(FILTER.to_owned()),
            ..asking(&standin).serving
        },
        ..asking(&standin)
    })
    .await;
    let request = by_context("fan", &[]);
    server.components().get_components(request).await.unwrap();
    let question = standin.asked.lock().unwrap()[0].clone();
    assert_eq!(question["recommenderArn"], recommender);
    assert_eq!(question["campaignArn"], json!(null));
    assert_eq!(question["filterArn"], FILTER);
    server.stop().await;
}

#[tokio::test]
async fn what_the_api_would_refuse_is_refused_before_the_call_and_named() {
    let standin = body().await;
    let server = Server::personalize(&standin).await;
    let mut bad = whole();
    bad.filter.as_mut().unwrap().filter_arn = "arn:aws:s3:::x".to_owned();
    bad.promotions[0].percent_promoted_items = 0;
    bad.promotions.push(Promotion::default());
    let request = GetComponentsRequest {
        num_results: 51,
        ..refined(bad)
    };
    let refused = server.components().get_components(request).await;
    assert_eq!(
        refused_fields(&refused.unwrap_err()),
        [
            "refinement.promotions",
            "refinement.filter.filter_arn",
            "refinement.promotions[0].percent_promoted_items",
            "num_results",
        ]
    );
    assert_eq!(standin.questions(), 0);
    server.stop().await;

    // A recommender in this process knows none of it, and says so instead of leaving it out.
    let server = Server::embedded().await;
    let refused = server.components().get_components(refined(whole())).await;
    assert_eq!(refused_fields(&refused.unwrap_err()), ["refinement"]);
    server.stop().await;
}
