//! Between `touchline.v1` and the domain, field by field. Checks nothing that a type does not check.

use std::collections::{BTreeMap, BTreeSet};

use prost::{Message, bytes::Bytes};
use touchline_proto::{encoded, v1};
use touchline_store::{
    event::{Attribute, EventState, Version},
    ids::{ContentId, EventId, InvalidId},
    item::Item,
    position::Position,
};

use crate::{
    components::Component,
    recommend::{
        Origin,
        refinement::{Filter, Promotion, Refinement},
        serving::Freshness,
    },
    sets::Decided,
    watch::{Encoded, Made, Seen},
};

/// A state as somebody else saw it, with the version and the position that they give.
pub(crate) fn seen(state: v1::EventState) -> Result<Seen, InvalidId> {
    let contents: Result<BTreeSet<_>, _> = state.content_ids.iter().map(ContentId::new).collect();
    let position = state
        .position
        .map(|position| Position::new(position.epoch, &position.sequence));
    let version = state.version;
    let state = EventState {
        event_id: EventId::new(&state.event_id)?,
        attributes: attributes(state.attributes),
        contents: contents?,
    };
    let version = match version.is_empty() {
        true => state.version(),
        false => Version::from_text(version),
    };
    Ok(Seen {
        state,
        version,
        position,
        made: Made::default(),
    })
}

/// Attributes as the domain knows them. All are text here: the contract has no other.
pub(super) fn attributes(attributes: BTreeMap<String, String>) -> BTreeMap<String, Attribute> {
    attributes
        .into_iter()
        .map(|(name, text)| (name, Attribute::Text(text)))
        .collect()
}

/// A state as a message.
pub(super) fn event_state(seen: &Seen) -> v1::EventState {
    let state = &seen.state;
    v1::EventState {
        event_id: state.event_id.to_string(),
        attributes: state
            .texts()
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .collect(),
        content_ids: state.contents.iter().map(ToString::to_string).collect(),
        version: seen.version.as_str().to_owned(),
        position: seen.position.as_ref().map(position),
    }
}

fn position(position: &Position) -> v1::Position {
    v1::Position {
        epoch: position.epoch().to_owned(),
        sequence: position.sequence().to_owned(),
    }
}

/// A state as a message that is encoded once for all who are sent it.
pub(super) fn shared_event_state(seen: &Seen) -> encoded::EventState {
    encoded::Shared {
        encoded: encoded(seen).state.clone(),
        ..encoded::Shared::default()
    }
}

fn encoded(seen: &Seen) -> &Encoded {
    seen.made.encoded.get_or_init(|| {
        let state = event_state(seen);
        let of_set = v1::ComponentSet {
            event_id: state.event_id.clone(),
            version: state.version.clone(),
            position: state.position.clone(),
            ..v1::ComponentSet::default()
        };
        Encoded {
            state: state.encode_to_vec().into(),
            of_set: of_set.encode_to_vec().into(),
        }
    })
}

/// A set as a message; `seen` is the event state that decided, if it was one.
pub(super) fn component_set(decided: &Decided, seen: Option<&Seen>) -> encoded::ComponentSet {
    let mut set = v1::ComponentSet {
        set_id: decided.moderated.set_id.to_string(),
        recommendation_id: decided.recommendation_id.clone().unwrap_or_default(),
        age: prost_types::Duration::try_from(decided.age).ok(),
        ..v1::ComponentSet::default()
    };
    set.set_origin(match decided.origin {
        Origin::Personalize => v1::Origin::Personalize,
        Origin::Cohort => v1::Origin::Cohort,
        Origin::Embedded => v1::Origin::Embedded,
        Origin::Popular => v1::Origin::Popular,
    });
    set.set_freshness(match decided.freshness {
        Freshness::Live => v1::Freshness::Live,
        Freshness::Cached => v1::Freshness::Cached,
        Freshness::Stale => v1::Freshness::Stale,
    });
    let of_state = seen.map(|seen| encoded(seen).of_set.clone());
    encoded::ComponentSet {
        set: encoded::Shared {
            encoded: of_state.unwrap_or_default(),
            own: set,
        },
        components: decided.moderated.components.iter().map(component).collect(),
    }
}

fn component(component: &Component) -> encoded::Component {
    let details = component.details.as_deref();
    encoded::Shared {
        encoded: component.item.encoded(item).clone(),
        own: v1::Component {
            rank: component.rank,
            score: component.score.unwrap_or_default(),
            reasons: details.map(|it| it.reasons.clone()).unwrap_or_default(),
            promotion: details
                .and_then(|it| it.promotion.clone())
                .unwrap_or_default(),
            metadata: details.map(|it| it.metadata.clone()).unwrap_or_default(),
            ..v1::Component::default()
        },
    }
}

/// What a component says of its item.
fn item(item: &Item) -> Bytes {
    let component = v1::Component {
        item_type: item.item_type.to_string(),
        item_id: item.item_id.to_string(),
        attributes: item.attributes.clone(),
        ..v1::Component::default()
    };
    component.encode_to_vec().into()
}

/// A refinement as the domain knows it; more than one promotion is for the caller to refuse.
pub(super) fn refinement(refinement: v1::Refinement) -> Refinement {
    let filter = |filter: v1::Filter| Filter {
        arn: filter.filter_arn,
        values: filter.values,
    };
    let promotion = refinement.promotions.into_iter().next();
    Refinement {
        filter: refinement.filter.map(filter),
        promotion: promotion.map(|promotion| Promotion {
            name: promotion.name,
            percent: promotion.percent_promoted_items,
            filter: promotion.filter.map(filter).unwrap_or_default(),
        }),
        metadata_columns: refinement.metadata_columns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> v1::EventState {
        v1::EventState {
            event_id: "1".to_owned(),
            attributes: [("match_event", "GOAL")]
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
                .into(),
            content_ids: vec!["final".to_owned()],
            version: String::new(),
            position: Some(v1::Position {
                epoch: "2022".to_owned(),
                sequence: "7".to_owned(),
            }),
        }
    }

    #[test]
    fn a_state_comes_back_as_it_went() {
        let seen = seen(message()).unwrap();
        let back = event_state(&seen);
        assert_eq!(back.attributes, message().attributes);
        assert_eq!(back.content_ids, message().content_ids);
        assert_eq!(back.version, seen.state.version().as_str());
        let position = back.position.unwrap();
        assert_eq!(position.sequence, format!("{:0>40}", 7));
    }

    #[test]
    fn a_version_that_is_given_is_kept() {
        let given = v1::EventState {
            version: "00112233aabbccdd".to_owned(),
            ..message()
        };
        assert_eq!(seen(given).unwrap().version.as_str(), "00112233aabbccdd");
    }
}
