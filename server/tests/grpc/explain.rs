//! GetComponents with `explain`: the ranking, what was dropped and why, the state of the budget.

use touchline_proto::v1::{ExplainedItem, GetComponentsRequest};

use crate::{
    harness::{Server, by_context},
    standin::Standin,
};

fn explained() -> GetComponentsRequest {
    GetComponentsRequest {
        explain: true,
        ..by_context("fan", &[])
    }
}

#[tokio::test]
async fn every_place_of_the_ranking_is_explained_with_the_budget() {
    let standin = Standin::with_items(&["c2", "gone", "a1", "c1"]).await;
    let server = Server::personalize(&standin).await;
    let plain = by_context("fan", &[]);
    let answer = server.components().get_components(plain).await.unwrap();
    assert!(answer.into_inner().explanation.is_none());

    let answer = server.components().get_components(explained()).await;
    let explanation = answer.unwrap().into_inner().explanation.unwrap();
    let say = |item: &ExplainedItem| match item.shown {
        true => format!("{} #{} {}", item.item_id, item.rank, item.item_type),
        false => format!("{} #{}: {}", item.item_id, item.rank, item.dropped_because),
    };
    let said: Vec<_> = explanation.ranking.iter().map(say).collect();
    assert_eq!(
        said,
        [
            "c2 #1 MONETIZE",
            "gone #2: the catalog does not know it, or its row has no item_type",
            "a1 #3 PLAYER",
            "c1 #4: the slots of its type are taken by items that rank higher or are pinned",
        ]
    );
    let state = explanation.recommender.unwrap();
    assert!((state.limit_per_second - 100_000.0).abs() < 1e-9);
    assert!(!state.paused && state.in_flight == 0);
    server.stop().await;
}

#[tokio::test]
async fn a_recommender_in_this_process_has_no_budget() {
    let server = Server::embedded().await;
    let answer = server.components().get_components(explained()).await;
    let explanation = answer.unwrap().into_inner().explanation.unwrap();
    assert_eq!(explanation.ranking.len(), 6);
    assert!(explanation.recommender.is_none());
    server.stop().await;
}
