//! EventService: what is written is read, and what cannot be accepted is named.

use std::collections::BTreeSet;

use tonic::Code;
use touchline_proto::v1::{
    DeleteEventRequest, EventState, GetEventRequest, ListEventsRequest, PutEventRequest,
};

use crate::harness::{Server, event, reason, refused_fields};

async fn read(server: &Server, event_id: &str) -> Result<EventState, tonic::Status> {
    let request = GetEventRequest {
        event_id: event_id.to_owned(),
    };
    let answer = server.events().get_event(request).await?;
    Ok(answer.into_inner().state.unwrap())
}

fn delete(event_id: &str) -> DeleteEventRequest {
    DeleteEventRequest {
        event_id: event_id.to_owned(),
    }
}

#[tokio::test]
async fn what_is_written_is_read() {
    let server = Server::embedded().await;
    let state = EventState {
        content_ids: vec!["final".to_owned(), "highlights".to_owned()],
        ..event("1", &[("match_event", "GOAL"), ("display_clock", "23'")])
    };
    let written = server.put(state.clone()).await;
    assert_eq!(written.attributes, state.attributes);
    assert_eq!(written.content_ids, state.content_ids);
    assert_eq!(written.version.len(), 16);
    assert_eq!(read(&server, "1").await.unwrap(), written);
    server.stop().await;
}

#[tokio::test]
async fn merging_keeps_what_is_not_given_and_replacing_does_not() {
    let server = Server::embedded().await;
    server
        .put(event(
            "1",
            &[("match_event", "GOAL"), ("match_type", "FINAL")],
        ))
        .await;
    let merge = PutEventRequest {
        event: Some(event("1", &[("match_event", "THROW")])),
        merge: true,
    };
    let merged = server.events().put_event(merge).await.unwrap();
    let merged = merged.into_inner().state.unwrap();
    assert_eq!(merged.attributes["match_event"], "THROW");
    assert_eq!(merged.attributes["match_type"], "FINAL");
    let replaced = server.put(event("1", &[("match_event", "INJURY")])).await;
    assert_eq!(replaced.attributes.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_deleted_event_is_gone_and_cannot_be_deleted_again() {
    let server = Server::embedded().await;
    server.put(event("1", &[])).await;
    server.events().delete_event(delete("1")).await.unwrap();
    assert_eq!(read(&server, "1").await.unwrap_err().code(), Code::NotFound);
    let again = server.events().delete_event(delete("1")).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
    assert_eq!(reason(&again), "EVENT_NOT_FOUND");
    server.stop().await;
}

#[tokio::test]
async fn events_are_listed_page_by_page_each_once() {
    let server = Server::embedded().await;
    let all: BTreeSet<String> = (0..25).map(|index| format!("event{index}")).collect();
    for event_id in &all {
        server.put(event(event_id, &[])).await;
    }
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListEventsRequest {
            page_size: 10,
            page_token,
        };
        let page = server
            .events()
            .list_events(request)
            .await
            .unwrap()
            .into_inner();
        assert!(page.states.len() <= 10);
        listed.extend(page.states.into_iter().map(|state| state.event_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed.len(), 25);
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), all);
    server.stop().await;
}

#[tokio::test]
async fn every_bad_field_is_named() {
    let server = Server::embedded().await;
    let put = |event: Option<EventState>| PutEventRequest {
        event,
        merge: false,
    };
    let many: Vec<_> = (0..101).map(|index| index.to_string()).collect();
    let attributes: Vec<_> = many.iter().map(|name| (name.as_str(), "v")).collect();
    let long_name = "n".repeat(256);
    let long_value = "v".repeat(8_193);
    let with_contents = |content_ids: Vec<String>| EventState {
        content_ids,
        ..event("1", &[])
    };
    for (state, fields) in [
        (None, vec!["event"]),
        (Some(event("", &[])), vec!["event.event_id"]),
        (Some(event(&"x".repeat(257), &[])), vec!["event.event_id"]),
        (Some(event("1", &attributes)), vec!["event.attributes"]),
        (Some(event("1", &[("", "v")])), vec!["event.attributes"]),
        (
            Some(event("1", &[(&long_name, "v")])),
            vec!["event.attributes"],
        ),
        (
            Some(event("1", &[("a", &long_value)])),
            vec!["event.attributes[a]"],
        ),
        (
            Some(event("1", &[("event_id", "2")])),
            vec!["event.attributes[event_id]"],
        ),
        (
            Some(event("1", &[("content_id", "2")])),
            vec!["event.attributes[content_id]"],
        ),
        (Some(with_contents(many.clone())), vec!["event.content_ids"]),
        (
            Some(with_contents(vec![String::new()])),
            vec!["event.content_ids[0]"],
        ),
    ] {
        let refused = server.events().put_event(put(state)).await.unwrap_err();
        assert_eq!(refused_fields(&refused), fields);
    }
    let nothing_stored = read(&server, "1").await.unwrap_err();
    assert_eq!(nothing_stored.code(), Code::NotFound);

    let refused = read(&server, "").await.unwrap_err();
    assert_eq!(refused_fields(&refused), ["event_id"]);
    let refused = server.events().delete_event(delete("")).await.unwrap_err();
    assert_eq!(refused_fields(&refused), ["event_id"]);
    let list = ListEventsRequest {
        page_size: 1_001,
        page_token: "x".repeat(257),
    };
    let refused = server.events().list_events(list).await.unwrap_err();
    assert_eq!(refused_fields(&refused), ["page_token", "page_size"]);
    server.stop().await;
}
