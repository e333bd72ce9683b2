//! What narrows or extends a ranking beyond consumer and context: a filter, a promotion, metadata
//! columns. Holds the API's limits (Personalize runtime, API reference, GetRecommendations); does
//! not know how a request spells them.

use std::collections::BTreeMap;

/// Characters of an ARN.
const ARN_CHARACTERS_MAX: usize = 256;
/// Values of a filter.
const FILTER_VALUES_MAX: usize = 25;
/// Characters of a filter's parameter, and of its value.
const FILTER_NAME_CHARACTERS_MAX: usize = 50;
const FILTER_VALUE_CHARACTERS_MAX: usize = 1_000;
/// Characters of a promotion's name.
const PROMOTION_NAME_CHARACTERS_MAX: usize = 63;
/// Metadata columns, and characters of each.
const METADATA_COLUMNS_MAX: usize = 99;
const METADATA_COLUMN_CHARACTERS_MAX: usize = 150;
/// Items that can be asked for together with metadata.
pub const NUM_RESULTS_WITH_METADATA_MAX: usize = 50;
/// Keys of a context, and characters of a key and of a value.
pub const CONTEXT_KEYS_MAX: usize = 150;
/// Characters of a context's key.
pub const CONTEXT_KEY_CHARACTERS_MAX: usize = 150;
/// Characters of a context's value.
pub const CONTEXT_VALUE_CHARACTERS_MAX: usize = 1_000;

/// A filter of Personalize with the values of its parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// The filter.
    pub arn: String,
    /// Value by parameter, as Personalize takes it: texts in double quotes, separated by commas.
    pub values: BTreeMap<String, String>,
}

/// A promotion: items of a filter that take a share of the ranking.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Promotion {
    /// Named with each item that it brought.
    pub name: String,
    /// How much of the ranking it takes, 1 to 100 percent.
    pub percent: u32,
    /// What is promoted.
    pub filter: Filter,
}

/// A filter, a promotion and metadata columns, any of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Refinement {
    /// Leaves items out, or in.
    pub filter: Option<Filter>,
    /// Puts items in.
    pub promotion: Option<Promotion>,
    /// Columns of the items data set that come back with each item.
    pub metadata_columns: Vec<String>,
}

/// A field of a refinement that the API would refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Such as `filter.values[CATEGORY]`.
    pub field: String,
    /// What is wrong and what is accepted.
    pub description: String,
}

impl Refinement {
    /// Whether there is nothing to refine.
    pub fn is_empty(&self) -> bool {
        self.filter.is_none() && self.promotion.is_none() && self.metadata_columns.is_empty()
    }

    /// Everything that the API would refuse; `num_results` is what is asked for beside it.
    pub fn problems(&self, num_results: usize) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(filter) = &self.filter {
            filter.check("filter", &mut problems);
        }
        if let Some(promotion) = &self.promotion {
            promotion.check("promotions[0]", &mut problems);
        }
        let columns = &self.metadata_columns;
        let mut add = |field: String, description: String| {
            problems.push(Problem { field, description });
        };
        if columns.len() > METADATA_COLUMNS_MAX {
            let has = format!("has {} entries", columns.len());
            add(
                "metadata_columns".to_owned(),
                format!("{has}; at most {METADATA_COLUMNS_MAX} are accepted"),
            );
        }
        for (place, column) in columns.iter().enumerate().take(METADATA_COLUMNS_MAX) {
            if !is_text(column, METADATA_COLUMN_CHARACTERS_MAX) {
                add(
                    format!("metadata_columns[{place}]"),
                    format!("1 to {METADATA_COLUMN_CHARACTERS_MAX} characters are accepted"),
                );
            }
        }
        if !columns.is_empty() && num_results > NUM_RESULTS_WITH_METADATA_MAX {
            add(
                "num_results".to_owned(),
                format!(
                    "is {num_results}; at most {NUM_RESULTS_WITH_METADATA_MAX} are accepted with \
                     metadata_columns"
                ),
            );
        }
        problems
    }
}

impl Filter {
    fn check(&self, field: &str, problems: &mut Vec<Problem>) {
        let mut add = |field: String, description: &str| {
            let description = description.to_owned();
            problems.push(Problem { field, description });
        };
        if !is_arn(&self.arn, "filter/") {
            let accepted = "an ARN such as arn:aws:personalize:REGION:ACCOUNT:filter/NAME, at most \
                            256 characters, is accepted";
            add(format!("{field}.filter_arn"), accepted);
        }
        if self.values.len() > FILTER_VALUES_MAX {
            add(format!("{field}.values"), "at most 25 entries are accepted");
        }
        for (name, value) in &self.values {
            if !is_name(name, FILTER_NAME_CHARACTERS_MAX) {
                let accepted = "names of 1 to 50 letters, digits and _ are accepted";
                add(format!("{field}.values"), accepted);
            }
            if value.chars().nth(FILTER_VALUE_CHARACTERS_MAX).is_some() {
                let accepted = "at most 1000 characters are accepted";
                add(format!("{field}.values[{name}]"), accepted);
            }
        }
    }
}

impl Promotion {
    fn check(&self, field: &str, problems: &mut Vec<Problem>) {
        let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
        let starts = self
            .name
            .starts_with(|letter: char| letter.is_ascii_alphanumeric());
        if !starts
            || self.name.len() > PROMOTION_NAME_CHARACTERS_MAX
            || !self.name.chars().all(fits)
        {
            let description =
                "1 to 63 letters, digits, - and _ are accepted, a letter or digit first";
            problems.push(Problem {
                field: format!("{field}.name"),
                description: description.to_owned(),
            });
        }
        if !(1..=100).contains(&self.percent) {
            problems.push(Problem {
                field: format!("{field}.percent_promoted_items"),
                description: format!("is {}; 1 to 100 are accepted", self.percent),
            });
        }
        self.filter.check(&format!("{field}.filter"), problems);
    }
}

/// Whether this is the ARN of a resource of Personalize, such as `campaign/`.
pub(crate) fn is_arn(text: &str, resource: &str) -> bool {
    let parts: Vec<_> = text.splitn(6, ':').collect();
    matches!(parts[..], ["arn", _, "personalize", region, _, name]
        if !region.is_empty() && name.strip_prefix(resource).is_some_and(|name| !name.is_empty()))
        && text.chars().nth(ARN_CHARACTERS_MAX).is_none()
}

/// Whether Personalize accepts this as the key of a context or the name of a parameter.
pub(crate) fn is_name(text: &str, characters_max: usize) -> bool {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    !text.is_empty() && text.len() <= characters_max && text.chars().all(fits)
}

fn is_text(text: &str, characters_max: usize) -> bool {
    !text.is_empty() && text.chars().nth(characters_max).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter() -> Filter {
        Filter {
            arn: "arn:aws:personalize:eu-west-1:1:filter/unseen".to_owned(),
            values: BTreeMap::from([("KIND".to_owned(), "\"PLAYER\"".to_owned())]),
        }
    }

    fn whole() -> Refinement {
        Refinement {
            filter: Some(filter()),
            promotion: Some(Promotion {
                name: "sponsor-1".to_owned(),
                percent: 20,
                filter: filter(),
            }),
            metadata_columns: vec!["ITEM_LABEL".to_owned()],
        }
    }

    #[test]
    fn what_the_api_accepts_has_no_problems() {
        assert_eq!(whole().problems(50), []);
        assert_eq!(Refinement::default().problems(500), []);
    }

    #[test]
    fn every_field_that_the_api_would_refuse_is_named() {
        type Spoil = fn(&mut Refinement);
        let cases: [(Spoil, &str); 10] = [
            (
                |it| it.filter.as_mut().unwrap().arn.clear(),
                "filter.filter_arn",
            ),
            (
                |it| it.filter.as_mut().unwrap().arn.push_str(&"x".repeat(256)),
                "filter.filter_arn",
            ),
            (
                |it| {
                    let values = (0..26).map(|number| (format!("V{number}"), String::new()));
                    it.filter.as_mut().unwrap().values = values.collect();
                },
                "filter.values",
            ),
            (
                |it| {
                    let values = &mut it.filter.as_mut().unwrap().values;
                    values.insert("not a name".to_owned(), String::new());
                },
                "filter.values",
            ),
            (
                |it| {
                    let values = &mut it.filter.as_mut().unwrap().values;
                    values.insert("LONG".to_owned(), "é".repeat(1_001));
                },
                "filter.values[LONG]",
            ),
            (
                |it| it.promotion.as_mut().unwrap().name = "-x".to_owned(),
                "promotions[0].name",
            ),
            (
                |it| it.promotion.as_mut().unwrap().percent = 101,
                "promotions[0].percent_promoted_items",
            ),
            (
                |it| it.promotion.as_mut().unwrap().filter.arn.clear(),
                "promotions[0].filter.filter_arn",
            ),
            (
                |it| it.metadata_columns = vec!["C".to_owned(); 100],
                "metadata_columns",
            ),
            (
                |it| it.metadata_columns = vec![String::new()],
                "metadata_columns[0]",
            ),
        ];
        for (spoil, field) in cases {
            let mut refinement = whole();
            spoil(&mut refinement);
            let problems = refinement.problems(50);
            let fields: Vec<_> = problems
                .iter()
                .map(|problem| problem.field.as_str())
                .collect();
            assert_eq!(fields, [field]);
        }
        assert_eq!(whole().problems(51)[0].field, "num_results");
    }
}
