//! What consumers did, kept in a file that is appended to: it outlives a crash of this process (not
//! one of the machine: it is not synced). It keeps the newest so many interactions; [`compaction`]
//! leaves the older ones out. Does not know what is learned from them.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::interactions::{InteractionsError, Problem, ROW_BYTES_MAX, Row, Rows};
use crate::recommend::Interaction;

pub(super) mod compaction;
#[cfg(test)]
mod tests;

/// The feedback file's columns. The last one holds no line break, so a row that ends in one is
/// whole; it is an object, as every interaction may have other context keys.
const HEADER: &str = "INTERACTION_ID,USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,CONTEXT\n";
/// What is kept has at most this size, however few interactions it is.
const KEPT_BYTES_MAX: u64 = 2 << 30;

/// How much of a feedback file is kept: the newest interactions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    rows: u64,
    bytes: u64,
}

impl Kept {
    /// The newest so many interactions.
    pub(super) fn newest(rows: usize) -> Self {
        Self {
            rows: rows as u64,
            bytes: KEPT_BYTES_MAX,
        }
    }

    /// Whether a file of this size is to be made smaller: not at each row too many.
    fn is_exceeded(self, rows: u64, bytes: u64) -> bool {
        rows > self.rows + (self.rows / 4).max(1) || bytes > self.bytes + self.bytes / 4
    }

    /// Size of a file that takes nothing more. Only one that cannot be made smaller gets there.
    fn full_bytes(self) -> u64 {
        self.bytes * 2
    }

    /// Reads past the rows that are not kept of a file of this size; says how many they were.
    fn pass_over<R: Read>(
        self,
        reader: &mut Rows<R>,
        rows: u64,
        bytes: u64,
    ) -> Result<u64, Problem> {
        let mut passed = 0;
        while rows - passed > self.rows || bytes - reader.next_starts() > self.bytes {
            match reader.pass() {
                Some(read) => read?,
                None => break,
            }
            passed += 1;
        }
        Ok(passed)
    }
}

/// Why interactions are not in the file: none of a call is.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// A row that could not be read again.
    #[error("an interaction takes {bytes} bytes; at most {ROW_BYTES_MAX} are kept")]
    TooLong {
        /// What it takes as a row.
        bytes: usize,
    },
    /// The system refuses.
    #[error("feedback cannot be kept: {0}")]
    Io(#[from] io::Error),
}

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct FeedbackFile {
    path: PathBuf,
    file: File,
    /// Two processes would cut off each other's rows. Beside the file, as that one is replaced.
    _lock: File,
    kept: Kept,
    /// Whole rows.
    rows: u64,
    /// They end here.
    length: u64,
    length_max: u64,
}

/// What was found on opening.
#[derive(Debug)]
pub(super) struct Opened {
    /// The file.
    pub(super) file: FeedbackFile,
    /// Older rows, which are not learned as they are not kept any longer.
    pub(super) passed_over: u64,
    /// Bytes of a last row that is not whole, left by a crash in the middle of a write: cut off.
    pub(super) cut_bytes: u64,
}

impl FeedbackFile {
    /// Opens or makes the file and hands each row that is kept to `learn`.
    pub(super) fn open(
        path: &Path,
        kept: Kept,
        learn: impl FnMut(Row),
    ) -> Result<Opened, InteractionsError> {
        let io = |doing| io_error(path, doing);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.open(path).map_err(io("cannot be opened"))?;
        // Where a link points to is what is replaced.
        let target = path.canonicalize().map_err(io("cannot be found"))?;
        let lock = lock(&target).map_err(io("cannot be locked"))?;
        compaction::remove_remains(&target).map_err(io("cannot be rid of its unfinished copy"))?;
        let file = options.open(&target).map_err(io("cannot be opened"))?;
        let mut opened = Self {
            path: target,
            _lock: lock,
            kept,
            rows: 0,
            length: last_line_end(&file).map_err(io("cannot be read"))?,
            length_max: kept.full_bytes(),
            file,
        };
        let found = opened.file.metadata().map_err(io("cannot be read"))?.len();
        opened.check_header(path)?;
        opened.survey(path)?;
        let passed_over = opened.read_back(path, learn)?;
        let cut_bytes = found - opened.length;
        opened.cut().map_err(io("cannot be cut"))?;
        if opened.length == 0 {
            let written = opened.append(HEADER.as_bytes());
            written.map_err(io("cannot be written"))?;
        }
        Ok(Opened {
            file: opened,
            passed_over,
            cut_bytes,
        })
    }

    /// Appends interactions. On an error none of them is in the file.
    pub(super) fn write(&mut self, interactions: &[&Interaction]) -> Result<(), WriteError> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let mut before = 0;
        for interaction in interactions {
            let context = serde_json::to_string(&interaction.context).map_err(io::Error::from)?;
            let row = [
                interaction.interaction_id.as_str(),
                interaction.consumer_id.as_str(),
                interaction.item_id.as_str(),
                &interaction.timestamp_seconds.to_string(),
                &interaction.event_type,
                &context,
            ];
            writer.write_record(row).map_err(io::Error::from)?;
            writer.flush()?;
            let length = writer.get_ref().len();
            if length - before > ROW_BYTES_MAX {
                let bytes = length - before;
                return Err(WriteError::TooLong { bytes });
            }
            before = length;
        }
        let rows = writer.into_inner();
        self.append(&rows.map_err(csv::IntoInnerError::into_error)?)?;
        self.rows += interactions.len() as u64;
        Ok(())
    }

    /// As if no byte more had room.
    #[cfg(test)]
    pub(super) fn fill_up(&mut self) {
        self.length_max = self.length;
    }

    fn append(&mut self, rows: &[u8]) -> io::Result<()> {
        let length = self.length + rows.len() as u64;
        if length > self.length_max {
            return Err(io::Error::other("the feedback file is full"));
        }
        let written = self.file.write_all(rows).and_then(|()| self.file.flush());
        if written.is_err() {
            // Half a row must not stand in the middle of the file; if this fails too, the next
            // write starts over the half.
            let _ = self.cut();
            return written;
        }
        self.length = length;
        Ok(())
    }

    /// Ends the file after its last whole row.
    fn cut(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.set_len(self.length)
    }

    /// Refuses a file that holds anything else, before a byte of it is cut off.
    fn check_header(&self, path: &Path) -> Result<(), InteractionsError> {
        let header = HEADER.as_bytes();
        let mut start = Vec::new();
        let read = (&self.file).seek(SeekFrom::Start(0)).and_then(|_| {
            let limit = header.len() as u64;
            (&self.file).take(limit).read_to_end(&mut start)
        });
        read.map_err(io_error(path, "cannot be read"))?;
        // A shorter one may be a header that was torn itself.
        if header.starts_with(&start) {
            return Ok(());
        }
        Err(InteractionsError::Content {
            path: path.to_owned(),
            line: 1,
            column: None,
            problem: "is no feedback file's header".to_owned(),
            accepted: "a file that was written here before, or one that does not exist yet",
        })
    }

    /// Counts the rows; `length` gets smaller when the last line turns out to be the first part of
    /// a row.
    fn survey(&mut self, path: &Path) -> Result<(), InteractionsError> {
        if self.length == 0 {
            return Ok(());
        }
        let mut reader = self.reader(path)?;
        let mut rows = 0;
        let length = loop {
            let starts = reader.next_starts();
            match reader.pass() {
                None => break self.length,
                Some(Ok(())) => rows += 1,
                Some(Err(problem)) if problem.is_length() && reader.pass().is_none() => {
                    break starts;
                }
                Some(Err(problem)) => return Err(problem.in_file(path)),
            }
        };
        (self.rows, self.length) = (rows, length);
        Ok(())
    }

    /// Hands the rows that are kept to `learn`; says how many stand before them.
    fn read_back(&self, path: &Path, mut learn: impl FnMut(Row)) -> Result<u64, InteractionsError> {
        if self.length == 0 {
            return Ok(0);
        }
        let wrong = |problem: Problem| problem.in_file(path);
        let mut reader = self.reader(path)?;
        let passed = self.kept.pass_over(&mut reader, self.rows, self.length);
        let passed = passed.map_err(wrong)?;
        while let Some(row) = reader.next() {
            learn(row.map_err(wrong)?);
        }
        Ok(passed)
    }

    fn reader(&self, path: &Path) -> Result<Rows<io::Take<&File>>, InteractionsError> {
        let start = (&self.file).seek(SeekFrom::Start(0));
        start.map_err(io_error(path, "cannot be read"))?;
        Rows::new((&self.file).take(self.length)).map_err(|problem| problem.in_file(path))
    }
}

fn io_error(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> InteractionsError {
    move |source| InteractionsError::Io {
        path: path.to_owned(),
        doing,
        source,
    }
}

/// The path of a file that stands beside another.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    let lock = options.open(beside(path, ".lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::Error(source)) => Err(source),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "somebody else keeps feedback there",
        )),
    }
}

/// Where the last line that ends in a line break ends, in bytes.
fn last_line_end(mut file: &File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let length = usize::try_from(end - start).unwrap_or(block.len());
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..length])?;
        if let Some(place) = block[..length].iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + place as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
