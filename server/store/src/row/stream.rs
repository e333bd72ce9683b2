//! Records of the event table's stream. The stream's SDK has attribute values of its own, of the
//! same shape: here they become rows, and the rows changes. Says nothing of shards.

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodbstreams::types::{AttributeValue as StreamValue, OperationType, StreamRecord};

use super::{EVENT_ID, Row, Unreadable, event, required};
use crate::{
    change::{Change, ChangeKind},
    ids::EventId,
    position::Position,
};

/// A change from a record: INSERT and MODIFY alike give the new image.
pub(crate) fn change(
    operation: Option<&OperationType>,
    record: StreamRecord,
    position: Position,
) -> Result<Change, Unreadable> {
    let kind = match operation {
        Some(OperationType::Remove) => {
            let keys = row(record.keys.unwrap_or_default());
            let event_id = EventId::new(required(&keys, EVENT_ID)?)?;
            return Ok(Change {
                event_id,
                position: Some(position),
                kind: ChangeKind::Removed,
                heard: Default::default(),
            });
        }
        Some(OperationType::Insert | OperationType::Modify) => {
            let image = record.new_image.ok_or_else(|| {
                Unreadable("the record has no new image: see the stream's view type".to_owned())
            })?;
            event::from_row(row(image))?
        }
        other => return Err(Unreadable(format!("the record's event is {other:?}"))),
    };
    Ok(Change {
        event_id: kind.event_id.clone(),
        position: Some(position),
        kind: ChangeKind::Put(kind),
        heard: Default::default(),
    })
}

fn row(image: std::collections::HashMap<String, StreamValue>) -> Row {
    let attributes = image.into_iter();
    attributes
        .map(|(name, attribute)| (name, value(attribute)))
        .collect()
}

fn value(attribute: StreamValue) -> AttributeValue {
    match attribute {
        StreamValue::S(text) => AttributeValue::S(text),
        StreamValue::N(number) => AttributeValue::N(number),
        StreamValue::Bool(is) => AttributeValue::Bool(is),
        StreamValue::B(bytes) => AttributeValue::B(bytes),
        StreamValue::Ss(texts) => AttributeValue::Ss(texts),
        StreamValue::Ns(numbers) => AttributeValue::Ns(numbers),
        StreamValue::Bs(blobs) => AttributeValue::Bs(blobs),
        StreamValue::L(values) => AttributeValue::L(values.into_iter().map(value).collect()),
        StreamValue::M(values) => AttributeValue::M(row(values)),
        // Null, and what a later DynamoDB may add.
        _ => AttributeValue::Null(true),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn image(attributes: &[(&str, StreamValue)]) -> HashMap<String, StreamValue> {
        let attributes = attributes.iter();
        attributes
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect()
    }

    fn read(operation: &OperationType, record: StreamRecord) -> Result<Change, Unreadable> {
        change(Some(operation), record, Position::new("epoch", "1"))
    }

    fn key() -> (&'static str, StreamValue) {
        (EVENT_ID, StreamValue::S("1".to_owned()))
    }

    #[test]
    fn an_insert_is_a_first_state_and_a_modify_a_newer_one() {
        let score = ("score_difference", StreamValue::N("2".to_owned()));
        let record = StreamRecord::builder()
            .set_new_image(Some(image(&[key(), score])))
            .build();
        for operation in [OperationType::Insert, OperationType::Modify] {
            let change = read(&operation, record.clone()).unwrap();
            let ChangeKind::Put(state) = change.kind else {
                panic!("not a state");
            };
            assert_eq!(state.attributes["score_difference"].as_text(), "2");
            assert_eq!(change.position, Some(Position::new("epoch", "1")));
        }
    }

    #[test]
    fn a_remove_needs_nothing_but_the_key() {
        let record = StreamRecord::builder()
            .set_keys(Some(image(&[key()])))
            .build();
        let change = read(&OperationType::Remove, record).unwrap();
        assert_eq!(change.event_id.as_str(), "1");
        assert_eq!(change.kind, ChangeKind::Removed);
    }

    #[test]
    fn what_cannot_be_understood_says_why() {
        let empty = StreamRecord::builder().build();
        assert!(read(&OperationType::Modify, empty.clone()).is_err());
        assert!(read(&OperationType::Remove, empty.clone()).is_err());
        assert!(read(&OperationType::from("RENAME"), empty.clone()).is_err());
        assert!(change(None, empty, Position::new("epoch", "1")).is_err());
    }
}
