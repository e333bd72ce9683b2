//! Something made of files, made anew when they change. Looked at when it is used, so that no task has
//! to run for it; what cannot be made of the new files leaves the old in place.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often the files are looked at, at most. Secrets that an orchestrator mounts change by a link, so
/// contents are compared and not times.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Larger than any certificate chain or key set.
const FILE_BYTES_MAX: u64 = 1 << 20;

type Make<T> = Box<dyn Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync>;

/// Something made of files.
pub(crate) struct FromFiles<T> {
    paths: Vec<PathBuf>,
    make: Make<T>,
    held: Mutex<Held<T>>,
}

struct Held<T> {
    contents: Vec<Vec<u8>>,
    /// What could not be used, so that it is said once.
    refused: Option<String>,
    value: Arc<T>,
    looked_at: Instant,
}

impl<T> FromFiles<T> {
    /// Reads the files and makes the first one.
    pub(crate) fn open(
        paths: Vec<PathBuf>,
        make: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let contents = read(&paths)?;
        let value = Arc::new(make(&contents)?);
        Ok(Self {
            paths,
            make: Box::new(make),
            held: Mutex::new(Held {
                contents,
                refused: None,
                value,
                looked_at: Instant::now(),
            }),
        })
    }

    /// The newest one that could be made. Reads a few small files, at most once a second.
    pub(crate) fn current(&self) -> Arc<T> {
        // No code that holds the lock can panic half-way through a change.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.looked_at.elapsed() >= LOOK_EVERY {
            held.looked_at = Instant::now();
            self.look(&mut held);
        }
        held.value.clone()
    }

    fn look(&self, held: &mut Held<T>) {
        let made = read(&self.paths).and_then(|contents| {
            if contents == held.contents {
                return Ok(None);
            }
            let value = (self.make)(&contents)?;
            Ok(Some((contents, value)))
        });
        match made {
            Ok(None) => held.refused = None,
            Ok(Some((contents, value))) => {
                tracing::info!(file = %self.paths[0].display(), "a file changed and was read again");
                (held.contents, held.value, held.refused) = (contents, Arc::new(value), None);
            }
            Err(error) => {
                if held.refused.as_ref() != Some(&error) {
                    tracing::warn!(
                        error,
                        "a file cannot be read again; what was read before stands"
                    );
                    held.refused = Some(error);
                }
            }
        }
    }
}

impl<T> std::fmt::Debug for FromFiles<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_tuple("FromFiles")
            .field(&self.paths)
            .finish()
    }
}

fn read(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, String> {
    let read = |path: &PathBuf| {
        let size = fs::metadata(path)?.len();
        if size > FILE_BYTES_MAX {
            let reason = format!("{size} bytes; at most {FILE_BYTES_MAX} are accepted");
            return Err(io::Error::other(reason));
        }
        fs::read(path)
    };
    let contents = paths.iter().map(|path| {
        read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
    });
    contents.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_and_one_that_cannot_be_used_leaves_the_old_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        fs::write(&path, "1").unwrap();
        let files = FromFiles::open(vec![path.clone()], |contents| {
            let text = String::from_utf8_lossy(&contents[0]).into_owned();
            text.parse::<u32>().map_err(|error| error.to_string())
        })
        .unwrap();
        let look = || {
            let mut held = files.held.lock().unwrap();
            held.looked_at = Instant::now().checked_sub(LOOK_EVERY).unwrap();
            drop(held);
            *files.current()
        };
        assert_eq!(look(), 1);
        fs::write(&path, "2").unwrap();
        assert_eq!(look(), 2);
        fs::write(&path, "two").unwrap();
        assert_eq!(look(), 2);
        fs::remove_file(&path).unwrap();
        assert_eq!(look(), 2);
        fs::write(&path, "3").unwrap();
        assert_eq!(look(), 3);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let made = FromFiles::open(vec![PathBuf::from("/nowhere/key.pem")], |_| Ok(()));
        let error = made.unwrap_err();
        assert!(
            error.starts_with("/nowhere/key.pem cannot be read"),
            "{error}"
        );
    }
}
