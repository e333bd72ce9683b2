//! Rows of the event table. Anybody may write them: what cannot be understood is an error that says
//! why, never a guess.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;

use super::{CONTENT_ID, EVENT_ID, Row, Unreadable, json, required, text};
use crate::{
    Error, Result,
    event::{Attribute, EventState},
    ids::{ContentId, EventId},
};

/// Reads a row.
pub(crate) fn from_row(mut row: Row) -> Result<EventState, Unreadable> {
    let event_id = EventId::new(required(&row, EVENT_ID)?)?;
    row.remove(EVENT_ID);
    let contents = match row.remove(CONTENT_ID) {
        Some(value) => contents(value)?,
        None => BTreeSet::new(),
    };
    Ok(EventState {
        event_id,
        contents,
        attributes: row
            .into_iter()
            .map(|(name, value)| (name, attribute(value)))
            .collect(),
    })
}

fn attribute(value: AttributeValue) -> Attribute {
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => Attribute::Text(text),
        AttributeValue::Bool(is) => Attribute::Text(is.to_string()),
        other => Attribute::Other(json::canonical(&other)),
    }
}

/// Text, a set of texts or a list of texts; empty text names nothing.
fn contents(value: AttributeValue) -> Result<BTreeSet<ContentId>, Unreadable> {
    let texts = match value {
        AttributeValue::S(text) => vec![text],
        AttributeValue::Ss(texts) => texts,
        AttributeValue::L(values) => values
            .into_iter()
            .map(|value| match value {
                AttributeValue::S(text) => Ok(text),
                _ => Err(Unreadable(format!(
                    "{CONTENT_ID} is a list that holds something else than text"
                ))),
            })
            .collect::<Result<_, _>>()?,
        _ => {
            return Err(Unreadable(format!(
                "{CONTENT_ID} is neither text nor a set or list of texts"
            )));
        }
    };
    texts
        .into_iter()
        .filter(|text| !text.is_empty())
        .map(|text| ContentId::new(text).map_err(Unreadable::from))
        .collect()
}

/// The attributes beside the key that a state writes: the contents only where there are any.
pub(crate) fn attributes(state: &EventState) -> Result<Vec<(String, AttributeValue)>> {
    let mut attributes = Vec::with_capacity(state.attributes.len() + 1);
    for (name, attribute) in &state.attributes {
        if name.is_empty() {
            return Err(invalid("attributes", "an attribute needs a name"));
        }
        if name == EVENT_ID || name == CONTENT_ID {
            return Err(invalid(name, "has a field of its own"));
        }
        let value = match attribute {
            Attribute::Text(value) => text(value),
            Attribute::Other(value) => json::parse(value)
                .ok_or_else(|| invalid(name, "is not JSON in DynamoDB's notation"))?,
        };
        attributes.push((name.clone(), value));
    }
    if let Some(first) = state.contents.first() {
        let value = if state.contents.len() == 1 {
            text(first.as_str())
        } else {
            let contents = state.contents.iter();
            AttributeValue::Ss(
                contents
                    .map(|content| content.as_str().to_owned())
                    .collect(),
            )
        };
        attributes.push((CONTENT_ID.to_owned(), value));
    }
    Ok(attributes)
}

/// The whole row of a state.
pub(crate) fn to_row(state: &EventState) -> Result<Row> {
    let mut row: Row = attributes(state)?.into_iter().collect();
    row.insert(EVENT_ID.to_owned(), text(state.event_id.as_str()));
    Ok(row)
}

fn invalid(field: &str, reason: &str) -> Error {
    Error::Invalid {
        field: field.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::number;

    fn row(attributes: &[(&str, AttributeValue)]) -> Row {
        let mut row: Row = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        row.entry(EVENT_ID.to_owned()).or_insert_with(|| text("1"));
        row
    }

    fn reason(attributes: &[(&str, AttributeValue)]) -> String {
        from_row(row(attributes)).unwrap_err().to_string()
    }

    fn content_ids(value: AttributeValue) -> Vec<String> {
        let state = from_row(row(&[(CONTENT_ID, value)])).unwrap();
        state.contents.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn texts_numbers_and_booleans_are_text_and_the_rest_is_canonical_json() {
        let state = from_row(row(&[
            ("match_event", text("GOAL")),
            ("score_difference", number(&2)),
            ("is_live", AttributeValue::Bool(true)),
            ("nothing", AttributeValue::Null(true)),
            ("scorers", AttributeValue::L(vec![text("Messi")])),
        ]))
        .unwrap();
        let attribute = |name: &str| state.attributes[name].clone();
        assert_eq!(attribute("match_event"), Attribute::Text("GOAL".to_owned()));
        assert_eq!(
            attribute("score_difference"),
            Attribute::Text("2".to_owned())
        );
        assert_eq!(attribute("is_live"), Attribute::Text("true".to_owned()));
        assert_eq!(
            attribute("nothing"),
            Attribute::Other(r#"{"NULL":true}"#.to_owned())
        );
        assert_eq!(
            attribute("scorers"),
            Attribute::Other(r#"{"L":[{"S":"Messi"}]}"#.to_owned())
        );
        assert_eq!(state.attributes.len(), 5);
    }

    #[test]
    fn contents_are_a_text_a_set_or_a_list_and_empty_text_names_none() {
        assert_eq!(content_ids(text("final")), ["final"]);
        let set = AttributeValue::Ss(vec!["b".to_owned(), "a".to_owned()]);
        assert_eq!(content_ids(set), ["a", "b"]);
        let list = AttributeValue::L(vec![text("b"), text(""), text("a"), text("b")]);
        assert_eq!(content_ids(list), ["a", "b"]);
        assert!(content_ids(text("")).is_empty());
        assert!(from_row(row(&[])).unwrap().contents.is_empty());
    }

    #[test]
    fn a_row_that_cannot_be_understood_says_why() {
        let odd = "content_id is neither text nor a set or list of texts";
        assert_eq!(reason(&[(CONTENT_ID, number(&7))]), odd);
        assert_eq!(reason(&[(CONTENT_ID, AttributeValue::Null(true))]), odd);
        assert_eq!(
            reason(&[(CONTENT_ID, AttributeValue::L(vec![number(&7)]))]),
            "content_id is a list that holds something else than text"
        );
        assert_eq!(
            reason(&[(CONTENT_ID, text("x".repeat(300)))]),
            "content_id has 300 characters; at most 256 are accepted"
        );
        assert_eq!(
            reason(&[(EVENT_ID, text("x".repeat(300)))]),
            "event_id has 300 characters; at most 256 are accepted"
        );
        assert_eq!(reason(&[(EVENT_ID, number(&1))]), "event_id is no text");
        assert_eq!(
            from_row(Row::new()).unwrap_err().to_string(),
            "event_id is missing"
        );
    }

    #[test]
    fn a_row_survives_being_read_and_written() {
        let row = row(&[
            ("match_event", text("GOAL")),
            (
                "squad",
                AttributeValue::M([("captain".to_owned(), text("Messi"))].into()),
            ),
            (
                CONTENT_ID,
                AttributeValue::Ss(vec!["a".to_owned(), "b".to_owned()]),
            ),
        ]);
        let state = from_row(row.clone()).unwrap();
        assert_eq!(to_row(&state).unwrap(), row);
    }

    #[test]
    fn what_has_a_field_of_its_own_is_no_attribute() {
        for name in [EVENT_ID, CONTENT_ID, ""] {
            let mut state = from_row(row(&[])).unwrap();
            state
                .attributes
                .insert(name.to_owned(), Attribute::Text("x".to_owned()));
            assert!(matches!(to_row(&state), Err(Error::Invalid { .. })));
        }
        let mut state = from_row(row(&[])).unwrap();
        state
            .attributes
            .insert("odd".to_owned(), Attribute::Other("[1]".to_owned()));
        assert!(matches!(to_row(&state), Err(Error::Invalid { field, .. }) if field == "odd"));
    }
}
