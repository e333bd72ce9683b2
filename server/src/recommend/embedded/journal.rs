//! What was recorded: each interaction once, in the file where there is one, and then learned. Knows
//! neither the model nor the catalog.

use tokio::sync::Mutex;

use super::{
    FeedbackConfig,
    feedback::{FeedbackFile, Kept, Opened, WriteError, compaction::Compaction},
    interactions::{InteractionsError, Row},
    seen::Seen,
};
use crate::recommend::{Interaction, RecommendError, Recorded};

/// What is recorded, and what was recorded lately.
#[derive(Debug, Default)]
pub(super) struct Journal {
    seen: Seen,
    file: Option<FeedbackFile>,
}

impl Journal {
    /// Opens or makes the file and hands what it keeps to `learn`.
    pub(super) fn open(
        config: &FeedbackConfig,
        mut learn: impl FnMut(Row),
    ) -> Result<Self, InteractionsError> {
        let path = config.path.display();
        let mut seen = Seen::default();
        let (mut rows, mut duplicates) = (0_usize, 0_usize);
        let opened = FeedbackFile::open(&config.path, Kept::newest(config.max), |row: Row| {
            if seen.insert(&row.interaction_id) {
                rows += 1;
                learn(row);
            } else {
                duplicates += 1;
            }
        })?;
        let Opened {
            file,
            passed_over,
            cut_bytes,
        } = opened;
        tracing::info!(%path, rows, duplicates, passed_over, "learned feedback");
        if cut_bytes > 0 {
            tracing::warn!(%path, cut_bytes, "skipped a last row that was not whole: cut off");
        }
        Ok(Self {
            seen,
            file: Some(file),
        })
    }

    /// Writes what is new, then hands it to `learn`.
    pub(super) fn record(
        &mut self,
        interactions: &[Interaction],
        learn: impl FnOnce(&[&Interaction]),
    ) -> Result<Recorded, RecommendError> {
        let mut of_call = Seen::default();
        let new: Vec<&Interaction> = interactions
            .iter()
            .filter(|interaction| {
                let id = &interaction.interaction_id;
                !self.seen.contains(id) && of_call.insert(id)
            })
            .collect();
        if let Some(file) = &mut self.file {
            file.write(&new).map_err(|error| match error {
                WriteError::TooLong { .. } => RecommendError::Invalid(error.to_string()),
                WriteError::Io(_) => RecommendError::Unavailable(error.to_string()),
            })?;
        }
        for interaction in &new {
            self.seen.insert(&interaction.interaction_id);
        }
        learn(&new);
        Ok(Recorded {
            recorded: new.len(),
            duplicates: interactions.len() - new.len(),
        })
    }

    /// Whether the file is to be made smaller.
    pub(super) fn is_exceeded(&self) -> bool {
        self.file.as_ref().is_some_and(FeedbackFile::is_exceeded)
    }

    /// The file, where there is one.
    pub(super) fn file(&mut self) -> Option<&mut FeedbackFile> {
        self.file.as_mut()
    }
}

/// Makes the file smaller if it is time, unless `stop` says that it is no longer wanted. Blocks its
/// thread, and holds the journal for moments only: who records waits for no more than the copy of
/// what was recorded during the copy before.
pub(super) fn compact(journal: &Mutex<Journal>, stop: impl Fn() -> bool) -> std::io::Result<()> {
    let due = journal.blocking_lock().file().and_then(|file| file.due());
    let Some(due) = due else {
        return Ok(());
    };
    let mut compaction = Compaction::begin(&due)?;
    compaction.copy(due.length, &stop)?;
    compaction.sync()?;
    let length = journal.blocking_lock().file().map(|file| file.length());
    compaction.copy(length.unwrap_or_default(), &stop)?;
    let mut journal = journal.blocking_lock();
    if let Some(file) = journal.file() {
        let left_out = compaction.install(file)?;
        tracing::info!(left_out, "left older interactions out of the feedback file");
    }
    Ok(())
}
