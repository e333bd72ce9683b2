//! What is accepted in requests. Collects everything that is wrong instead of stopping at the first;
//! does not know what a request is for.

use std::collections::BTreeMap;

use touchline_store::{event::Context, ids::InvalidId};

use touchline_proto::v1;

use super::convert;
use crate::{
    error::{Error, Violation},
    recommend::{
        NUM_RESULTS_MAX,
        refinement::{
            CONTEXT_KEY_CHARACTERS_MAX, CONTEXT_KEYS_MAX, CONTEXT_VALUE_CHARACTERS_MAX, Refinement,
            is_name,
        },
    },
};

/// Violations that are told: they travel in an HTTP header, whose size clients limit.
const VIOLATIONS_MAX: usize = 16;
/// Characters of a field's name that are told, since a part of it may be the caller's own text.
const FIELD_CHARACTERS_MAX: usize = 100;

/// What is wrong with a request.
#[derive(Debug, Default)]
pub(super) struct Violations {
    told: Vec<Violation>,
    untold: usize,
}

impl Violations {
    /// Notes that a field cannot be accepted.
    pub(super) fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if self.told.len() == VIOLATIONS_MAX {
            self.untold += 1;
            return;
        }
        let mut field = field.into();
        if let Some((end, _)) = field.char_indices().nth(FIELD_CHARACTERS_MAX) {
            field.truncate(end);
            field.push('…');
        }
        self.told.push(Violation {
            field,
            description: description.into(),
        });
    }

    /// Takes an id, or notes why it is none.
    pub(super) fn id<T>(
        &mut self,
        field: impl Into<String>,
        id: Result<T, InvalidId>,
    ) -> Option<T> {
        id.map_err(|invalid| self.add(field, invalid.to_string()))
            .ok()
    }

    /// Takes an id unless the text is empty, which says that there is none.
    pub(super) fn optional_id<T>(
        &mut self,
        field: impl Into<String>,
        text: String,
        id: impl FnOnce(String) -> Result<T, InvalidId>,
    ) -> Option<T> {
        if text.is_empty() {
            return None;
        }
        self.id(field, id(text))
    }

    /// Notes a count that is over its limit.
    pub(super) fn at_most(&mut self, field: impl Into<String>, count: usize, max: usize) {
        if count > max {
            self.add(
                field,
                format!("has {count} entries; at most {max} are accepted"),
            );
        }
    }

    /// Notes a text that is over its limit.
    pub(super) fn characters(&mut self, field: impl Into<String>, text: &str, max: usize) {
        // Bytes bound characters from above, so the count is taken only where it matters.
        if text.len() > max {
            let characters = text.chars().count();
            if characters > max {
                let description =
                    format!("has {characters} characters; at most {max} are accepted");
                self.add(field, description);
            }
        }
    }

    /// Notes a number of results that is over its limit; 0 is the default.
    pub(super) fn num_results(&mut self, num_results: u32) {
        if num_results > NUM_RESULTS_MAX {
            let description = format!(
                "is {num_results}; 1 to {NUM_RESULTS_MAX} are accepted, or 0 for the default"
            );
            self.add("num_results", description);
        }
    }

    /// Takes a refinement; `refines`: whether the recommender knows such a thing.
    pub(super) fn refinement(
        &mut self,
        refinement: Option<v1::Refinement>,
        num_results: u32,
        refines: bool,
    ) -> Option<Refinement> {
        let refinement = refinement?;
        if refinement.promotions.len() > 1 {
            let has = refinement.promotions.len();
            let description = format!("has {has} entries; at most 1 is accepted");
            self.add("refinement.promotions", description);
        }
        let refinement = convert::refinement(refinement);
        if !refines && !refinement.is_empty() {
            let description = "this server does not ask Amazon Personalize; none is accepted";
            self.add("refinement", description);
        }
        for problem in refinement.problems(num_results as usize) {
            let field = match problem.field.as_str() {
                "num_results" => problem.field,
                field => format!("refinement.{field}"),
            };
            self.add(field, problem.description);
        }
        Some(refinement)
    }

    /// Takes a context, its keys in upper case.
    pub(super) fn context(&mut self, field: &str, values: BTreeMap<String, String>) -> Context {
        self.at_most(field, values.len(), CONTEXT_KEYS_MAX);
        let mut context = Context::new();
        for (key, value) in values {
            if !is_name(&key, CONTEXT_KEY_CHARACTERS_MAX) {
                let accepted = "1 to 150 letters, digits and _ are accepted";
                self.add(
                    field,
                    format!("has the key {:?}; {accepted}", shortened(&key)),
                );
            }
            let of_key = format!("{field}[{key}]");
            self.characters(of_key, &value, CONTEXT_VALUE_CHARACTERS_MAX);
            let upper = key.to_uppercase();
            if context.insert(upper.clone(), value).is_some() {
                let description = format!("has {upper} twice: keys are compared in upper case");
                self.add(field, description);
            }
        }
        context
    }

    /// Everything that is wrong, if anything is.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        let Some(last) = self.told.last_mut() else {
            return Ok(());
        };
        if self.untold > 0 {
            let more = format!("; and {} further violations", self.untold);
            last.description.push_str(&more);
        }
        Err(Error::Invalid(self.told))
    }
}

/// At most 40 characters.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_stays_small_enough_for_a_header() {
        let mut violations = Violations::default();
        for index in 0..1_000 {
            violations.add(format!("field{index}{}", "é".repeat(1_000)), "is wrong");
        }
        let Err(Error::Invalid(told)) = violations.finish() else {
            panic!("nothing was wrong");
        };
        assert_eq!(told.len(), VIOLATIONS_MAX);
        let last = &told.last().unwrap().description;
        assert_eq!(last, "is wrong; and 984 further violations");
        assert!(told[0].field.chars().count() <= FIELD_CHARACTERS_MAX + 1);
    }

    #[test]
    fn keys_of_a_context_are_compared_in_upper_case() {
        let mut violations = Violations::default();
        let values = [("match_event", "GOAL")].map(|(key, value)| (key.into(), value.into()));
        let context = violations.context("context.values", values.into());
        assert_eq!(context["MATCH_EVENT"], "GOAL");
        assert!(violations.finish().is_ok());

        let mut violations = Violations::default();
        let values = [("a", "1"), ("A", "2")].map(|(key, value)| (key.into(), value.into()));
        violations.context("context.values", values.into());
        let error = violations.finish().unwrap_err().to_string();
        assert!(error.starts_with("context.values: has A twice"), "{error}");
    }
}
