//! What a header and a row must hold. Pure: it is given fields and says what they mean, or which of
//! them is wrong; where they come from is the reader's.

use csv::StringRecord;
use touchline_store::{
    event::Context,
    ids::{ConsumerId, ItemId},
};

use super::{Problem, Row};

/// Most columns.
pub(super) const COLUMNS_MAX: usize = 64;
/// The end of year 5138; what is above counts milliseconds.
const TIMESTAMP_SECONDS_MAX: i64 = 99_999_999_999;
/// Holds a whole context as a JSON object of texts, as the feedback file has it.
const CONTEXT_COLUMN: &str = "CONTEXT";
/// Columns of Personalize and of the feedback file that are part of no context.
const PLAIN_COLUMNS: [&str; 7] = [
    CONTEXT_COLUMN,
    "EVENT_ID",
    "EVENT_VALUE",
    "IMPRESSION",
    "INTERACTION_ID",
    "RECOMMENDATION_ID",
    "SESSION_ID",
];

/// Which column holds what.
#[derive(Debug)]
pub(super) struct Columns {
    /// As the header has them.
    pub(super) names: Vec<String>,
    consumer_id: usize,
    item_id: usize,
    timestamp: usize,
    event_type: usize,
    interaction_id: Option<usize>,
    context_object: Option<usize>,
    context: Vec<usize>,
}

impl Columns {
    /// Reads the header.
    pub(super) fn new(header: &StringRecord) -> Result<Self, Problem> {
        let names: Vec<String> = header.iter().map(str::to_owned).collect();
        let find = |name: &str| names.iter().position(|column| column == name);
        let required = |name: &str| {
            find(name).ok_or_else(|| Problem {
                line: 1,
                column: Some(name.to_owned()),
                problem: "is missing".to_owned(),
                accepted: "a header with USER_ID, ITEM_ID, TIMESTAMP and EVENT_TYPE",
                is_length: false,
            })
        };
        let mut columns = Self {
            consumer_id: required("USER_ID")?,
            item_id: required("ITEM_ID")?,
            timestamp: required("TIMESTAMP")?,
            event_type: required("EVENT_TYPE")?,
            interaction_id: find("INTERACTION_ID"),
            context_object: find(CONTEXT_COLUMN),
            context: Vec::new(),
            names: Vec::new(),
        };
        let schema = [
            columns.consumer_id,
            columns.item_id,
            columns.timestamp,
            columns.event_type,
        ];
        for (place, name) in names.iter().enumerate() {
            check_name(name, &names[..place])?;
            if !schema.contains(&place) && !PLAIN_COLUMNS.contains(&name.as_str()) {
                columns.context.push(place);
            }
        }
        columns.names = names;
        Ok(columns)
    }

    /// Checks one row, which begins in this line.
    pub(super) fn row(&self, record: &StringRecord, line: u64) -> Result<Row, Problem> {
        let wrong = |place: usize, problem: String, accepted| Problem {
            line,
            column: Some(self.names[place].clone()),
            problem,
            accepted,
            is_length: false,
        };
        let text = |place: usize| record.get(place).unwrap_or_default();
        let id = "1 to 256 characters";
        let consumer_id = ConsumerId::new(text(self.consumer_id))
            .map_err(|error| wrong(self.consumer_id, error.to_string(), id))?;
        let item_id = ItemId::new(text(self.item_id))
            .map_err(|error| wrong(self.item_id, error.to_string(), id))?;
        let timestamp = text(self.timestamp).parse().unwrap_or(-1);
        if !(0..=TIMESTAMP_SECONDS_MAX).contains(&timestamp) {
            let problem = format!("{:?} is no time", shortened(text(self.timestamp)));
            let accepted = "whole seconds since 1970, such as 1671375600";
            return Err(wrong(self.timestamp, problem, accepted));
        }
        if text(self.event_type).is_empty() {
            let problem = "must not be empty".to_owned();
            return Err(wrong(self.event_type, problem, "a word such as tap"));
        }
        let mut context = match self.context_object {
            Some(place) if !text(place).is_empty() => {
                serde_json::from_str(text(place)).map_err(|_| {
                    let problem = format!("{:?} is no context", shortened(text(place)));
                    wrong(place, problem, "a JSON object of texts")
                })?
            }
            _ => Context::new(),
        };
        let filled = self
            .context
            .iter()
            .filter(|place| !text(**place).is_empty());
        context.extend(filled.map(|place| (self.names[*place].clone(), text(*place).to_owned())));
        Ok(Row {
            consumer_id,
            item_id,
            context,
            interaction_id: self.interaction_id.map(text).unwrap_or_default().to_owned(),
        })
    }
}

fn check_name(name: &str, before: &[String]) -> Result<(), Problem> {
    let wrong = |problem: &str, accepted| {
        Err(Problem {
            line: 1,
            column: Some(shortened(name)),
            problem: problem.to_owned(),
            accepted,
            is_length: false,
        })
    };
    let fits = |character: char| {
        character.is_ascii_uppercase() || character.is_ascii_digit() || character == '_'
    };
    if name.is_empty() || !name.chars().all(fits) {
        return wrong("is no column's name", "upper case, such as MATCH_EVENT");
    }
    if before.iter().any(|column| column == name) {
        return wrong("stands there twice", "each column once");
    }
    if before.len() >= COLUMNS_MAX {
        return wrong("is one too many", "at most 64 columns");
    }
    Ok(())
}

/// At most 40 characters: an error must not carry a row of 64 KiB.
fn shortened(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short + "…"
    } else {
        short
    }
}
