//! The catalog as a CSV file, in the form that the prototype's loader reads. Reads and checks; does
//! not write to any table.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
};

use touchline_store::{
    ids::{ItemId, ItemType},
    item::Item,
};

/// Attributes that are numbers, in the table as in the file. Blank is 0, as in the prototype.
pub const NUMERIC: [&str; 5] = [
    "twitter_follower_count",
    "insta_follower_count",
    "fifa_ovr_rate",
    "fifa_pot_rate",
    "fifa_stats",
];

/// The prototype's header. Further columns are carried along as text.
const HEADER: [&str; 12] = [
    "ITEM_ID",
    "ITEM_LABEL",
    "ITEM_TYPE",
    "TWITTER_FOLLOWER_COUNT",
    "INSTA_FOLLOWER_COUNT",
    "FIFA_OVR_RATE",
    "FIFA_POT_RATE",
    "FIFA_STATS",
    "IS_CELEB",
    "COUNTRY",
    "IS_MONETIZE",
    "IS_ENGAGE",
];

/// What blank text becomes, as in the prototype.
const BLANK_TEXT: &str = "UNKNOWN";

/// Largest file that is read: some hundred thousand items.
pub const FILE_BYTES_MAX: u64 = 32 << 20;

/// Longest value of one column, in characters.
const VALUE_CHARACTERS_MAX: usize = 8_192;

/// Why a file is no catalog. Nothing of it is used then.
#[derive(Debug, thiserror::Error)]
pub enum ItemsCsvError {
    /// It cannot be read, or is not CSV in UTF-8.
    #[error("the file cannot be read as CSV in UTF-8")]
    Unreadable(#[from] csv::Error),
    /// It is over [`FILE_BYTES_MAX`].
    #[error("the file is larger than {} MiB, the most that is read", FILE_BYTES_MAX >> 20)]
    TooLarge,
    /// A column is missing.
    #[error("line 1: column {missing} is missing; the header must name {}", HEADER.join(","))]
    Header {
        /// The first column that is missing.
        missing: &'static str,
    },
    /// A value cannot be accepted.
    #[error("line {line}, column {column}: {reason}")]
    Value {
        /// Line in the file, from 1.
        line: u64,
        /// The column's name.
        column: String,
        /// What is wrong, and what would be accepted.
        reason: String,
    },
}

/// Reads a whole catalog. Every row is checked before any is returned.
pub fn read(file: impl Read) -> Result<Vec<Item>, ItemsCsvError> {
    // One byte more than accepted, so that a longer file is seen to be longer.
    let mut bounded = file.take(FILE_BYTES_MAX + 1);
    let read = read_bounded(&mut bounded);
    if bounded.limit() == 0 {
        return Err(ItemsCsvError::TooLarge);
    }
    read
}

fn read_bounded(file: impl Read) -> Result<Vec<Item>, ItemsCsvError> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(file);
    let columns = reader.headers()?.clone();
    let has = |name: &str| {
        columns
            .iter()
            .any(|column| column.eq_ignore_ascii_case(name))
    };
    if let Some(missing) = HEADER.into_iter().find(|name| !has(name)) {
        return Err(ItemsCsvError::Header { missing });
    }
    let columns: Vec<_> = columns.iter().map(str::to_lowercase).collect();
    let mut lines: HashMap<ItemId, u64> = HashMap::new();
    let mut items = Vec::new();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record)? {
        let line = record.position().map_or(0, csv::Position::line);
        let item = item(&columns, &record, line)?;
        if let Some(first) = lines.insert(item.item_id.clone(), line) {
            let reason = format!("{} stands on line {first} already", item.item_id);
            return Err(value_error(line, "item_id", reason));
        }
        items.push(item);
    }
    Ok(items)
}

fn item(columns: &[String], record: &csv::StringRecord, line: u64) -> Result<Item, ItemsCsvError> {
    let mut attributes = BTreeMap::new();
    let (mut item_id, mut item_type) = (None, None);
    for (column, text) in columns.iter().zip(record) {
        match column.as_str() {
            "item_id" => {
                let id = ItemId::new(text);
                item_id =
                    Some(id.map_err(|invalid| value_error(line, column, invalid.to_string()))?);
            }
            "item_type" => {
                let id = ItemType::new(text);
                item_type =
                    Some(id.map_err(|invalid| value_error(line, column, invalid.to_string()))?);
            }
            _ => {
                attributes.insert(column.clone(), attribute(column, text, line)?);
            }
        }
    }
    let missing = |column| value_error(line, column, "is missing".to_owned());
    Ok(Item {
        item_id: item_id.ok_or_else(|| missing("item_id"))?,
        item_type: item_type.ok_or_else(|| missing("item_type"))?,
        attributes,
    })
}

fn attribute(column: &str, text: &str, line: u64) -> Result<String, ItemsCsvError> {
    let number = NUMERIC.contains(&column);
    match text {
        "" if number => Ok("0".to_owned()),
        "" => Ok(BLANK_TEXT.to_owned()),
        text if number && !text.parse::<f64>().is_ok_and(f64::is_finite) => {
            let shown: String = text.chars().take(40).collect();
            let reason = format!(
                "{shown:?} is no number; a number such as 91 is accepted, or nothing for 0"
            );
            Err(value_error(line, column, reason))
        }
        text if text.chars().count() > VALUE_CHARACTERS_MAX => {
            let reason = format!("is longer than {VALUE_CHARACTERS_MAX} characters");
            Err(value_error(line, column, reason))
        }
        text => Ok(text.to_owned()),
    }
}

fn value_error(line: u64, column: &str, reason: String) -> ItemsCsvError {
    ItemsCsvError::Value {
        line,
        column: column.to_uppercase(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> String {
        HEADER.join(",")
    }

    fn error(file: &str) -> String {
        read(file.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn blank_numbers_become_0_blank_text_unknown_and_names_lower_case() {
        let file = format!("{},NICKNAME\nI1,Messi,PLAYER,,5,,,,,,,,Leo\n", header());
        let items = read(file.as_bytes()).unwrap();
        let attributes = &items[0].attributes;
        assert_eq!(attributes["twitter_follower_count"], "0");
        assert_eq!(attributes["insta_follower_count"], "5");
        assert_eq!(attributes["country"], "UNKNOWN");
        assert_eq!(attributes["nickname"], "Leo");
        assert!(!attributes.contains_key("item_id"));
    }

    #[test]
    fn a_missing_column_is_named() {
        let file = header().replace(",FIFA_STATS", "");
        assert!(error(&file).contains("column FIFA_STATS is missing"));
    }

    #[test]
    fn a_bad_value_is_named_with_its_line_and_column() {
        let row =
            |stats: &str, id: &str| format!("{id},Messi,PLAYER,1,2,3,4,{stats},Y,Argentina,N,Y\n");
        let file = format!("{}\n{}{}", header(), row("1", "I1"), row("many", "I2"));
        assert_eq!(
            error(&file),
            "line 3, column FIFA_STATS: \"many\" is no number; a number such as 91 is accepted, or nothing for 0"
        );
        for number in ["NaN", "inf", "1e999"] {
            assert!(
                error(&format!("{}\n{}", header(), row(number, "I1"))).contains("is no number")
            );
        }
        let twice = format!("{}\n{}{}", header(), row("1", "I1"), row("1", "I1"));
        assert!(error(&twice).contains("I1 stands on line 2 already"));
        let no_id = format!("{}\n{}", header(), row("1", ""));
        assert!(error(&no_id).contains("line 2, column ITEM_ID"));
        let ragged = format!("{}\nI1,Messi\n", header());
        assert!(error(&ragged).contains("CSV"));
    }

    #[test]
    fn junk_of_any_size_is_refused_in_bounded_memory() {
        for junk in [&b"\""[..], b"x", b"\xff\x00", b"a,b\n"] {
            let endless = std::io::repeat(junk[0]).take(100 << 20);
            assert!(read(junk.chain(endless)).is_err());
        }
        let endless = std::io::repeat(b'\n').take(100 << 20);
        let file = header();
        assert!(matches!(
            read(file.as_bytes().chain(endless)),
            Err(ItemsCsvError::TooLarge)
        ));
    }
}
