//! Making a feedback file smaller: what is kept is copied into a new file beside it, which then takes
//! its place. A crash at any moment leaves one whole file under the path, the old or the new one, and
//! at worst a copy that nobody needs. Interactions are recorded all the while: only the last step,
//! which copies what came during the one before, must have the file to itself.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{FeedbackFile, HEADER, Kept, beside};
use crate::recommend::embedded::interactions::Rows;

/// Bytes that are copied before it is asked again whether to go on.
const STEP_BYTES: u64 = 8 << 20;

/// A file that has to be made smaller, as it was at one moment.
#[derive(Debug)]
pub(in crate::recommend::embedded) struct Due {
    path: PathBuf,
    kept: Kept,
    rows: u64,
    /// Its whole rows end here, in bytes.
    pub(in crate::recommend::embedded) length: u64,
}

impl FeedbackFile {
    /// Whether it holds so much more than is kept that making it smaller is worth the work.
    pub(in crate::recommend::embedded) fn is_exceeded(&self) -> bool {
        self.kept.is_exceeded(self.rows, self.length)
    }

    /// What is to be done, if it is time.
    pub(in crate::recommend::embedded) fn due(&self) -> Option<Due> {
        self.is_exceeded().then(|| Due {
            path: self.path.clone(),
            kept: self.kept,
            rows: self.rows,
            length: self.length,
        })
    }

    /// Where its whole rows end, in bytes.
    pub(in crate::recommend::embedded) fn length(&self) -> u64 {
        self.length
    }
}

/// A new file that will take the place of the old one; removed if it does not.
#[derive(Debug)]
pub(in crate::recommend::embedded) struct Compaction {
    path: PathBuf,
    new_path: PathBuf,
    old: File,
    new: File,
    /// The old file up to here is copied or left out.
    copied: u64,
    new_length: u64,
    left_out: u64,
    installed: bool,
}

impl Compaction {
    /// Finds what is kept and makes a new file for it.
    pub(in crate::recommend::embedded) fn begin(due: &Due) -> io::Result<Self> {
        let old = File::open(&due.path)?;
        let content = |problem| io::Error::other(format!("{problem:?}"));
        let mut reader = Rows::new((&old).take(due.length)).map_err(content)?;
        let left_out = due.kept.pass_over(&mut reader, due.rows, due.length);
        let left_out = left_out.map_err(content)?;
        let copied = reader.next_starts();
        (&old).seek(SeekFrom::Start(copied))?;

        let new_path = new_path(&due.path);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let mut compaction = Self {
            path: due.path.clone(),
            new: options.open(&new_path)?,
            new_path,
            old,
            copied,
            new_length: HEADER.len() as u64,
            left_out,
            installed: false,
        };
        let permissions = compaction.old.metadata()?.permissions();
        compaction.new.set_permissions(permissions)?;
        compaction.new.write_all(HEADER.as_bytes())?;
        Ok(compaction)
    }

    /// Copies what the old file holds up to `length`, unless `stop` says that it is no longer
    /// wanted.
    pub(in crate::recommend::embedded) fn copy(
        &mut self,
        length: u64,
        stop: impl Fn() -> bool,
    ) -> io::Result<()> {
        while self.copied < length {
            if stop() {
                return Err(io::Error::other("stopped on the way"));
            }
            let step = (length - self.copied).min(STEP_BYTES);
            let done = io::copy(&mut (&self.old).take(step), &mut self.new)?;
            if done < step {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.copied += done;
            self.new_length += done;
        }
        Ok(())
    }

    /// Has the disk take what was copied, so that the new name is never there before its content.
    pub(in crate::recommend::embedded) fn sync(&self) -> io::Result<()> {
        self.new.sync_all()
    }

    /// Copies the rest and takes the old file's place; says how many rows were left out.
    pub(in crate::recommend::embedded) fn install(
        mut self,
        feedback: &mut FeedbackFile,
    ) -> io::Result<u64> {
        self.copy(feedback.length, || false)?;
        // Nothing may fail once the path names the new file.
        let new = self.new.try_clone()?;
        fs::rename(&self.new_path, &self.path)?;
        self.installed = true;
        feedback.file = new;
        feedback.length = self.new_length;
        feedback.rows -= self.left_out;
        Ok(self.left_out)
    }
}

impl Drop for Compaction {
    fn drop(&mut self) {
        if !self.installed {
            // What cannot be removed now is removed at the next start.
            let _ = fs::remove_file(&self.new_path);
        }
    }
}

/// Removes what a crash in the middle of a compaction has left.
pub(super) fn remove_remains(path: &Path) -> io::Result<()> {
    match fs::remove_file(new_path(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn new_path(path: &Path) -> PathBuf {
    beside(path, ".new")
}

#[cfg(test)]
mod tests {
    use touchline_store::{
        event::Context,
        ids::{ConsumerId, ItemId},
    };

    use super::*;
    use crate::recommend::Interaction;

    const KEPT: Kept = Kept {
        rows: 4,
        bytes: 1 << 20,
    };

    fn tap(number: usize) -> Interaction {
        Interaction {
            interaction_id: number.to_string(),
            consumer_id: ConsumerId::new("two\nlines").unwrap(),
            item_id: ItemId::new("ITEM_ID_1").unwrap(),
            event_type: "tap".to_owned(),
            timestamp_seconds: 1_671_375_600,
            event_id: None,
            context: Context::new(),
            recommendation_id: None,
        }
    }

    fn open(path: &Path) -> (FeedbackFile, Vec<usize>) {
        let mut ids = Vec::new();
        let learn = |row: super::super::Row| ids.push(row.interaction_id.parse().unwrap());
        let opened = FeedbackFile::open(path, KEPT, learn).unwrap();
        (opened.file, ids)
    }

    /// A file that holds the interactions from 0 up to this one.
    fn written(path: &Path, end: usize) -> FeedbackFile {
        let (mut file, _) = open(path);
        for number in 0..end {
            file.write(&[&tap(number)]).unwrap();
        }
        file
    }

    fn compact(file: &mut FeedbackFile) -> u64 {
        let due = file.due().unwrap();
        let mut compaction = Compaction::begin(&due).unwrap();
        compaction.copy(due.length, || false).unwrap();
        compaction.sync().unwrap();
        compaction.install(file).unwrap()
    }

    /// What a machine has on its disk when the process is killed now.
    fn crash(folder: &Path) -> tempfile::TempDir {
        let left = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), left.path().join(entry.file_name())).unwrap();
        }
        left
    }

    fn assert_whole(folder: &Path, ids: &[usize]) {
        let path = folder.join("feedback.csv");
        let (mut file, found) = open(&path);
        assert_eq!(found, ids);
        assert!(!new_path(&path).exists(), "the copy is left");
        file.write(&[&tap(100)]).unwrap();
        drop(file);
        let again = [&ids[1..], &[100]].concat();
        assert_eq!(open(&path).1, again);
    }

    #[test]
    fn what_is_kept_is_the_newest_and_the_file_is_appended_to_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feedback.csv");
        let mut file = written(&path, 10);
        assert_eq!(compact(&mut file), 6);
        assert!(file.due().is_none());
        let small = fs::read(&path).unwrap();
        assert_eq!(small.len() as u64, file.length);
        assert_eq!((file.rows, new_path(&path).exists()), (4, false));
        file.write(&[&tap(10)]).unwrap();
        assert!(fs::read(&path).unwrap().starts_with(&small));
        drop(file);
        assert_eq!(open(&path).1, [7, 8, 9, 10]);
    }

    #[test]
    fn the_bound_is_one_of_bytes_too() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = written(&folder.path().join("feedback.csv"), 4);
        let row_bytes = (file.length - HEADER.len() as u64) / 4;
        file.kept.bytes = 2 * row_bytes;
        assert_eq!(compact(&mut file), 2);
        assert_eq!(file.length, HEADER.len() as u64 + 2 * row_bytes);
    }

    #[test]
    fn a_file_that_is_only_a_little_too_large_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = written(&folder.path().join("feedback.csv"), 5);
        assert!(file.due().is_none());
        file.write(&[&tap(5)]).unwrap();
        assert!(file.due().is_some());
    }

    #[test]
    fn what_is_recorded_meanwhile_is_written_at_once_and_in_the_new_file_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feedback.csv");
        let mut file = written(&path, 10);
        let due = file.due().unwrap();
        file.write(&[&tap(10)]).unwrap();
        let mut compaction = Compaction::begin(&due).unwrap();
        file.write(&[&tap(11)]).unwrap();
        compaction.copy(due.length, || false).unwrap();
        compaction.sync().unwrap();
        file.write(&[&tap(12)]).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("\n12,"));
        assert_eq!(compaction.install(&mut file).unwrap(), 6);
        assert_eq!(file.rows, 7);
        let content = fs::read_to_string(&path).unwrap();
        for number in 6..13 {
            assert_eq!(
                content.matches(&format!("\n{number},")).count(),
                1,
                "{content}"
            );
        }
        assert_eq!(content.matches("tap").count(), 7);
    }

    #[test]
    fn a_crash_at_any_moment_leaves_a_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feedback.csv");
        let mut file = written(&path, 10);
        let due = file.due().unwrap();
        let mut compaction = Compaction::begin(&due).unwrap();
        let mut moments = vec![crash(folder.path())];
        compaction.copy(due.length, || false).unwrap();
        let copied = fs::read(new_path(&path)).unwrap();
        for end in 0..=copied.len() {
            let moment = crash(folder.path());
            let new = new_path(&moment.path().join("feedback.csv"));
            fs::write(new, &copied[..end]).unwrap();
            moments.push(moment);
        }
        compaction.sync().unwrap();
        moments.push(crash(folder.path()));
        compaction.install(&mut file).unwrap();
        moments.push(crash(folder.path()));
        drop(file);
        moments.push(crash(folder.path()));
        for moment in &moments {
            assert_whole(moment.path(), &[6, 7, 8, 9]);
        }
    }

    #[test]
    fn one_that_is_stopped_or_fails_leaves_the_old_file_and_no_copy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feedback.csv");
        let file = written(&path, 10);
        let before = fs::read(&path).unwrap();
        let due = file.due().unwrap();
        let mut compaction = Compaction::begin(&due).unwrap();
        compaction.copy(due.length, || true).unwrap_err();
        assert!(new_path(&path).exists());
        drop(compaction);
        assert!(!new_path(&path).exists());
        assert_eq!(fs::read(&path).unwrap(), before);
        // A folder stands where the copy would.
        fs::create_dir(new_path(&path)).unwrap();
        Compaction::begin(&due).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}
