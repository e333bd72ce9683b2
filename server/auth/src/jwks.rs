//! The issuer's keys, from a URL or a file: cached, fetched again when they are old, and when a token
//! names a key that is not among them, since that is how keys are rotated. Fetched by whoever needs
//! them, so that no task has to run for it and a frozen Lambda finds them old when it wakes.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{sync::Mutex, time::timeout};

use crate::{files::FromFiles, keys::KeySet};

/// One fetch takes at most this long; who waits for it is a caller.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between two fetches, whoever asks: tokens that name unknown keys cost the issuer no more.
const FETCH_PAUSE: Duration = Duration::from_secs(5);
/// Keys that could not be fetched again for so long are no longer believed.
const AGE_MAX: Duration = Duration::from_hours(24);
/// Larger than any key set.
const BYTES_MAX: usize = 256 << 10;

/// Where the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksPlace {
    /// `https://`, or `http://` on this machine.
    Url(Uri),
    /// A file, read again when it changes.
    File(PathBuf),
}

impl std::str::FromStr for JwksPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let accepted = "an https:// URL, an http:// URL of this machine, or a file is accepted";
        if !text.contains("://") {
            return match text {
                "" => Err(accepted.to_owned()),
                path => Ok(Self::File(PathBuf::from(path))),
            };
        }
        let uri: Uri = text.parse().map_err(|_| accepted.to_owned())?;
        let host = uri.host().unwrap_or_default();
        let is_here = ["127.0.0.1", "localhost", "[::1]"].contains(&host);
        match uri.scheme_str() {
            Some("https") if !host.is_empty() => Ok(Self::Url(uri)),
            // Keys that come over plain text are whoever's is on the way.
            Some("http") if is_here => Ok(Self::Url(uri)),
            _ => Err(accepted.to_owned()),
        }
    }
}

/// Why a key cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoKeys {
    /// The issuer's keys were never fetched, or not for too long.
    Unavailable,
}

/// The keys.
#[derive(Debug)]
pub(crate) enum Jwks {
    File(FromFiles<KeySet>),
    Fetched(Box<Fetched>),
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

pub(crate) struct Fetched {
    uri: Uri,
    refresh: Duration,
    http: HttpClient,
    cache: RwLock<Option<Cached>>,
    /// When a fetch was last begun; held while one is under way.
    fetching: Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct Cached {
    keys: Arc<KeySet>,
    fetched_at: Instant,
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Fetched").field(&self.uri).finish()
    }
}

impl Jwks {
    /// A file is read at once, a URL when a key is first needed.
    pub(crate) fn open(place: &JwksPlace, refresh: Duration) -> Result<Self, String> {
        match place {
            JwksPlace::File(path) => {
                let shown = path.display().to_string();
                let make = move |contents: &[Vec<u8>]| {
                    KeySet::parse(&contents[0]).map_err(|reason| format!("{shown} {reason}"))
                };
                Ok(Self::File(FromFiles::open(vec![path.clone()], make)?))
            }
            JwksPlace::Url(uri) => {
                let provider = tokio_rustls::rustls::crypto::ring::default_provider();
                let https = HttpsConnectorBuilder::new()
                    .with_provider_and_native_roots(provider)
                    .map_err(|error| format!("the system's certificates cannot be read: {error}"))?
                    .https_or_http()
                    .enable_http1()
                    .build();
                Ok(Self::Fetched(Box::new(Fetched {
                    uri: uri.clone(),
                    refresh,
                    http: Client::builder(TokioExecutor::new()).build(https),
                    cache: RwLock::default(),
                    fetching: Mutex::default(),
                })))
            }
        }
    }

    /// The keys as they are known, fetched again where they are old.
    pub(crate) async fn keys(&self) -> Result<Arc<KeySet>, NoKeys> {
        match self {
            Self::File(file) => Ok(file.current()),
            Self::Fetched(fetched) => fetched.keys().await,
        }
    }

    /// The keys after a look for new ones; `None` if it is too early for that.
    pub(crate) async fn newer(&self, than: &Arc<KeySet>) -> Option<Arc<KeySet>> {
        match self {
            Self::File(_) => None,
            Self::Fetched(fetched) => fetched.newer(than).await,
        }
    }
}

impl Fetched {
    async fn keys(&self) -> Result<Arc<KeySet>, NoKeys> {
        let cached = self.cached();
        let age = cached.as_ref().map(|cached| cached.fetched_at.elapsed());
        match (cached, age) {
            (Some(cached), Some(age)) if age < self.refresh => Ok(cached.keys),
            (Some(cached), Some(age)) if age < AGE_MAX => {
                // Whoever finds it old fetches; the others go on with what there is.
                if let Ok(begun) = self.fetching.try_lock() {
                    self.fetch(begun).await;
                }
                Ok(self.cached().map_or(cached.keys, |now| now.keys))
            }
            _ => {
                let begun = self.fetching.lock().await;
                // Somebody else may have fetched them while this one waited.
                if self.fresh().is_none() {
                    self.fetch(begun).await;
                }
                self.fresh().ok_or(NoKeys::Unavailable)
            }
        }
    }

    async fn newer(&self, than: &Arc<KeySet>) -> Option<Arc<KeySet>> {
        let begun = self.fetching.lock().await;
        let now = self.fresh();
        if now.as_ref().is_some_and(|now| Arc::ptr_eq(now, than)) {
            self.fetch(begun).await;
        }
        self.fresh().filter(|now| !Arc::ptr_eq(now, than))
    }

    fn cached(&self) -> Option<Cached> {
        // No code that holds the lock can panic half-way through a change.
        let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
        cache.clone()
    }

    fn fresh(&self) -> Option<Arc<KeySet>> {
        let cached = self.cached()?;
        (cached.fetched_at.elapsed() < AGE_MAX).then_some(cached.keys)
    }

    /// Fetches, unless that was tried a moment ago.
    async fn fetch(&self, mut begun: tokio::sync::MutexGuard<'_, Option<Instant>>) {
        if begun.is_some_and(|begun| begun.elapsed() < FETCH_PAUSE) {
            return;
        }
        *begun = Some(Instant::now());
        let fetched = timeout(FETCH_TIMEOUT, self.get());
        let fetched = fetched
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()));
        match fetched.and_then(|json| KeySet::parse(&json)) {
            Ok(keys) => {
                let cached = Cached {
                    keys: Arc::new(keys),
                    fetched_at: Instant::now(),
                };
                *self.cache.write().unwrap_or_else(PoisonError::into_inner) = Some(cached);
            }
            Err(error) => {
                tracing::warn!(error, jwks = %self.uri, "the issuer's keys cannot be fetched");
            }
        }
    }

    async fn get(&self) -> Result<Bytes, String> {
        let request = Request::get(self.uri.clone())
            .header("accept", "application/json")
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let answer = self.http.request(request).await;
        let answer = answer.map_err(|_| "it cannot be reached".to_owned())?;
        if answer.status() != StatusCode::OK {
            return Err(format!("status {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), BYTES_MAX).collect().await;
        let body = body.map_err(|_| format!("more than {BYTES_MAX} bytes, or cut off"))?;
        Ok(body.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        for good in [
            "https://issuer.example/.well-known/jwks.json",
            "http://127.0.0.1:8080/jwks",
            "http://localhost/jwks",
            "http://[::1]:1/jwks",
        ] {
            assert!(matches!(good.parse(), Ok(JwksPlace::Url(_))), "{good}");
        }
        assert!(matches!("keys.json".parse(), Ok(JwksPlace::File(_))));
        for bad in [
            "",
            "http://issuer.example/jwks",
            "ftp://issuer.example/jwks",
            "https://",
        ] {
            let error = bad.parse::<JwksPlace>().unwrap_err();
            assert!(error.contains("https:// URL"), "{bad}: {error}");
        }
    }
}
