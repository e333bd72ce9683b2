//! `EventService`: reads and writes the event table for callers that have no DynamoDB client.

use std::collections::BTreeSet;

use tonic::{Request, Response};
use touchline_proto::v1::{
    DeleteEventRequest, DeleteEventResponse, EventState as EventMessage, GetEventRequest,
    GetEventResponse, ListEventsRequest, ListEventsResponse, PutEventRequest, PutEventResponse,
    event_service_server::EventService,
};
use touchline_store::{
    event::EventState,
    ids::{ContentId, EventId},
};

use super::{Api, convert, trace, validate::Violations};
use crate::{error::Error, status::Reply, watch::Seen};

/// Attributes of one event.
const ATTRIBUTES_MAX: usize = 100;
/// Characters of an attribute's name (DynamoDB allows 64 kB; nobody reads that).
const NAME_CHARACTERS_MAX: usize = 255;
/// Characters of an attribute's value.
const VALUE_CHARACTERS_MAX: usize = 8_192;
/// Contents of one event.
const CONTENTS_MAX: usize = 100;
/// Events of a page, at most and by default.
const PAGE_MAX: u32 = 1_000;
const PAGE_DEFAULT: u32 = 100;

#[tonic::async_trait]
impl EventService for Api {
    async fn put_event(&self, request: Request<PutEventRequest>) -> Reply<PutEventResponse> {
        let mut span = self.span(&request, "put_event");
        let written = self.put(request.into_inner()).await;
        let seen = written.map_err(|error| trace::failed(&mut span, error))?;
        trace::say_state(&mut span, &seen);
        Ok(Response::new(PutEventResponse {
            state: Some(convert::event_state(&seen)),
        }))
    }

    async fn get_event(&self, request: Request<GetEventRequest>) -> Reply<GetEventResponse> {
        let event_id = read_event_id(request.into_inner().event_id)?;
        let seen = self.events.stored(&event_id).await?;
        Ok(Response::new(GetEventResponse {
            state: Some(convert::event_state(&seen)),
        }))
    }

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Reply<ListEventsResponse> {
        let request = request.into_inner();
        let mut violations = Violations::default();
        let after = violations.optional_id("page_token", request.page_token, EventId::new);
        let page_size = match request.page_size {
            0 => PAGE_DEFAULT,
            page_size => page_size,
        };
        if page_size > PAGE_MAX {
            let description =
                format!("is {page_size}; 1 to {PAGE_MAX} are accepted, or 0 for {PAGE_DEFAULT}");
            violations.add("page_size", description);
        }
        violations.finish()?;
        let page = self
            .store
            .events(page_size, after.as_ref())
            .await
            .map_err(Error::from)?;
        Ok(Response::new(ListEventsResponse {
            states: page
                .states
                .into_iter()
                .map(|state| convert::event_state(&Seen::from_table(state)))
                .collect(),
            next_page_token: page.next.map(|next| next.to_string()).unwrap_or_default(),
        }))
    }

    async fn delete_event(
        &self,
        request: Request<DeleteEventRequest>,
    ) -> Reply<DeleteEventResponse> {
        let event_id = read_event_id(request.into_inner().event_id)?;
        let deleted = self
            .store
            .delete_event(&event_id)
            .await
            .map_err(Error::from)?;
        self.events.written(&event_id, None).await;
        if !deleted {
            return Err(Error::EventNotFound.into());
        }
        Ok(Response::new(DeleteEventResponse {}))
    }
}

impl Api {
    /// Writes an event's row; gives what stands there then.
    async fn put(&self, request: PutEventRequest) -> Result<Seen, Error> {
        let state = read_event(request.event)?;
        let written = self.store.put_event(&state, request.merge).await?;
        self.events
            .written(&state.event_id, Some(written.clone()))
            .await;
        Ok(Seen::from_table(written))
    }
}

fn read_event_id(text: String) -> Result<EventId, Error> {
    let mut violations = Violations::default();
    let event_id = violations.id("event_id", EventId::new(text));
    violations.finish()?;
    Ok(event_id.expect("a missing id is a violation"))
}

fn read_event(event: Option<EventMessage>) -> Result<EventState, Error> {
    let mut violations = Violations::default();
    let Some(event) = event else {
        violations.add("event", "is required");
        violations.finish()?;
        unreachable!("a missing event is a violation");
    };
    let event_id = violations.id("event.event_id", EventId::new(&event.event_id));
    violations.at_most("event.attributes", event.attributes.len(), ATTRIBUTES_MAX);
    for (name, value) in &event.attributes {
        let field = format!("event.attributes[{name}]");
        if name.is_empty() {
            violations.add("event.attributes", "has an empty name");
        }
        if [EventId::FIELD, ContentId::FIELD].contains(&name.as_str()) {
            let description = "is no attribute; it has a field of its own";
            violations.add(field.clone(), description);
        }
        violations.characters("event.attributes", name, NAME_CHARACTERS_MAX);
        violations.characters(field, value, VALUE_CHARACTERS_MAX);
    }
    violations.at_most("event.content_ids", event.content_ids.len(), CONTENTS_MAX);
    let contents: BTreeSet<_> = event
        .content_ids
        .iter()
        .enumerate()
        .filter_map(|(index, text)| {
            let field = format!("event.content_ids[{index}]");
            violations.id(field, ContentId::new(text))
        })
        .collect();
    violations.finish()?;
    Ok(EventState {
        event_id: event_id.expect("a missing id is a violation"),
        attributes: convert::attributes(event.attributes),
        contents,
    })
}
