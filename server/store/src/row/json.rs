//! Attribute values as canonical JSON, in DynamoDB's own notation (`{"L":[{"S":"a"}]}`): equal
//! values give equal text, and the text can be written back. Does not decide where it is used.

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use aws_smithy_types::base64;
use serde_json::{Map, Value, json};

/// Deepest nesting that is read: DynamoDB's own limit is 32 levels (developer guide, "Quotas").
const DEPTH_MAX: usize = 40;

/// The value as canonical JSON: keys and set members in order.
pub(crate) fn canonical(value: &AttributeValue) -> String {
    to_json(value).to_string()
}

fn to_json(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::S(text) => json!({ "S": text }),
        AttributeValue::N(number) => json!({ "N": number }),
        AttributeValue::Bool(is) => json!({ "BOOL": is }),
        AttributeValue::B(bytes) => json!({ "B": base64::encode(bytes.as_ref()) }),
        AttributeValue::Ss(texts) => json!({ "SS": sorted(texts.iter().cloned()) }),
        AttributeValue::Ns(numbers) => json!({ "NS": sorted(numbers.iter().cloned()) }),
        AttributeValue::Bs(blobs) => {
            json!({ "BS": sorted(blobs.iter().map(|bytes| base64::encode(bytes.as_ref()))) })
        }
        AttributeValue::L(values) => json!({ "L": values.iter().map(to_json).collect::<Vec<_>>() }),
        AttributeValue::M(values) => {
            let mut names: Vec<_> = values.keys().collect();
            names.sort_unstable();
            let map: Map<String, Value> = names
                .into_iter()
                .map(|name| (name.clone(), to_json(&values[name])))
                .collect();
            json!({ "M": map })
        }
        // Null, and what a later DynamoDB may add.
        _ => json!({ "NULL": true }),
    }
}

fn sorted(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut texts: Vec<_> = texts.collect();
    texts.sort_unstable();
    texts
}

/// Reads what [`canonical`] wrote; `None` when it is anything else.
pub(crate) fn parse(text: &str) -> Option<AttributeValue> {
    from_json(&serde_json::from_str(text).ok()?, 0)
}

fn from_json(value: &Value, depth: usize) -> Option<AttributeValue> {
    let object = value.as_object()?;
    if depth > DEPTH_MAX || object.len() != 1 {
        return None;
    }
    let (kind, value) = object.iter().next()?;
    Some(match kind.as_str() {
        "S" => AttributeValue::S(value.as_str()?.to_owned()),
        "N" => AttributeValue::N(value.as_str()?.to_owned()),
        "BOOL" => AttributeValue::Bool(value.as_bool()?),
        "NULL" => AttributeValue::Null(value.as_bool()?),
        "B" => AttributeValue::B(blob(value.as_str()?)?),
        "SS" => AttributeValue::Ss(texts(value)?),
        "NS" => AttributeValue::Ns(texts(value)?),
        "BS" => {
            let blobs: Option<Vec<_>> = texts(value)?.iter().map(|text| blob(text)).collect();
            AttributeValue::Bs(blobs?)
        }
        "L" => {
            let values = value.as_array()?.iter();
            AttributeValue::L(
                values
                    .map(|value| from_json(value, depth + 1))
                    .collect::<Option<_>>()?,
            )
        }
        "M" => {
            let values = value.as_object()?.iter();
            AttributeValue::M(
                values
                    .map(|(name, value)| Some((name.clone(), from_json(value, depth + 1)?)))
                    .collect::<Option<_>>()?,
            )
        }
        _ => return None,
    })
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let values = value.as_array()?.iter();
    values
        .map(|value| value.as_str().map(str::to_owned))
        .collect()
}

fn blob(text: &str) -> Option<Blob> {
    base64::decode(text).ok().map(Blob::new)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = AttributeValue> {
        let leaf = prop_oneof![
            ".{0,8}".prop_map(AttributeValue::S),
            any::<i64>().prop_map(|number| AttributeValue::N(number.to_string())),
            any::<bool>().prop_map(AttributeValue::Bool),
            Just(AttributeValue::Null(true)),
            prop::collection::vec(any::<u8>(), 0..8)
                .prop_map(|bytes| AttributeValue::B(Blob::new(bytes))),
            prop::collection::btree_set(".{1,4}", 1..4)
                .prop_map(|texts| AttributeValue::Ss(texts.into_iter().collect())),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(AttributeValue::L),
                prop::collection::hash_map(".{1,4}", inner, 0..4).prop_map(AttributeValue::M),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in value()) {
            prop_assert_eq!(parse(&canonical(&value)), Some(value));
        }
    }

    #[test]
    fn equal_values_give_equal_text_however_they_are_ordered() {
        let text = |texts: &[&str]| {
            canonical(&AttributeValue::Ss(
                texts.iter().map(|text| (*text).to_owned()).collect(),
            ))
        };
        assert_eq!(text(&["b", "a"]), r#"{"SS":["a","b"]}"#);
        assert_eq!(text(&["a", "b"]), text(&["b", "a"]));
        let map: HashMap<_, _> = ["b", "c", "a"]
            .map(|name| (name.to_owned(), AttributeValue::Null(true)))
            .into();
        assert_eq!(
            canonical(&AttributeValue::M(map)),
            r#"{"M":{"a":{"NULL":true},"b":{"NULL":true},"c":{"NULL":true}}}"#
        );
    }

    #[test]
    fn other_json_is_no_value() {
        for text in [
            "",
            "1",
            "[]",
            r#"{"S":1}"#,
            r#"{"S":"a","N":"1"}"#,
            r#"{"X":"a"}"#,
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        let deep = format!("{}{}", r#"{"L":["#.repeat(60), "]}".repeat(60));
        assert_eq!(parse(&deep), None);
    }
}
