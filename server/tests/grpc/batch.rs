//! BatchGetComponents: each consumer exactly once, equal sets once, nobody in another's way.

use std::collections::{BTreeMap, HashSet};

use tonic::{Code, Status};
use touchline_proto::v1::{
    BatchGetComponentsRequest, ComponentSet, ConsumerAnswer, EventState, Position,
    consumer_answer::Answer as ConsumerResult,
};

use crate::{
    harness::{Server, by_event, event, refused_fields, soon},
    standin::{Answer, Standin},
};

/// All parts of a batch together.
struct Answers {
    sets: Vec<ComponentSet>,
    by_consumer: BTreeMap<u32, ConsumerAnswer>,
}

impl Answers {
    fn set_of(&self, index: u32) -> &ComponentSet {
        match self.by_consumer[&index].answer.as_ref().unwrap() {
            ConsumerResult::ComponentSetIndex(set) => &self.sets[*set as usize],
            ConsumerResult::Error(error) => panic!("consumer {index} has {error:?}"),
        }
    }

    fn first_item(&self, index: u32) -> &str {
        &self.set_of(index).components[0].item_id
    }
}

async fn ask(server: &Server, request: BatchGetComponentsRequest) -> Result<Answers, Status> {
    let answer = server.components().batch_get_components(request).await?;
    let mut stream = answer.into_inner();
    let mut answers = Answers {
        sets: Vec::new(),
        by_consumer: BTreeMap::new(),
    };
    while let Some(part) = soon(stream.message()).await? {
        answers.sets.extend(part.component_sets);
        for answer in part.answers {
            if let Some(ConsumerResult::ComponentSetIndex(set)) = answer.answer {
                let sent = answers.sets.len();
                assert!((set as usize) < sent, "a set is named after it was sent");
            }
            let index = answer.consumer_index;
            let before = answers.by_consumer.insert(index, answer);
            assert!(before.is_none(), "consumer {index} was answered twice");
        }
    }
    Ok(answers)
}

fn batch(state: EventState, consumers: &[String]) -> BatchGetComponentsRequest {
    BatchGetComponentsRequest {
        state: Some(state),
        consumer_ids: consumers.to_vec(),
        num_results: 0,
        ..Default::default()
    }
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{prefix}{index}")).collect()
}

#[tokio::test]
async fn a_thousand_consumers_are_answered_exactly_once_and_equal_sets_are_sent_once() {
    let standin = Standin::start(|question| {
        let consumer = question["userId"].as_str().unwrap();
        match consumer.as_bytes().last() {
            Some(b'7') => Answer::Items(&["b1", "a1"]),
            _ => Answer::Items(&["a1", "b1"]),
        }
    })
    .await;
    let server = Server::personalize(&standin).await;
    let consumers = names("fan", 1_000);
    let answers = ask(&server, batch(event("1", &[]), &consumers))
        .await
        .unwrap();
    assert_eq!(answers.by_consumer.len(), 1_000);
    assert_eq!(answers.sets.len(), 2);
    for index in 0..1_000 {
        let expected = if index % 10 == 7 { "b1" } else { "a1" };
        assert_eq!(answers.first_item(index), expected);
        assert_eq!(answers.by_consumer[&index].recommendation_id, "RID-1");
    }
    assert!(
        answers
            .sets
            .iter()
            .all(|set| set.recommendation_id.is_empty())
    );
    server.stop().await;
}

#[tokio::test]
async fn the_state_of_the_request_decides_and_nothing_is_looked_up() {
    let standin = Standin::with_items(&["a1"]).await;
    let server = Server::personalize(&standin).await;
    let state = EventState {
        version: "00112233aabbccdd".to_owned(),
        position: Some(Position {
            epoch: "epoch".to_owned(),
            sequence: "1".repeat(40),
        }),
        ..event("never-written", &[("match_event", "PENALTY")])
    };
    let answers = ask(&server, batch(state.clone(), &names("fan", 1)))
        .await
        .unwrap();
    let set = answers.set_of(0);
    assert_eq!(set.event_id, "never-written");
    assert_eq!(set.version, state.version);
    assert_eq!(set.position, state.position);
    let question = standin.asked.lock().unwrap()[0].clone();
    assert_eq!(question["context"]["MATCH_EVENT"], "PENALTY");
    server.stop().await;
}

#[tokio::test]
async fn one_consumers_failure_is_its_own() {
    let standin = Standin::start(|question| match question["userId"].as_str() {
        Some("fan3") => Answer::Error(400, "ThrottlingException"),
        _ => Answer::Items(&["a1"]),
    })
    .await;
    let server = Server::personalize(&standin).await;
    let answers = ask(&server, batch(event("1", &[]), &names("fan", 10)))
        .await
        .unwrap();
    assert_eq!(answers.by_consumer.len(), 10);
    for index in (0..10).filter(|index| *index != 3) {
        assert_eq!(answers.first_item(index), "a1");
    }
    let Some(ConsumerResult::Error(error)) = &answers.by_consumer[&3].answer else {
        panic!("the third has an answer");
    };
    assert_eq!(error.code, Code::ResourceExhausted as i32);
    server.stop().await;
}

#[tokio::test]
async fn a_repeated_consumer_is_answered_for_each_place() {
    let standin = Standin::with_items(&["a1"]).await;
    let server = Server::personalize(&standin).await;
    let consumers = vec!["fan".to_owned(); 5];
    let answers = ask(&server, batch(event("1", &[]), &consumers))
        .await
        .unwrap();
    assert_eq!(answers.by_consumer.len(), 5);
    assert_eq!(answers.first_item(4), "a1");
    assert_eq!(standin.questions(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_batch_shows_what_a_single_call_shows() {
    let server = Server::embedded().await;
    let state = server.put(event("1", &[("match_event", "GOAL")])).await;
    let consumers = names("fan", 100);
    let answers = ask(&server, batch(state, &consumers)).await.unwrap();
    assert_eq!(answers.by_consumer.len(), 100);
    for (index, consumer) in consumers.iter().enumerate().step_by(17) {
        let single = server
            .components()
            .get_components(by_event(consumer, "1"))
            .await;
        let single = single.unwrap().into_inner().component_set.unwrap();
        assert_eq!(answers.set_of(index as u32).set_id, single.set_id);
    }
    let distinct: HashSet<_> = answers.sets.iter().map(|set| format!("{set:?}")).collect();
    assert_eq!(
        distinct.len(),
        answers.sets.len(),
        "equal sets are sent once"
    );
    server.stop().await;
}

#[tokio::test]
async fn no_consumers_have_no_answers() {
    let server = Server::embedded().await;
    let answers = ask(&server, batch(event("1", &[]), &[])).await.unwrap();
    assert!(answers.by_consumer.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn every_bad_field_is_named() {
    let server = Server::embedded().await;
    let one = names("fan", 1);
    let stateless = BatchGetComponentsRequest {
        state: None,
        ..batch(event("1", &[]), &one)
    };
    let nobody = [
        "a".to_owned(),
        String::new(),
        "b".to_owned(),
        "x".repeat(257),
    ];
    let odd_content = EventState {
        content_ids: vec![String::new()],
        ..event("1", &[])
    };
    let too_many_results = BatchGetComponentsRequest {
        num_results: 501,
        ..batch(event("1", &[]), &one)
    };
    for (request, fields) in [
        (stateless, vec!["state"]),
        (batch(event("", &[]), &one), vec!["state.event_id"]),
        (batch(odd_content, &one), vec!["state.content_ids"]),
        (
            batch(event("1", &[]), &names("fan", 1_001)),
            vec!["consumer_ids"],
        ),
        (
            batch(event("1", &[]), &nobody),
            vec!["consumer_ids[1]", "consumer_ids[3]"],
        ),
        (too_many_results, vec!["num_results"]),
    ] {
        let refused = ask(&server, request).await.map(|_| ()).unwrap_err();
        assert_eq!(refused_fields(&refused), fields);
    }
    server.stop().await;
}
