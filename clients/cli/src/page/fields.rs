//! Reading a request's JSON field by field, so that what is wrong is named. Knows no field's meaning.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::Refused;

/// The fields of an object, each to be taken once.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub(super) fn read(body: &[u8]) -> Result<Self, Refused> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Refused::new(
                StatusCode::BAD_REQUEST,
                "the body must be a JSON object",
            )),
            Err(error) => Err(Refused::new(
                StatusCode::BAD_REQUEST,
                format!("the body is no JSON: {error}"),
            )),
        }
    }

    /// A text of 1 to `characters_max` characters.
    pub(super) fn required_text(
        &mut self,
        name: &str,
        characters_max: usize,
    ) -> Result<String, Refused> {
        let text = self.text(name, characters_max)?;
        text.filter(|text| !text.is_empty())
            .ok_or_else(|| Refused::field(name, "must not be empty"))
    }

    /// A text of at most `characters_max` characters, or none.
    pub(super) fn text(
        &mut self,
        name: &str,
        characters_max: usize,
    ) -> Result<Option<String>, Refused> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.chars().count() <= characters_max => Ok(Some(text)),
            Some(_) => {
                let message = format!("must be a text of at most {characters_max} characters");
                Err(Refused::field(name, message))
            }
        }
    }

    /// True or false, or neither.
    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, Refused> {
        self.take(name)
            .map(|value| {
                value
                    .as_bool()
                    .ok_or_else(|| Refused::field(name, "must be true or false"))
            })
            .transpose()
    }

    /// A number that `accepts` accepts, or none.
    pub(super) fn number(
        &mut self,
        name: &str,
        accepts: std::ops::RangeInclusive<f64>,
    ) -> Result<Option<f64>, Refused> {
        let message = || {
            format!(
                "must be a number from {} to {}",
                accepts.start(),
                accepts.end()
            )
        };
        self.take(name)
            .map(|value| {
                let number = value.as_f64().filter(|number| accepts.contains(number));
                number.ok_or_else(|| Refused::field(name, message()))
            })
            .transpose()
    }

    /// A whole number of at most `most`, or none.
    pub(super) fn whole(&mut self, name: &str, most: u32) -> Result<Option<u32>, Refused> {
        self.take(name)
            .map(|value| {
                let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
                number.filter(|number| *number <= most).ok_or_else(|| {
                    Refused::field(name, format!("must be a whole number from 0 to {most}"))
                })
            })
            .transpose()
    }

    /// That nothing is left: a misspelt field must not be taken for an absent one.
    pub(super) fn finish(self) -> Result<(), Refused> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(Refused::field(name, "is not known here")),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::read(text.as_bytes()).unwrap()
    }

    fn named(refused: Refused) -> String {
        refused.field.unwrap()
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(named(fields("{}").required_text("a", 5).unwrap_err()), "a");
        assert_eq!(
            named(fields(r#"{"a":"123456"}"#).text("a", 5).unwrap_err()),
            "a"
        );
        assert_eq!(named(fields(r#"{"a":1}"#).text("a", 5).unwrap_err()), "a");
        assert_eq!(named(fields(r#"{"a":"yes"}"#).flag("a").unwrap_err()), "a");
        assert_eq!(
            named(fields(r#"{"a":0}"#).number("a", 1.0..=2.0).unwrap_err()),
            "a"
        );
        for bad in [
            r#"{"a":-1}"#,
            r#"{"a":1.5}"#,
            r#"{"a":10}"#,
            r#"{"a":4294967296}"#,
        ] {
            assert_eq!(named(fields(bad).whole("a", 9).unwrap_err()), "a", "{bad}");
        }
        assert_eq!(named(fields(r#"{"b":1}"#).finish().unwrap_err()), "b");
        assert!(Fields::read(b"[]").is_err());
        assert!(Fields::read(b"{").is_err());
    }

    #[test]
    fn what_is_absent_or_null_is_nothing() {
        assert_eq!(fields(r#"{"a":null}"#).text("a", 5), Ok(None));
        assert_eq!(fields("{}").whole("a", 5), Ok(None));
        assert_eq!(fields("{}").flag("a"), Ok(None));
    }
}
