//! In which states: the event's row as it is, and that row with attributes replaced. Pure; which
//! attributes decide is the server's to say, so its context keys are passed in.

use std::collections::{BTreeMap, BTreeSet};

use touchline_client::proto;
use touchline_store::{
    event::{Attribute, EventState},
    ids::{EventId, InvalidId},
};

/// What a state that may never come is asked for as.
const NO_EVENT: &str = "warm";

/// States beside the present one.
pub const STATES_MAX: usize = 64;
/// Longest value that a recommender is asked with (Personalize, context, 1,000 characters).
const VALUE_CHARACTERS_MAX: usize = 1_000;
const ACCEPTED: &str = "NAME=VALUE,… is accepted, such as match_event=GOAL,score_difference=1, or \
                        a JSON object where a value has a comma";

/// Attributes that are replaced to make another state; names are in lower case, as rows have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change(BTreeMap<String, String>);

impl Change {
    /// Reads `name=value,name=value`, or a JSON object of texts, numbers and booleans.
    pub fn parse(text: &str) -> Result<Self, String> {
        let pairs = match text.trim_start().starts_with('{') {
            true => json_pairs(text)?,
            false => text.split(',').map(pair).collect::<Result<_, _>>()?,
        };
        let mut attributes = BTreeMap::new();
        for (name, value) in pairs {
            if value.chars().nth(VALUE_CHARACTERS_MAX).is_some() {
                return Err(format!(
                    "the value of {name} has more than {VALUE_CHARACTERS_MAX} characters, the most \
                     that a recommender is asked with"
                ));
            }
            let twice = format!("{name} stands there twice");
            if attributes.insert(name.to_lowercase(), value).is_some() {
                return Err(twice);
            }
        }
        match attributes.is_empty() {
            true => Err(ACCEPTED.to_owned()),
            false => Ok(Self(attributes)),
        }
    }

    /// As it can be given.
    fn text(&self) -> String {
        let pairs = self.0.iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join(",")
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.to_owned()))
        }
        _ => Err(ACCEPTED.to_owned()),
    }
}

fn json_pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    use serde_json::Value;
    let object: serde_json::Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("{error}; {ACCEPTED}"))?;
    let pairs = object.into_iter().map(|(name, value)| match value {
        Value::String(value) => Ok((name, value)),
        Value::Number(number) => Ok((name, number.to_string())),
        Value::Bool(value) => Ok((name, value.to_string())),
        _ => Err(format!("{name} is no text, number or boolean")),
    });
    pairs.collect()
}

/// One state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// `now`, or what was replaced.
    pub name: String,
    /// What the recommender is asked with, by context key.
    pub context: BTreeMap<String, String>,
    attributes: BTreeMap<String, String>,
}

impl State {
    fn new(
        name: String,
        attributes: BTreeMap<String, String>,
        keys: &[String],
    ) -> Result<Self, InvalidId> {
        let texts = attributes.clone().into_iter();
        let state = EventState {
            event_id: EventId::new(NO_EVENT)?,
            attributes: texts
                .map(|(name, text)| (name, Attribute::Text(text)))
                .collect(),
            contents: BTreeSet::new(),
        };
        Ok(Self {
            name,
            context: state.context(keys).into_iter().collect(),
            attributes,
        })
    }

    /// The state as a batch asks with it. What is cached is found by the context alone, so the event's
    /// id stays out of it.
    pub fn as_asked(&self) -> proto::EventState {
        proto::EventState {
            event_id: NO_EVENT.to_owned(),
            attributes: self.attributes.clone(),
            ..proto::EventState::default()
        }
    }
}

/// The states that differ, the present one first, and what a person should know of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct States {
    /// At least the present one.
    pub states: Vec<State>,
    /// What is odd about them.
    pub notes: Vec<String>,
}

/// Makes the states. An attribute that decides nothing is refused: the state would be the present
/// one.
pub fn states(
    present: &proto::EventState,
    changes: &[Change],
    keys: &[String],
) -> Result<States, String> {
    let invalid = |error: InvalidId| error.to_string();
    let now = State::new("now".to_owned(), present.attributes.clone(), keys).map_err(invalid)?;
    let mut notes = Vec::new();
    let missing: Vec<_> = keys
        .iter()
        .filter(|key| !now.context.contains_key(*key))
        .map(|key| key.to_lowercase())
        .collect();
    if !missing.is_empty() {
        notes.push(format!(
            "the event's row has no {} now: the recommender is asked without",
            missing.join(", ")
        ));
    }
    let mut states = vec![now];
    for change in changes {
        let name = change.text();
        for attribute in change.0.keys() {
            if !keys.contains(&attribute.to_uppercase()) {
                return Err(format!(
                    "--state {name}: {attribute} is no attribute that the recommender is asked \
                     with; {} are, or what --context-keys names, as the server's flag does",
                    keys.join(", ").to_lowercase()
                ));
            }
        }
        let mut attributes = present.attributes.clone();
        attributes.extend(change.0.clone());
        let state = State::new(name, attributes, keys).map_err(invalid)?;
        match states.iter().find(|it| it.context == state.context) {
            Some(same) => notes.push(format!(
                "--state {} is the same question as {}: asked once",
                state.name, same.name
            )),
            None => states.push(state),
        }
    }
    Ok(States { states, notes })
}

#[cfg(test)]
mod tests {
    use touchline_store::event::DEFAULT_CONTEXT_KEYS;

    use super::*;

    fn present() -> proto::EventState {
        let attributes = [
            ("match_event", "KICK-OFF"),
            ("match_venue", "France"),
            ("display_clock", "0"),
        ];
        proto::EventState {
            event_id: "1".to_owned(),
            attributes: attributes
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
                .into(),
            ..proto::EventState::default()
        }
    }

    fn made(changes: &[&str]) -> Result<States, String> {
        let changes: Vec<_> = changes
            .iter()
            .map(|text| Change::parse(text).unwrap())
            .collect();
        let keys = DEFAULT_CONTEXT_KEYS.map(str::to_owned);
        states(&present(), &changes, &keys)
    }

    #[test]
    fn a_state_is_the_row_with_its_attributes_replaced_and_goes_by_no_events_id() {
        let made = made(&["match_event=GOAL,SCORE_DIFFERENCE=1"]).unwrap();
        let [now, goal] = &made.states[..] else {
            panic!("{made:?}");
        };
        assert_eq!(now.context["MATCH_EVENT"], "KICK-OFF");
        assert_eq!(
            goal.context.clone().into_iter().collect::<Vec<_>>(),
            [
                ("MATCH_EVENT", "GOAL"),
                ("MATCH_VENUE", "France"),
                ("SCORE_DIFFERENCE", "1")
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
        let asked = goal.as_asked();
        assert_eq!(asked.attributes["score_difference"], "1");
        assert_ne!(asked.event_id, present().event_id);
        assert_eq!(made.notes.len(), 1, "{made:?}");
        assert!(
            made.notes[0].contains("match_timing, score_difference, match_type"),
            "{made:?}"
        );
    }

    #[test]
    fn an_attribute_that_decides_nothing_is_refused_with_those_that_do() {
        for change in ["display_clock=7", "match_even=GOAL"] {
            let error = made(&[change]).unwrap_err();
            assert!(error.starts_with(&format!("--state {change}: ")), "{error}");
            assert!(error.contains("match_event, match_timing"), "{error}");
        }
    }

    #[test]
    fn equal_questions_are_asked_once() {
        let same = [
            "match_event=GOAL",
            "match_event=KICK-OFF",
            "MATCH_EVENT=GOAL",
        ];
        let made = made(&same).unwrap();
        assert_eq!(made.states.len(), 2);
        assert_eq!(made.notes.len(), 3, "{made:?}");
    }

    #[test]
    fn values_with_commas_are_given_as_json() {
        let change = Change::parse(r#"{"match_venue": "Paris, France", "score_difference": 1}"#);
        assert_eq!(
            change.unwrap().text(),
            "match_venue=Paris, France,score_difference=1"
        );
        for (text, named) in [
            ("", "NAME=VALUE,…"),
            ("GOAL", "NAME=VALUE,…"),
            ("match_event=GOAL,", "NAME=VALUE,…"),
            ("=GOAL", "NAME=VALUE,…"),
            ("{}", "NAME=VALUE,…"),
            ("{\"a\": 1", "NAME=VALUE,…"),
            (r#"{"a": []}"#, "a is no text"),
            ("a=1,A=2", "A stands there twice"),
            (&format!("a={}", "x".repeat(1_001)), "more than 1000"),
        ] {
            let error = Change::parse(text).unwrap_err();
            assert!(error.contains(named), "{text:?} gave {error}");
        }
    }
}
