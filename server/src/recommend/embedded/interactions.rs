//! Interactions as CSV, in Personalize's schema with context columns, and which row, column and value
//! is wrong when a file cannot be used. Reads row by row in bounded memory and does not know what is
//! learned from them; what a row must hold is said in [`columns`].

use std::{cell::Cell, io, path::PathBuf, rc::Rc};

use csv::{ErrorKind, Position, StringRecord};
use touchline_store::{
    event::Context,
    ids::{ConsumerId, ItemId},
};

use self::columns::Columns;

mod columns;

/// Longest row, line breaks inside quotes included.
pub(super) const ROW_BYTES_MAX: usize = 64 << 10;

/// Why a file of interactions cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InteractionsError {
    /// The system refuses.
    #[error("{path}: {doing}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{path}: line {line}{column}: {problem}; accepted: {accepted}", column = column_text(.column.as_deref()))]
    Content {
        /// The file.
        path: PathBuf,
        /// The row's first line, from 1.
        line: u64,
        /// The column's name, where one is to blame.
        column: Option<String>,
        /// What is wrong.
        problem: String,
        /// What would be right.
        accepted: &'static str,
    },
}

fn column_text(column: Option<&str>) -> String {
    column.map_or_else(String::new, |column| format!(", column {column}"))
}

/// What is wrong with one row.
#[derive(Debug)]
pub(super) struct Problem {
    line: u64,
    column: Option<String>,
    problem: String,
    accepted: &'static str,
    is_length: bool,
}

impl Problem {
    /// Whether the row has too few columns, or too many.
    pub(super) fn is_length(&self) -> bool {
        self.is_length
    }

    /// The error that names the file.
    pub(super) fn in_file(self, path: impl Into<PathBuf>) -> InteractionsError {
        InteractionsError::Content {
            path: path.into(),
            line: self.line,
            column: self.column,
            problem: self.problem,
            accepted: self.accepted,
        }
    }
}

/// One row.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    pub(super) consumer_id: ConsumerId,
    pub(super) item_id: ItemId,
    pub(super) context: Context,
    /// Empty where there is none.
    pub(super) interaction_id: String,
}

/// Reads the rows of one file.
#[derive(Debug)]
pub(super) struct Rows<R> {
    reader: csv::Reader<Bounded<R>>,
    left: Rc<Cell<usize>>,
    columns: Columns,
    record: StringRecord,
    row_starts: u64,
}

impl<R: io::Read> Rows<R> {
    /// Reads the header.
    pub(super) fn new(source: R) -> Result<Self, Problem> {
        let left = Rc::new(Cell::new(ROW_BYTES_MAX));
        let bounded = Bounded {
            source,
            left: left.clone(),
        };
        let mut reader = csv::ReaderBuilder::new()
            .buffer_capacity(8 << 10)
            .from_reader(bounded);
        let columns = match reader.headers() {
            Ok(header) => Columns::new(header)?,
            Err(error) => return Err(csv_problem(&error, 1, &[])),
        };
        Ok(Self {
            reader,
            left,
            columns,
            record: StringRecord::new(),
            row_starts: 0,
        })
    }

    /// The next row; `None` at the end.
    pub(super) fn next(&mut self) -> Option<Result<Row, Problem>> {
        self.left.set(ROW_BYTES_MAX);
        self.row_starts = self.reader.position().byte();
        match self.reader.read_record(&mut self.record) {
            Ok(false) => None,
            Ok(true) => {
                let line = self.record.position().map_or(0, Position::line);
                Some(self.columns.row(&self.record, line))
            }
            Err(error) => {
                let line = self.reader.position().line();
                Some(Err(csv_problem(&error, line, &self.columns.names)))
            }
        }
    }

    /// Where the row that was read last begins, in bytes.
    pub(super) fn row_starts(&self) -> u64 {
        self.row_starts
    }
}

fn csv_problem(error: &csv::Error, line: u64, names: &[String]) -> Problem {
    let line = error.position().map_or(line, Position::line);
    let (column, problem, accepted) = match error.kind() {
        ErrorKind::Utf8 { err, .. } => {
            let name = names.get(err.field()).cloned();
            let column = name.unwrap_or_else(|| (err.field() + 1).to_string());
            (Some(column), "is not UTF-8".to_owned(), "UTF-8 text")
        }
        ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => {
            let problem = format!("has {len} columns, the header {expected_len}");
            (None, problem, "as many columns as the header has")
        }
        ErrorKind::Io(error) => {
            let accepted = "a file of rows of at most 64 KiB each";
            (None, error.to_string(), accepted)
        }
        _ => (None, error.to_string(), "CSV"),
    };
    Problem {
        line,
        column,
        problem,
        accepted,
        is_length: matches!(error.kind(), ErrorKind::UnequalLengths { .. }),
    }
}

/// Fails a row that goes on for too long, before it is in memory.
#[derive(Debug)]
struct Bounded<R> {
    source: R,
    left: Rc<Cell<usize>>,
}

impl<R: io::Read> io::Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 {
            return Err(io::Error::other("a row is longer than 64 KiB"));
        }
        let length = buffer.len().min(self.left.get());
        let read = self.source.read(&mut buffer[..length])?;
        self.left.set(self.left.get() - read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::{columns::COLUMNS_MAX, *};

    const HEADER: &str = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,MATCH_EVENT\n";

    fn read(bytes: &[u8]) -> Result<Vec<Row>, Problem> {
        let mut rows = Rows::new(bytes)?;
        std::iter::from_fn(|| rows.next()).collect()
    }

    fn refusal(bytes: &[u8]) -> String {
        read(bytes).unwrap_err().in_file("taps.csv").to_string()
    }

    #[test]
    fn columns_stand_in_any_order_and_further_ones_are_context() {
        let text = "MATCH_EVENT,ITEM_ID,EVENT_TYPE,EVENT_VALUE,USER_ID,TIMESTAMP,MATCH_TYPE\r\n\
            GOAL,ITEM_ID_1,tap,2,7,1671375600,\r\n";
        let rows = read(text.as_bytes()).unwrap();
        let goal = Context::from([("MATCH_EVENT".to_owned(), "GOAL".to_owned())]);
        let expected = Row {
            consumer_id: ConsumerId::new("7").unwrap(),
            item_id: ItemId::new("ITEM_ID_1").unwrap(),
            context: goal,
            interaction_id: String::new(),
        };
        assert_eq!(rows, [expected]);
    }

    #[test]
    fn a_missing_column_is_named() {
        assert_eq!(
            refusal(b"USER_ID,TIMESTAMP,EVENT_TYPE\n7,1,tap\n"),
            "taps.csv: line 1, column ITEM_ID: is missing; accepted: a header with USER_ID, \
             ITEM_ID, TIMESTAMP and EVENT_TYPE"
        );
        assert!(refusal(b"").contains("line 1, column USER_ID: is missing"));
    }

    #[test]
    fn a_column_whose_name_is_no_context_key_is_named() {
        for (column, problem) in [("match event", "no column's name"), ("USER_ID", "twice")] {
            let error = refusal(format!("{},{column}\n", HEADER.trim_end()).as_bytes());
            assert!(
                error.contains(&format!("line 1, column {column}")),
                "{error}"
            );
            assert!(error.contains(problem), "{error}");
        }
        let many: String = (0..COLUMNS_MAX)
            .map(|place| format!(",KEY_{place}"))
            .collect();
        let error = refusal(format!("{}{many}\n", HEADER.trim_end()).as_bytes());
        assert!(error.contains("at most 64 columns"), "{error}");
    }

    #[test]
    fn a_bad_number_is_named_with_line_and_column() {
        for bad in [
            "soon",
            "",
            "1.5",
            "-1",
            "1671375600000",
            "99999999999999999999",
        ] {
            let text = format!("{HEADER}7,I,1671375600,tap,GOAL\n7,I,{bad},tap,GOAL\n");
            let error = refusal(text.as_bytes());
            assert!(error.contains("line 3, column TIMESTAMP"), "{error}");
            assert!(
                error.contains(bad) && error.contains("seconds since 1970"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_empty_id_or_event_type_is_named_with_line_and_column() {
        for (row, column) in [
            (",I,1,tap,GOAL", "USER_ID"),
            ("7,,1,tap,GOAL", "ITEM_ID"),
            ("7,I,1,,GOAL", "EVENT_TYPE"),
        ] {
            let error = refusal(format!("{HEADER}{row}\n").as_bytes());
            assert!(
                error.contains(&format!("line 2, column {column}")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_row_of_another_length_is_named() {
        let error = refusal(format!("{HEADER}7,I,1,tap\n").as_bytes());
        assert!(
            error.contains("line 2: has 4 columns, the header 5"),
            "{error}"
        );
    }

    #[test]
    fn text_that_is_not_utf_8_is_named_with_line_and_column() {
        let row = [HEADER.as_bytes(), b"7,I\xff,1,tap,GOAL\n"].concat();
        let error = refusal(&row);
        assert!(
            error.contains("line 2, column ITEM_ID: is not UTF-8"),
            "{error}"
        );
    }

    /// Endless junk that counts how much of itself was read.
    struct Junk(u8, Rc<Cell<usize>>);

    impl io::Read for Junk {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer.fill(self.0);
            self.1.set(self.1.get() + buffer.len());
            Ok(buffer.len())
        }
    }

    #[test]
    fn a_row_that_never_ends_is_refused_after_64_kib() {
        for (start, junk, line) in [("", b'x', 1), (HEADER, b'x', 2), (HEADER, b',', 2)] {
            let read = Rc::new(Cell::new(0));
            let source = io::Read::chain(start.as_bytes(), Junk(junk, read.clone()));
            let problem = match Rows::new(source) {
                Err(problem) => problem,
                Ok(mut rows) => rows.next().unwrap().unwrap_err(),
            };
            assert!(
                problem.problem.contains("longer than 64 KiB"),
                "{problem:?}"
            );
            assert_eq!(problem.line, line);
            assert!(read.get() <= ROW_BYTES_MAX);
        }
        // Line breaks inside quotes do not end a row.
        let read = Rc::new(Cell::new(0));
        let start = format!("{HEADER}\"");
        let source = io::Read::chain(start.as_bytes(), Junk(b'\n', read.clone()));
        let problem = Rows::new(source).unwrap().next().unwrap().unwrap_err();
        assert!(
            problem.problem.contains("longer than 64 KiB"),
            "{problem:?}"
        );
        assert!(read.get() <= ROW_BYTES_MAX);
    }

    #[test]
    fn the_bound_is_one_of_the_row_and_not_of_the_file() {
        let row = format!("7,{},1,tap,GOAL\n", "I".repeat(200));
        let text = HEADER.to_owned() + &row.repeat(2 * ROW_BYTES_MAX / row.len());
        assert_eq!(
            read(text.as_bytes()).unwrap().len(),
            2 * ROW_BYTES_MAX / row.len()
        );
    }

    #[test]
    fn an_error_does_not_carry_the_junk_that_it_is_about() {
        let text = format!("{HEADER}7,I,{},tap,GOAL\n", "9".repeat(10_000));
        assert!(refusal(text.as_bytes()).len() < 200);
    }

    #[test]
    fn a_context_column_holds_an_object() {
        let header = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,CONTEXT\n";
        let row = r#"7,I,1,tap,"{""MATCH_EVENT"":""GOAL""}""#;
        let rows = read(format!("{header}{row}\n").as_bytes()).unwrap();
        assert_eq!(rows[0].context["MATCH_EVENT"], "GOAL");
        let error = refusal(format!("{header}7,I,1,tap,GOAL\n").as_bytes());
        assert!(error.contains("line 2, column CONTEXT"), "{error}");
    }
}
