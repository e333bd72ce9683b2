//! What consumers did, kept in a file that is only ever appended to: it outlives a crash of this
//! process (not one of the machine: it is not synced). Knows which interactions it has seen lately,
//! and not what is learned from them.

use std::{
    collections::{HashSet, VecDeque},
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::interactions::{InteractionsError, Problem, Row, Rows};
use crate::recommend::Interaction;

/// The feedback file's columns. The last one holds no line break, so a row that ends in one is
/// whole; it is an object, as every interaction may have other context keys.
const HEADER: &str = "INTERACTION_ID,USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,CONTEXT\n";
/// The file takes nothing more beyond this.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// Interaction ids that are remembered.
pub(super) const SEEN_MAX: usize = 100_000;

/// Interaction ids that were recorded lately, by their hash: the oldest make room.
#[derive(Debug, Default)]
pub(super) struct Seen {
    order: VecDeque<[u8; 16]>,
    known: HashSet<[u8; 16]>,
}

impl Seen {
    /// Remembers an id; false: it was known. The empty id is never known.
    pub(super) fn insert(&mut self, interaction_id: &str) -> bool {
        if interaction_id.is_empty() {
            return true;
        }
        let id = Self::digest(interaction_id);
        if !self.known.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// Whether an id is known.
    pub(super) fn contains(&self, interaction_id: &str) -> bool {
        !interaction_id.is_empty() && self.known.contains(&Self::digest(interaction_id))
    }

    fn digest(interaction_id: &str) -> [u8; 16] {
        let hash = Sha256::digest(interaction_id.as_bytes());
        std::array::from_fn(|place| hash[place])
    }
}

/// The file, open for appending and locked: two processes would cut off each other's rows.
#[derive(Debug)]
pub(super) struct FeedbackFile {
    file: File,
    /// Whole rows end here.
    length: u64,
    length_max: u64,
}

impl FeedbackFile {
    /// Opens or makes the file and hands each row that it holds to `learn`. Says how many bytes of
    /// a last row that is not whole, left by a crash in the middle of a write, were cut off.
    pub(super) fn open(
        path: &Path,
        learn: impl FnMut(Row),
    ) -> Result<(Self, u64), InteractionsError> {
        let io = |doing| {
            move |source| InteractionsError::Io {
                path: path.to_owned(),
                doing,
                source,
            }
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(io("cannot be opened"))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::Error(source) => io("cannot be locked")(source),
            TryLockError::WouldBlock => io("cannot be locked")(io::Error::new(
                io::ErrorKind::WouldBlock,
                "somebody else keeps feedback there",
            )),
        })?;
        let mut opened = Self {
            length: last_line_end(&file).map_err(io("cannot be read"))?,
            length_max: FILE_BYTES_MAX,
            file,
        };
        let found = opened.file.metadata().map_err(io("cannot be read"))?.len();
        opened.check_header(path)?;
        opened.read_back(path, learn)?;
        let cut = found - opened.length;
        opened.cut().map_err(io("cannot be cut"))?;
        if opened.length == 0 {
            let written = opened.append(HEADER.as_bytes());
            written.map_err(io("cannot be written"))?;
        }
        Ok((opened, cut))
    }

    /// Appends interactions. On an error none of them is in the file.
    pub(super) fn write(&mut self, interactions: &[&Interaction]) -> io::Result<()> {
        let mut rows = csv::Writer::from_writer(Vec::new());
        for interaction in interactions {
            let context = serde_json::to_string(&interaction.context)?;
            rows.write_record([
                interaction.interaction_id.as_str(),
                interaction.consumer_id.as_str(),
                interaction.item_id.as_str(),
                &interaction.timestamp_seconds.to_string(),
                &interaction.event_type,
                &context,
            ])?;
        }
        let rows = rows.into_inner().map_err(csv::IntoInnerError::into_error)?;
        self.append(&rows)
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
        read.map_err(|source| InteractionsError::Io {
            path: path.to_owned(),
            doing: "cannot be read",
            source,
        })?;
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

    /// Hands the whole lines to `learn`; `length` gets smaller when the last of them turns out to
    /// be the first part of a row.
    fn read_back(
        &mut self,
        path: &Path,
        mut learn: impl FnMut(Row),
    ) -> Result<(), InteractionsError> {
        if self.length == 0 {
            return Ok(());
        }
        let start = (&self.file).seek(SeekFrom::Start(0));
        start.map_err(|source| InteractionsError::Io {
            path: path.to_owned(),
            doing: "cannot be read",
            source,
        })?;
        let wrong = |problem: Problem| problem.in_file(path);
        let mut rows = Rows::new((&self.file).take(self.length)).map_err(wrong)?;
        loop {
            match rows.next() {
                None => return Ok(()),
                Some(Ok(row)) => learn(row),
                Some(Err(problem)) => {
                    let (short, starts) = (problem.is_length(), rows.row_starts());
                    if short && rows.next().is_none() {
                        self.length = starts;
                        return Ok(());
                    }
                    return Err(wrong(problem));
                }
            }
        }
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

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use touchline_store::{
        event::Context,
        ids::{ConsumerId, ItemId},
    };

    use super::*;

    fn tap(interaction_id: &str, consumer_id: &str) -> Interaction {
        let context = [("MATCH_EVENT", "a \"goal\",\nat last"), ("OTHER", "1")];
        Interaction {
            interaction_id: interaction_id.to_owned(),
            consumer_id: ConsumerId::new(consumer_id).unwrap(),
            item_id: ItemId::new("ITEM_ID_1").unwrap(),
            event_type: "tap".to_owned(),
            timestamp_seconds: 1_671_375_600,
            event_id: None,
            context: context
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            recommendation_id: None,
        }
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feedback.csv");
        (folder, path)
    }

    fn open(path: &Path) -> (FeedbackFile, Vec<Row>, u64) {
        let mut rows = Vec::new();
        let (file, cut) = FeedbackFile::open(path, |row| rows.push(row)).unwrap();
        (file, rows, cut)
    }

    #[test]
    fn what_was_written_is_read_back_whatever_is_in_it() {
        let (_folder, path) = folder();
        let (mut file, rows, _) = open(&path);
        assert!(rows.is_empty());
        let odd = "two\nlines, \"quoted\" é";
        file.write(&[&tap("a", "7"), &tap("", odd)]).unwrap();
        drop(file);
        let (_, rows, cut) = open(&path);
        assert_eq!((rows.len(), cut), (2, 0));
        assert_eq!(rows[0].interaction_id, "a");
        assert_eq!(rows[1].consumer_id.as_str(), odd);
        assert_eq!(rows[1].context, tap("", odd).context);
    }

    #[test]
    fn a_row_torn_anywhere_is_cut_off_and_the_others_stay() {
        let (_folder, path) = folder();
        let (mut file, ..) = open(&path);
        file.write(&[&tap("a", "7")]).unwrap();
        let whole = fs::read(&path).unwrap().len();
        file.write(&[&tap("b", "two\nlines\né")]).unwrap();
        drop(file);
        let content = fs::read(&path).unwrap();
        for end in 0..content.len() {
            fs::write(&path, &content[..end]).unwrap();
            let (mut file, rows, cut) = open(&path);
            let expected = usize::from(end >= whole);
            assert_eq!(rows.len(), expected, "torn after {end} bytes");
            let kept = [0, HEADER.len(), whole]
                .into_iter()
                .rfind(|kept| *kept <= end);
            assert_eq!(cut, (end - kept.unwrap()) as u64, "torn after {end} bytes");
            file.write(&[&tap("c", "8")]).unwrap();
            drop(file);
            assert_eq!(open(&path).1.len(), expected + 1, "torn after {end} bytes");
        }
    }

    #[test]
    fn a_file_that_is_something_else_is_refused_and_left_alone() {
        let (_folder, path) = folder();
        for content in ["a key without an end", "USER_ID,ITEM_ID\n1,2\n", "\n\n"] {
            fs::write(&path, content).unwrap();
            let error = FeedbackFile::open(&path, |_| {}).unwrap_err().to_string();
            assert!(
                error.contains("line 1: is no feedback file's header"),
                "{error}"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn a_bad_row_in_the_middle_is_refused_and_nothing_is_cut() {
        let (_folder, path) = folder();
        for bad in ["a,7,I,soon,tap,{}\n", "a,7\na,7,I,1,tap,{}\n"] {
            let content = HEADER.to_owned() + bad;
            fs::write(&path, &content).unwrap();
            let error = FeedbackFile::open(&path, |_| {}).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn two_cannot_keep_feedback_in_one_file() {
        let (_folder, path) = folder();
        let _first = open(&path);
        let error = FeedbackFile::open(&path, |_| {}).unwrap_err();
        assert!(error.to_string().contains("cannot be locked"), "{error}");
    }

    #[test]
    fn a_full_file_takes_nothing_more_and_stays_whole() {
        let (_folder, path) = folder();
        let (mut file, ..) = open(&path);
        file.fill_up();
        let before = fs::read(&path).unwrap();
        let error = file.write(&[&tap("a", "7")]).unwrap_err();
        assert!(error.to_string().contains("full"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn ids_are_forgotten_oldest_first_beyond_the_bound() {
        let mut seen = Seen::default();
        for id in 0..=SEEN_MAX {
            assert!(seen.insert(&id.to_string()));
        }
        assert!(!seen.contains("0"));
        assert!(seen.contains("1") && !seen.insert("1"));
        assert_eq!(seen.order.len(), SEEN_MAX);
        assert_eq!(seen.known.len(), SEEN_MAX);
    }

    #[test]
    fn the_empty_id_is_never_known() {
        let mut seen = Seen::default();
        assert!(seen.insert("") && seen.insert("") && !seen.contains(""));
    }

    #[test]
    fn a_context_survives_as_it_was() {
        let context: Context = tap("a", "7").context;
        let text = serde_json::to_string(&context).unwrap();
        assert!(!text.contains('\n'), "the last column holds no line break");
    }
}
