//! The states of the match, by number. Pure.

use anyhow::Result;
use touchline_client::proto;
use touchline_store::{
    event::{Attribute, EventState},
    ids::EventId,
};

/// The event whose changes are pushed.
pub(super) const EVENT: &str = "1";

/// What happens in the match, in turn; the place is the number of the state.
const MATCH_EVENTS: [&str; STATES] = ["GOAL", "PENALTY", "CORNER", "FOUL"];

/// How many states there are.
pub(super) const STATES: usize = 4;

/// The event's row in a state.
pub(super) fn row(state: usize) -> Result<EventState> {
    let match_event = MATCH_EVENTS[state % STATES].to_owned();
    Ok(EventState {
        event_id: EventId::new(EVENT)?,
        attributes: [("match_event".to_owned(), Attribute::Text(match_event))].into(),
        contents: [].into(),
    })
}

/// The same for a batch that is asked for outside of a push.
pub(super) fn message(state: usize) -> Result<proto::EventState> {
    let row = row(state)?;
    Ok(proto::EventState {
        event_id: EVENT.to_owned(),
        attributes: row
            .attributes
            .iter()
            .map(|(name, value)| (name.clone(), value.as_text().to_owned()))
            .collect(),
        version: row.version().as_str().to_owned(),
        ..proto::EventState::default()
    })
}
