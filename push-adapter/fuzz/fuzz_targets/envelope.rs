//! What a fan is shown: any texts in any component set. Both protocols' messages are JSON with exactly the
//! fields that were promised, each saying what it was given.

#![no_main]

use std::{fmt, sync::Arc};

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use serde_json::{Value, json};
use touchline_proto::{
    received::ComponentSet,
    v1::{Component, Freshness, Origin},
};
use touchline_push::messages::{self, EncodedSet, Fragments, StateText};
use touchline_push_fuzz::fields::{self, Fields};
use touchline_store::{event::Version, ids::EventId, position::Position, session::Protocol};

fuzz_target!(|input: &[u8]| {
    let fields = fields::read(input);
    let Ok(event_id) = EventId::new(&fields.event_id) else {
        return;
    };
    let position = fields.position.as_ref();
    let position = position.map(|(epoch, sequence)| Position::new(epoch.as_str(), sequence));
    let version = Version::from_text(fields.version.clone());
    let state = Arc::new(StateText::new(&event_id, &version, position.as_ref()));
    let received = ComponentSet::decode(&*fields.set.encode_to_vec()).expect("it is one");
    let set =
        EncodedSet::new(received, &state, &Fragments::default()).expect("components are some");
    assert_eq!(set.set_id(), fields.set.set_id);
    let recommendation_id = fields.recommendation_id.as_str();
    let [first, second] =
        [Protocol::V1, Protocol::V2].map(|protocol| set.message(protocol, recommendation_id));
    is_the_prototypes(&first, &fields.set.components);
    is_an_envelope(&second, &fields, position.as_ref());
    // Who is shown the same is sent the same, whoever was first.
    assert_eq!(set.message(Protocol::V1, "another"), first);
    assert_eq!(set.message(Protocol::V2, recommendation_id), second);
    the_others_are_json(&fields, &event_id, position.as_ref());
});

/// One item a type, the first one, in the order in which the types come first.
fn is_the_prototypes(message: &str, components: &[Component]) {
    let mut expected: Vec<(String, String)> = Vec::new();
    for Component {
        item_type, item_id, ..
    } in components
    {
        if !expected.iter().any(|(other, _)| other == item_type) {
            expected.push((item_type.clone(), item_id.clone()));
        }
    }
    let entries = entries(message);
    let said: Vec<_> = entries
        .into_iter()
        .map(|(item_type, item_id)| match item_id {
            Value::String(item_id) => (item_type, item_id),
            other => panic!("{other} for {item_type}"),
        })
        .collect();
    assert_eq!(said, expected);
}

fn is_an_envelope(message: &str, fields: &Fields, position: Option<&Position>) {
    let set = &fields.set;
    let mut entries = entries(message);
    let Some((name, Value::Array(components))) = entries.pop() else {
        panic!("no components in {message}");
    };
    assert_eq!(name, "components");
    let expected = [
        ("type", json!("components")),
        ("event_id", json!(fields.event_id)),
        ("version", json!(fields.version)),
        ("set_id", json!(set.set_id)),
        ("epoch", json!(position.map(Position::epoch))),
        ("sequence", json!(position.map(Position::sequence))),
        ("origin", json!(origin(set.origin))),
        ("freshness", json!(freshness(set.freshness))),
        ("recommendation_id", json!(fields.recommendation_id)),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(entries, expected);
    assert_eq!(components.len(), set.components.len());
    for (said, component) in components.iter().zip(&set.components) {
        is_of(said, component);
    }
}

fn is_of(said: &Value, component: &Component) {
    let score = said["score"].as_f64().expect("a score is a number");
    let expected = if component.score.is_finite() {
        component.score
    } else {
        0.0
    };
    // What is read back may be the neighbouring number.
    let tolerance = expected.abs() * 2.0 * f64::EPSILON + f64::MIN_POSITIVE;
    assert!(
        (score - expected).abs() <= tolerance,
        "{score} for {expected}"
    );
    let rest = json!({
        "item_type": component.item_type,
        "item_id": component.item_id,
        "rank": component.rank,
        "score": said["score"],
        "attributes": component.attributes,
    });
    assert_eq!(*said, rest);
}

fn the_others_are_json(fields: &Fields, event_id: &EventId, position: Option<&Position>) {
    let ended: Value = serde_json::from_str(&messages::ended(event_id, position)).expect("JSON");
    let expected = json!({
        "type": "ended",
        "event_id": fields.event_id,
        "epoch": position.map(Position::epoch),
        "sequence": position.map(Position::sequence),
    });
    assert_eq!(ended, expected);
    let (connection, request) = (&fields.version, &fields.recommendation_id);
    let error = messages::api_gateway_error(&fields.set.set_id, connection, request);
    let error: Value = serde_json::from_str(&error).expect("JSON");
    let expected = json!({
        "message": fields.set.set_id,
        "connectionId": connection,
        "requestId": request,
    });
    assert_eq!(error, expected);
}

fn origin(number: i32) -> &'static str {
    match Origin::try_from(number) {
        Ok(Origin::Personalize) => "personalize",
        Ok(Origin::Cohort) => "cohort",
        Ok(Origin::Embedded) => "embedded",
        Ok(Origin::Popular) => "popular",
        Ok(Origin::Unspecified) | Err(_) => "unspecified",
    }
}

fn freshness(number: i32) -> &'static str {
    match Freshness::try_from(number) {
        Ok(Freshness::Live) => "live",
        Ok(Freshness::Cached) => "cached",
        Ok(Freshness::Stale) => "stale",
        Ok(Freshness::Unspecified) | Err(_) => "unspecified",
    }
}

/// The entries of an object as they stand there, doubles included.
fn entries(message: &str) -> Vec<(String, Value)> {
    struct Entries;
    impl<'de> serde::de::Visitor<'de> for Entries {
        type Value = Vec<(String, Value)>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    use serde::Deserializer as _;
    let mut deserializer = serde_json::Deserializer::from_str(message);
    let entries = deserializer
        .deserialize_map(Entries)
        .expect("a message is an object");
    deserializer.end().expect("nothing follows the object");
    entries
}
