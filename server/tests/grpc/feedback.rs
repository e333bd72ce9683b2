//! FeedbackService: all or nothing, and what a recommender without a memory says.

use tonic::Code;
use touchline_proto::v1::{Interaction, RecordInteractionsRequest};

use touchline_server::ServerArgs;

use crate::{
    harness::{Server, event, item, reason, refused_fields, until},
    standin::Standin,
};

fn tap(item_id: &str) -> Interaction {
    Interaction {
        consumer_id: "fan".to_owned(),
        item_id: item_id.to_owned(),
        event_type: "tap".to_owned(),
        ..Interaction::default()
    }
}

fn record(interactions: Vec<Interaction>) -> RecordInteractionsRequest {
    RecordInteractionsRequest { interactions }
}

#[tokio::test]
async fn interactions_are_recorded() {
    let server = Server::embedded().await;
    server.put(event("1", &[("match_event", "GOAL")])).await;
    let during = Interaction {
        event_id: "1".to_owned(),
        ..tap("a1")
    };
    let after = Interaction {
        event_id: "long-ended".to_owned(),
        ..tap("b1")
    };
    let request = record(vec![tap("a1"), during, after]);
    let answer = server
        .feedback()
        .record_interactions(request)
        .await
        .unwrap();
    assert_eq!(answer.into_inner().recorded, 3);
    server.stop().await;
}

#[tokio::test]
async fn a_server_keeps_the_newest_feedback_and_a_restarted_one_knows_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("feedback.csv");
    let args = ServerArgs {
        feedback: Some(path.clone()),
        feedback_max: 100,
        ..ServerArgs::default()
    };
    let server = Server::with(args.clone()).await;
    let numbered = |number: u32| Interaction {
        interaction_id: number.to_string(),
        ..tap("a1")
    };
    let request = record((0..500).map(numbered).collect());
    server
        .feedback()
        .record_interactions(request)
        .await
        .unwrap();
    until(|| async { std::fs::read_to_string(&path).unwrap().lines().count() == 101 }).await;
    server.stop().await;

    let server = Server::with(args).await;
    let request = record((399..500).map(numbered).collect());
    let answer = server.feedback().record_interactions(request).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!((answer.recorded, answer.duplicates), (1, 100));
    server.stop().await;
}

#[tokio::test]
async fn an_item_that_was_added_a_moment_ago_is_known() {
    let server = Server::embedded().await;
    let unknown = server
        .feedback()
        .record_interactions(record(vec![tap("new")]))
        .await;
    assert_eq!(
        refused_fields(&unknown.unwrap_err()),
        ["interactions[0].item_id"]
    );
    let new = [item("new", "PLAYER")];
    server
        .tables
        .store
        .put_items(&new, &[], &|_| {})
        .await
        .unwrap();
    until(|| async {
        let request = record(vec![tap("new")]);
        server.feedback().record_interactions(request).await.is_ok()
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn who_names_unknown_items_never_makes_the_server_read_its_table_each_time() {
    let server = Server::embedded().await;
    let began = std::time::Instant::now();
    let before = server.running.counters.catalog_refreshes.get();
    for _ in 0..100 {
        let request = record(vec![tap("unknown")]);
        let refused = server.feedback().record_interactions(request).await;
        refused.unwrap_err();
    }
    let reads = server.running.counters.catalog_refreshes.get() - before;
    let allowed = began.elapsed().as_secs() + 2;
    assert!(reads <= allowed, "{reads} reads");
    server.stop().await;
}

#[tokio::test]
async fn every_bad_field_is_named() {
    let server = Server::embedded().await;
    let change = |change: fn(&mut Interaction)| {
        let mut interaction = tap("a1");
        change(&mut interaction);
        record(vec![tap("a1"), interaction])
    };
    let at = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let timed = |occurred_at| {
        let interaction = Interaction {
            occurred_at,
            ..tap("a1")
        };
        record(vec![tap("a1"), interaction])
    };
    for (request, field) in [
        (record(vec![]), "interactions"),
        (record(vec![tap("a1"); 501]), "interactions"),
        (
            change(|tap| tap.consumer_id.clear()),
            "interactions[1].consumer_id",
        ),
        (change(|tap| tap.item_id.clear()), "interactions[1].item_id"),
        (
            change(|tap| tap.item_id = "unknown".to_owned()),
            "interactions[1].item_id",
        ),
        (
            change(|tap| tap.event_type.clear()),
            "interactions[1].event_type",
        ),
        (
            change(|tap| tap.event_type = "x".repeat(257)),
            "interactions[1].event_type",
        ),
        (
            change(|tap| tap.interaction_id = "x".repeat(257)),
            "interactions[1].interaction_id",
        ),
        (
            change(|tap| tap.event_id = "x".repeat(257)),
            "interactions[1].event_id",
        ),
        (
            change(|tap| tap.recommendation_id = "x".repeat(257)),
            "interactions[1].recommendation_id",
        ),
        (
            change(|tap| {
                tap.context.insert(String::new(), String::new());
            }),
            "interactions[1].context",
        ),
        (timed(at(-1, 0)), "interactions[1].occurred_at"),
        (timed(at(1, -1)), "interactions[1].occurred_at"),
        (timed(at(99_999_999_999, 0)), "interactions[1].occurred_at"),
    ] {
        let refused = server
            .feedback()
            .record_interactions(request)
            .await
            .unwrap_err();
        assert_eq!(refused_fields(&refused), [field]);
    }
    server.stop().await;
}

#[tokio::test]
async fn personalize_is_told_of_interactions_elsewhere_and_the_error_says_where() {
    let standin = Standin::with_items(&[]).await;
    let server = Server::personalize(&standin).await;
    let refused = server
        .feedback()
        .record_interactions(record(vec![tap("a1")]))
        .await;
    let status = refused.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(reason(&status), "UNSUPPORTED");
    assert!(status.message().contains("event tracker"), "{status:?}");
    server.stop().await;
}
