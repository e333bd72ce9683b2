//! The users file: what is known of each consumer, in Personalize's users schema (CSV: `USER_ID`,
//! then any of `AGE`, `GENDER`, `COUNTRY` and further columns, in any order). Read whole at start;
//! does not decide what an age or a country means for what is shown.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use csv::{Position, StringRecord};
use touchline_store::ids::ConsumerId;

/// Names the consumer; the one column that must be there.
pub const USER_ID: &str = "USER_ID";
/// Age in whole years, 0 to 150; blank: unknown.
pub const AGE: &str = "AGE";
/// A word, such as F; blank: unknown.
pub const GENDER: &str = "GENDER";
/// A word, such as AR, compared as it is written; blank: unknown.
pub const COUNTRY: &str = "COUNTRY";

/// Largest file: it is held in memory.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Most columns beside the user's id (Personalize, users schema, is far below).
const COLUMNS_MAX: usize = 64;
/// Longest value (Personalize, categorical metadata, 1,000 characters).
const VALUE_CHARACTERS_MAX: usize = 1_000;
const AGE_YEARS_MAX: u32 = 150;

/// Why a users file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The system refuses.
    #[error("{path}: cannot be read")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file is too large to be held.
    #[error("{path}: has {bytes} bytes; at most {FILE_BYTES_MAX} are accepted")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file holds something else.
    #[error("{path}: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Line and column, what is wrong, and what is accepted.
        problem: String,
    },
}

/// Everybody of a users file.
#[derive(Debug, Default)]
pub struct Users {
    columns: Vec<String>,
    values: HashMap<ConsumerId, Box<[Arc<str>]>>,
}

/// One consumer of the file.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    columns: &'a [String],
    values: &'a [Arc<str>],
}

impl Users {
    /// Reads a file. One that is wrong in one place is refused as a whole, with the place.
    pub fn open(path: &Path) -> Result<Self, UsersError> {
        let failed = |source| UsersError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        if bytes > FILE_BYTES_MAX {
            let path = path.to_owned();
            return Err(UsersError::TooLarge { path, bytes });
        }
        Self::read(file).map_err(|problem| UsersError::Content {
            path: path.to_owned(),
            problem,
        })
    }

    /// Reads the text of a file; an error says where it is wrong.
    pub fn read(source: impl io::Read) -> Result<Self, String> {
        let mut reader = csv::Reader::from_reader(source);
        let header = reader.headers().map_err(|error| error.to_string())?;
        let (user_id, columns) = columns(header)?;
        let mut users = Self {
            columns,
            values: HashMap::new(),
        };
        // Values repeat: a million consumers have a hundred countries.
        let mut texts: HashSet<Arc<str>> = HashSet::new();
        let mut record = StringRecord::new();
        while reader
            .read_record(&mut record)
            .map_err(|error| error.to_string())?
        {
            let line = record.position().map_or(0, Position::line);
            let consumer = ConsumerId::new(&record[user_id])
                .map_err(|_| wrong(line, USER_ID, "1 to 256 characters are accepted"))?;
            let values = record.iter().enumerate();
            let values = values.filter(|(place, _)| *place != user_id);
            let mut row = Vec::with_capacity(users.columns.len());
            for ((_, value), column) in values.zip(&users.columns) {
                check(line, column, value)?;
                let text = match texts.get(value) {
                    Some(text) => text.clone(),
                    None => {
                        let text: Arc<str> = value.into();
                        texts.insert(text.clone());
                        text
                    }
                };
                row.push(text);
            }
            if users.values.insert(consumer, row.into()).is_some() {
                let accepted = "is there already; each consumer once is accepted";
                return Err(wrong(line, USER_ID, accepted));
            }
        }
        Ok(users)
    }

    /// What is known of a consumer; `None` when the file does not name them.
    pub fn get(&self, consumer_id: &ConsumerId) -> Option<User<'_>> {
        let values = self.values.get(consumer_id)?;
        Some(User {
            columns: &self.columns,
            values,
        })
    }

    /// The columns beside the user's id, in the file's order.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// How many consumers there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Everybody, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&ConsumerId, User<'_>)> {
        self.values.iter().map(|(consumer_id, values)| {
            let columns = self.columns.as_slice();
            (consumer_id, User { columns, values })
        })
    }
}

impl<'a> User<'a> {
    /// The value of a column; `None` when it is blank or the file has no such column.
    pub fn value(&self, column: &str) -> Option<&'a str> {
        let place = self.columns.iter().position(|name| name == column)?;
        let value: &str = self.values.get(place)?;
        (!value.is_empty()).then_some(value)
    }

    /// Age in whole years, where it is known.
    pub fn age(&self) -> Option<u32> {
        self.value(AGE)?.parse().ok()
    }

    /// Country as the file writes it, where it is known.
    pub fn country(&self) -> Option<&'a str> {
        self.value(COUNTRY)
    }
}

/// The place of the user's id, and the other columns' names.
fn columns(header: &StringRecord) -> Result<(usize, Vec<String>), String> {
    let user_id = header.iter().position(|name| name == USER_ID);
    let user_id = user_id.ok_or_else(|| {
        let accepted = "is missing; a header with USER_ID and any of AGE, GENDER, COUNTRY and \
                        further columns is accepted";
        wrong(1, USER_ID, accepted)
    })?;
    let mut columns: Vec<String> = Vec::new();
    for (place, name) in header.iter().enumerate() {
        if place == user_id {
            continue;
        }
        let letters = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit();
        if name.is_empty() || !name.chars().all(|letter| letters(letter) || letter == '_') {
            let accepted = "is no name; upper case, digits and _ are accepted, such as AGE";
            return Err(wrong(1, name, accepted));
        }
        if name == USER_ID || columns.iter().any(|column| column == name) {
            return Err(wrong(1, name, "stands there twice; once is accepted"));
        }
        columns.push(name.to_owned());
    }
    if columns.len() > COLUMNS_MAX {
        let accepted = format!("is one too many; at most {COLUMNS_MAX} are accepted");
        return Err(wrong(1, &columns[COLUMNS_MAX], &accepted));
    }
    Ok((user_id, columns))
}

fn check(line: u64, column: &str, value: &str) -> Result<(), String> {
    if value.chars().nth(VALUE_CHARACTERS_MAX).is_some() {
        let accepted = format!("at most {VALUE_CHARACTERS_MAX} characters are accepted");
        return Err(wrong(line, column, &accepted));
    }
    let is_age = |value: &str| value.parse().is_ok_and(|years: u32| years <= AGE_YEARS_MAX);
    if column == AGE && !value.is_empty() && !is_age(value) {
        let accepted = "whole years from 0 to 150 are accepted, or blank for unknown";
        return Err(wrong(line, column, accepted));
    }
    Ok(())
}

fn wrong(line: u64, column: &str, accepted: &str) -> String {
    let column: String = column.chars().take(40).collect();
    format!("line {line}, column {column}: {accepted}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Users, String> {
        Users::read(text.as_bytes())
    }

    fn consumer(text: &str) -> ConsumerId {
        ConsumerId::new(text).unwrap()
    }

    #[test]
    fn columns_stand_in_any_order_and_blank_is_unknown() {
        let users = read("COUNTRY,USER_ID,AGE,TEAM\nAR,diego,62,Boca\n,camille,,PSG\n").unwrap();
        assert_eq!((users.len(), users.columns().len()), (2, 3));
        let diego = users.get(&consumer("diego")).unwrap();
        assert_eq!((diego.age(), diego.country()), (Some(62), Some("AR")));
        assert_eq!(diego.value("TEAM"), Some("Boca"));
        let camille = users.get(&consumer("camille")).unwrap();
        assert_eq!((camille.age(), camille.country()), (None, None));
        assert_eq!(camille.value(GENDER), None);
        assert!(users.get(&consumer("nobody")).is_none());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_what_is_accepted() {
        for (text, named) in [
            ("", "line 1, column USER_ID: is missing"),
            ("USER_ID,age\n", "line 1, column age: is no name"),
            (
                "USER_ID,AGE,AGE\n",
                "line 1, column AGE: stands there twice",
            ),
            (
                "USER_ID,USER_ID\n",
                "line 1, column USER_ID: stands there twice",
            ),
            ("USER_ID,AGE\n,7\n", "line 2, column USER_ID: 1 to 256"),
            (
                "USER_ID,AGE\na,7\na,8\n",
                "line 3, column USER_ID: is there already",
            ),
            ("USER_ID,AGE\na,18-24\n", "line 2, column AGE: whole years"),
            ("USER_ID,AGE\na,-1\n", "line 2, column AGE: whole years"),
            ("USER_ID,AGE\na,151\n", "line 2, column AGE: whole years"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.starts_with(named), "{text:?} gave {problem}");
        }
        assert!(read("USER_ID,AGE\na\n").is_err(), "a row that is too short");
        let long = format!("USER_ID,TEAM\na,{}\n", "é".repeat(1_001));
        assert!(
            read(&long)
                .unwrap_err()
                .contains("column TEAM: at most 1000")
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Users::open(Path::new("/no/such.csv")).unwrap_err();
        assert_eq!(error.to_string(), "/no/such.csv: cannot be read");
    }
}
