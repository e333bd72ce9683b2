//! The policies in force: read at start, and again whenever the file's content changed. A file that
//! cannot be used refuses the start and, later, is reported and leaves the last good policies where
//! they are. What the policies mean is [`crate::components::policies`].

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{components::policies::Policies, counters::Counters};

mod file;

pub use file::PolicyError;

/// How often the file is looked at. Its whole content is compared: times of change have too coarse a
/// grain, and a mounted ConfigMap swaps a link where a watch of the file would see nothing.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// The policies in force.
#[derive(Debug)]
pub struct PolicyFile {
    /// `None`: nothing is ruled.
    path: Option<PathBuf>,
    context_keys: Vec<String>,
    current: RwLock<Arc<Policies>>,
    /// The content that was judged last.
    judged: Mutex<Option<Vec<u8>>>,
    counters: Arc<Counters>,
}

impl PolicyFile {
    /// Reads the file, if one is named. `context_keys` are those that events are asked with.
    pub fn open(
        path: Option<PathBuf>,
        context_keys: Vec<String>,
        counters: Arc<Counters>,
    ) -> Result<Self, PolicyError> {
        let (policies, content) = match &path {
            None => (Policies::default(), None),
            Some(path) => {
                let content = file::read(path)?;
                let policies = file::parse(path, &content, &context_keys)?;
                (policies, Some(content))
            }
        };
        Ok(Self {
            path,
            context_keys,
            current: RwLock::new(Arc::new(policies)),
            judged: Mutex::new(content),
            counters,
        })
    }

    /// The policies as of now.
    pub fn current(&self) -> Arc<Policies> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// Looks at the file again and again, until shutdown.
    pub async fn keep_fresh(self: Arc<Self>, shutdown: CancellationToken) {
        let Some(path) = self.path.clone() else {
            return;
        };
        let looking = async {
            let mut last: Option<Result<Vec<u8>, String>> = None;
            loop {
                sleep(LOOK_PAUSE).await;
                let path = path.clone();
                let Ok(read) = tokio::task::spawn_blocking(move || file::read(&path)).await else {
                    continue;
                };
                let read = read.map_err(|error| chain(&error));
                // Half of a file that is being written may be a file of fewer rules, so only what
                // is found twice is taken.
                if last.as_ref() == Some(&read) {
                    self.judge(read);
                    continue;
                }
                last = Some(read);
            }
        };
        shutdown.run_until_cancelled(looking).await;
    }

    /// Takes what the file holds at this moment, without looking twice: whoever asks has written it.
    /// Says whether others are in force now, or what is wrong with it; `None` where there is no file.
    pub async fn look_now(self: &Arc<Self>) -> Option<Result<bool, String>> {
        let path = self.path.clone()?;
        let this = self.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let read = file::read(&path).map_err(|error| chain(&error));
            let parsed = this.parse(&path, &read);
            let is_news = this.judge(read);
            parsed.map(|_| is_news)
        });
        let looked = looking.await;
        Some(looked.unwrap_or_else(|_| Err("the file could not be looked at".to_owned())))
    }

    /// Takes what the file holds now, unless that was judged before; says whether other policies are in
    /// force now.
    fn judge(&self, read: Result<Vec<u8>, String>) -> bool {
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        // A file that cannot be read is judged once, too.
        if judged.as_ref() == read.as_ref().ok() {
            return false;
        }
        let path = self.path.as_deref().unwrap_or(Path::new(""));
        let parsed = self.parse(path, &read);
        *judged = read.ok();
        match parsed {
            Ok(policies) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policies);
                self.counters.policies_reloads.add(1);
                tracing::info!("the policies changed");
                true
            }
            Err(error) => {
                self.counters.policies_reloads_failed.add(1);
                tracing::error!(
                    error,
                    "the policies cannot be used; the last good ones stay"
                );
                false
            }
        }
    }

    fn parse(&self, path: &Path, read: &Result<Vec<u8>, String>) -> Result<Policies, String> {
        let content = read.as_ref().map_err(Clone::clone)?;
        file::parse(path, content, &self.context_keys).map_err(|error| chain(&error))
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
