//! Who is warmed for: ids from a users file in Personalize's schema, or one a line. Reads and
//! checks; knows nothing of what else a users file says.

use std::{
    collections::HashSet,
    io::{BufRead, Read},
};

use touchline_store::ids::{ConsumerId, ID_CHARACTERS_MAX};

/// The column that names the consumer.
const USER_ID: &str = "USER_ID";
/// Largest users file, as the server's own.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Longest line of a list: the longest id, four bytes a character, and the end of the line.
const LINE_BYTES_MAX: u64 = 4 * ID_CHARACTERS_MAX as u64 + 2;

/// Consumers in the order of their file, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumers {
    /// Who.
    pub ids: Vec<ConsumerId>,
    /// How many lines named somebody again.
    pub repeated: usize,
}

/// Reads `USER_ID` of a CSV file with a header. An error names the line and what is accepted.
pub fn from_users(source: impl Read, max: usize) -> Result<Consumers, String> {
    // One byte more than accepted, so that a longer file is seen to be longer.
    let mut bounded = source.take(FILE_BYTES_MAX + 1);
    let read = read_users(&mut bounded, max);
    if bounded.limit() == 0 {
        return Err("is larger than 1 GiB, the most that is read".to_owned());
    }
    read
}

fn read_users(source: impl Read, max: usize) -> Result<Consumers, String> {
    let mut reader = csv::Reader::from_reader(source);
    let header = reader.headers().map_err(|error| error.to_string())?;
    let place = header.iter().position(|name| name == USER_ID);
    let place = place.ok_or(
        "line 1: column USER_ID is missing; a header with USER_ID and any further columns is \
         accepted, as in Personalize's users schema",
    )?;
    let mut read = Reading::new(max);
    let mut record = csv::StringRecord::new();
    while reader
        .read_record(&mut record)
        .map_err(|error| error.to_string())?
    {
        let line = record.position().map_or(0, csv::Position::line);
        let id = record.get(place).unwrap_or_default();
        read.take(id)
            .map_err(|wrong| format!("line {line}, column USER_ID: {wrong}"))?;
    }
    read.finish()
}

/// Reads one id a line; lines with nothing on them are passed over. An error names the line and
/// what is accepted.
pub fn from_list(mut source: impl BufRead, max: usize) -> Result<Consumers, String> {
    let mut read = Reading::new(max);
    let mut text = Vec::new();
    for line in 1_u64.. {
        let wrong = |wrong: String| format!("line {line}: {wrong}");
        text.clear();
        let bytes = (&mut source)
            .take(LINE_BYTES_MAX + 1)
            .read_until(b'\n', &mut text)
            .map_err(|error| wrong(error.to_string()))?;
        if bytes == 0 {
            break;
        }
        let text = text.strip_suffix(b"\n").unwrap_or(&text);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if text.len() as u64 > LINE_BYTES_MAX - 2 {
            return Err(wrong(ACCEPTED.to_owned()));
        }
        let id = std::str::from_utf8(text)
            .map_err(|_| wrong("is not UTF-8; a consumer's id in UTF-8 is accepted".to_owned()))?;
        if !id.is_empty() {
            read.take(id).map_err(wrong)?;
        }
    }
    read.finish()
}

const ACCEPTED: &str = "a consumer's id of 1 to 256 characters is accepted";

struct Reading {
    max: usize,
    ids: Vec<ConsumerId>,
    known: HashSet<ConsumerId>,
    repeated: usize,
}

impl Reading {
    fn new(max: usize) -> Self {
        Self {
            max,
            ids: Vec::new(),
            known: HashSet::new(),
            repeated: 0,
        }
    }

    fn take(&mut self, id: &str) -> Result<(), String> {
        let id = ConsumerId::new(id).map_err(|_| ACCEPTED.to_owned())?;
        if !self.known.insert(id.clone()) {
            self.repeated += 1;
            return Ok(());
        }
        if self.ids.len() == self.max {
            let max = self.max;
            return Err(format!(
                "is one consumer too many; at most {max} are accepted (--max-consumers)"
            ));
        }
        self.ids.push(id);
        Ok(())
    }

    fn finish(self) -> Result<Consumers, String> {
        if self.ids.is_empty() {
            return Err("names no consumer; at least one is needed".to_owned());
        }
        Ok(Consumers {
            ids: self.ids,
            repeated: self.repeated,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(read: Result<Consumers, String>) -> Vec<String> {
        let ids = read.unwrap().ids;
        ids.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn consumers_stand_in_the_order_of_their_file_and_each_once() {
        let users = "AGE,USER_ID\n62,diego\n,\"ca,mille\"\n62,diego\n";
        let read = from_users(users.as_bytes(), 10).unwrap();
        assert_eq!(read.repeated, 1);
        assert_eq!(ids(Ok(read)), ["diego", "ca,mille"]);
        let list = from_list(&b"b\r\n\na\nb\n\nc"[..], 10).unwrap();
        assert_eq!(list.repeated, 1);
        assert_eq!(ids(Ok(list)), ["b", "a", "c"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_what_is_accepted() {
        let long = "é".repeat(257);
        for (users, named) in [
            ("", "line 1: column USER_ID is missing"),
            ("user_id\na\n", "line 1: column USER_ID is missing"),
            ("USER_ID\n", "names no consumer"),
            (
                "USER_ID,AGE\na,1\n,2\n",
                "line 3, column USER_ID: a consumer's id of 1 to 256",
            ),
            (
                "USER_ID\na\nb\nc\n",
                "line 4, column USER_ID: is one consumer too many; at most 2",
            ),
            (&format!("USER_ID\n{long}\n"), "line 2, column USER_ID: a"),
            ("USER_ID,AGE\na\n", "CSV error: record 1 (line: 2"),
        ] {
            let error = from_users(users.as_bytes(), 2).unwrap_err();
            assert!(error.starts_with(named), "{users:?} gave {error}");
        }
        let longest = format!("a\n{}\n", "é".repeat(256));
        assert_eq!(from_list(longest.as_bytes(), 2).unwrap().ids.len(), 2);
        for (list, named) in [
            (&b""[..], "names no consumer"),
            (b"\n\r\n", "names no consumer"),
            (b"a\n\xff\n", "line 2: is not UTF-8"),
            (b"a\nb\nc\n", "line 3: is one consumer too many; at most 2"),
            (format!("a\n\n{long}").as_bytes(), "line 3: a consumer's id"),
        ] {
            let error = from_list(list, 2).unwrap_err();
            assert!(error.starts_with(named), "{list:?} gave {error}");
        }
    }

    #[test]
    fn junk_of_any_size_is_refused_in_bounded_memory() {
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        assert!(from_list(endless, 2).unwrap_err().starts_with("line 1: "));
    }
}
