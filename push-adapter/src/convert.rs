//! Domain values to and from the messages of `touchline.v1`. Decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use touchline_proto::v1 as proto;
use touchline_store::{
    change::{Change, ChangeKind, Heard},
    event::{Attribute, EventState},
    ids::{ContentId, EventId, InvalidId},
    position::Position,
};

/// A state with its version and position.
pub(crate) fn state_to_proto(
    state: &EventState,
    version: &str,
    position: Option<&Position>,
) -> proto::EventState {
    proto::EventState {
        event_id: state.event_id.as_str().to_owned(),
        attributes: state
            .texts()
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .collect(),
        content_ids: state
            .contents
            .iter()
            .map(|content| content.as_str().to_owned())
            .collect(),
        version: version.to_owned(),
        position: position.map(position_to_proto),
    }
}

/// One message of the feed.
pub(crate) fn change_to_proto(change: &Change) -> proto::FollowResponse {
    use proto::follow_response::Message;
    let message = match &change.kind {
        ChangeKind::Put(state) => Message::State(state_to_proto(
            state,
            state.version().as_str(),
            change.position.as_ref(),
        )),
        ChangeKind::Removed => Message::Ended(proto::EventEnded {
            event_id: change.event_id.as_str().to_owned(),
            position: change.position.as_ref().map(position_to_proto),
        }),
    };
    let Heard {
        read_at,
        traceparent,
    } = &change.heard;
    proto::FollowResponse {
        message: Some(message),
        traceparent: traceparent.as_deref().unwrap_or_default().to_owned(),
        read_ago: read_at.and_then(|at| at.elapsed().try_into().ok()),
    }
}

/// How a change was heard of from somebody else's feed: when it was read there, by the clock of this
/// process, and where in a trace it belongs.
pub(crate) fn heard_from_proto(message: &proto::FollowResponse) -> Heard {
    let ago = message
        .read_ago
        .and_then(|ago| Duration::try_from(ago).ok());
    Heard {
        read_at: ago.and_then(|ago| Instant::now().checked_sub(ago)),
        traceparent: Some(message.traceparent.as_str())
            .filter(|traceparent| !traceparent.is_empty())
            .map(Into::into),
    }
}

/// A state from somebody else's feed. Only attributes that are text travel.
pub(crate) fn put_from_proto(state: proto::EventState) -> Result<Change, InvalidId> {
    let event_id = EventId::new(&state.event_id)?;
    let attributes: BTreeMap<_, _> = state
        .attributes
        .into_iter()
        .map(|(name, text)| (name, Attribute::Text(text)))
        .collect();
    let contents: BTreeSet<_> = state
        .content_ids
        .iter()
        .map(ContentId::new)
        .collect::<Result<_, _>>()?;
    Ok(Change {
        event_id: event_id.clone(),
        position: state.position.map(position_from_proto),
        kind: ChangeKind::Put(EventState {
            event_id,
            attributes,
            contents,
        }),
        heard: Default::default(),
    })
}

/// The end of an event from somebody else's feed.
pub(crate) fn ended_from_proto(ended: proto::EventEnded) -> Result<Change, InvalidId> {
    Ok(Change {
        event_id: EventId::new(&ended.event_id)?,
        position: ended.position.map(position_from_proto),
        kind: ChangeKind::Removed,
        heard: Default::default(),
    })
}

pub(crate) fn position_to_proto(position: &Position) -> proto::Position {
    proto::Position {
        epoch: position.epoch().to_owned(),
        sequence: position.sequence().to_owned(),
    }
}

fn position_from_proto(position: proto::Position) -> Position {
    Position::new(position.epoch, &position.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_change_was_heard_of_travels_with_it() {
        let read_at = Instant::now() - Duration::from_secs(3);
        let change = Change {
            event_id: EventId::new("1").unwrap(),
            position: None,
            kind: ChangeKind::Removed,
            heard: Heard {
                read_at: Some(read_at),
                traceparent: Some("of a trace".into()),
            },
        };
        let heard = heard_from_proto(&change_to_proto(&change));
        let apart = heard.read_at.unwrap().duration_since(read_at);
        assert!(apart < Duration::from_secs(1), "{apart:?}");
        assert_eq!(heard.traceparent.as_deref(), Some("of a trace"));
    }

    #[test]
    fn what_a_leader_does_not_say_is_not_known() {
        let unheard = Change {
            event_id: EventId::new("1").unwrap(),
            position: None,
            kind: ChangeKind::Removed,
            heard: Heard::default(),
        };
        let heard = heard_from_proto(&change_to_proto(&unheard));
        assert!(heard.read_at.is_none() && heard.traceparent.is_none());
    }
}
