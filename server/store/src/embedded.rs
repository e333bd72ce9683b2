//! A DynamoDB in this process, behind its real wire protocol on loopback: `dynoxide`, with what it
//! lacks mended around it (an index on the stream's records, their trimming, TTL sweeps). Makes no
//! table: whoever uses it does that over the wire, as on AWS.
//!
//! It runs on threads of its own, since the engine blocks the thread that a request runs on.
//!
//! Durability: SQLite in WAL mode with its default `synchronous=FULL`: a write that was answered
//! survives `kill -9` and a power cut. In memory nothing survives.

use std::{
    fs::{File, OpenOptions, TryLockError},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use dynoxide::Database;
use tokio::{runtime, time};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use crate::{Error, Result};

mod mend;

/// File of the data in its folder.
const DATA_FILE: &str = "dynamodb.sqlite";
/// File that is locked while a process uses the folder.
const LOCK_FILE: &str = "dynamodb.lock";
/// Threads that serve. One waits while another holds the database, so more bring nothing.
const THREADS: usize = 2;
/// How often expired rows are deleted.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Longest wait for requests that are under way when it stops.
const STOP_WAIT_MAX: Duration = Duration::from_secs(2);

/// Where an embedded DynamoDB keeps its data.
#[derive(Debug, Clone)]
pub enum Place {
    /// In memory: gone when it stops.
    Memory,
    /// In this folder, which only one process can use at a time. Made when absent.
    Folder(PathBuf),
}

/// A running embedded DynamoDB. Dropping it stops it; [`Embedded::stop`] waits.
pub struct Embedded {
    address: SocketAddr,
    database: Database,
    ended: CancellationToken,
    stopping: CancellationToken,
    stop: DropGuard,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("Embedded");
        debug
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the data and serves it on `listen` (port 0: any free one).
    ///
    /// A port that is taken is `Error::Misconfigured` whose source is the `std::io::Error`
    /// (`AddrInUse`), so that the caller can name the flag that moves it. So is a folder that another
    /// process uses (`WouldBlock`).
    pub async fn start(place: Place, listen: SocketAddr) -> Result<Self> {
        // The port comes first: it is what goes wrong most, and nothing is left behind.
        let listener = bind(listen)?;
        let opened = tokio::task::spawn_blocking(move || open(&place)).await;
        let (database, lock) = opened.map_err(|panic| Error::Unavailable(Box::new(panic)))??;
        let address = listener.local_addr().map_err(|source| io(listen, source))?;
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let serving = Serving {
            listener,
            database: database.clone(),
            lock,
            stop: stop.clone(),
            end: ended.clone().drop_guard(),
        };
        thread::Builder::new()
            .name("dynamodb".to_owned())
            .spawn(move || serving.run())
            .map_err(|source| io(listen, source))?;
        Ok(Self {
            address,
            database,
            ended,
            stopping: stop.clone(),
            stop: stop.drop_guard(),
        })
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Deletes the rows that have expired, as it does by itself once a minute; says how many.
    pub async fn sweep_ttl(&self) -> Result<usize> {
        sweep(self.database.clone()).await
    }

    /// Waits until it has ended: its thread, however that came about.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Begins to end serving; [`Self::stop`] does too, and waits.
    pub fn begin_stop(&self) {
        self.stopping.cancel();
    }

    /// Ends serving and closes the data: when this returns the folder can be opened again.
    pub async fn stop(self) {
        let Self {
            database,
            ended,
            stop,
            ..
        } = self;
        drop(database);
        drop(stop);
        ended.cancelled().await;
    }
}

/// What the serving thread owns. The lock goes last, once the data is closed.
struct Serving {
    listener: TcpListener,
    database: Database,
    lock: Option<File>,
    stop: CancellationToken,
    /// Dropped when the thread ends, in a panic too.
    end: DropGuard,
}

impl Serving {
    fn run(self) {
        let Self {
            listener,
            database,
            lock,
            stop,
            end,
        } = self;
        let built = runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("dynamodb")
            .enable_all()
            .build();
        match built {
            Ok(runtime) => {
                runtime.block_on(serve(listener, database, stop));
                // Ends connections that would not.
                runtime.shutdown_timeout(STOP_WAIT_MAX);
            }
            Err(error) => warn!(%error, "the embedded DynamoDB got no threads"),
        }
        drop(lock);
        drop(end);
    }
}

async fn serve(listener: TcpListener, database: Database, stop: CancellationToken) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(%error, "the embedded DynamoDB cannot listen");
            return;
        }
    };
    let until = stop.clone().cancelled_owned();
    let serving = dynoxide::server::serve_with_shutdown(listener, database.clone(), until);
    let stopping = async {
        sweep_until(database, &stop).await;
        time::sleep(STOP_WAIT_MAX).await;
    };
    tokio::select! {
        served = serving => {
            if let Err(error) = served {
                warn!(error, "the embedded DynamoDB ended");
            }
        }
        () = stopping => {}
    }
}

async fn sweep_until(database: Database, stop: &CancellationToken) {
    let mut ticks = time::interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = sweep(database.clone()).await {
            warn!(%error, "expired rows could not be deleted; tried again in a minute");
        }
    }
}

async fn sweep(database: Database) -> Result<usize> {
    let swept = tokio::task::spawn_blocking(move || database.sweep_ttl()).await;
    let swept = swept.map_err(|panic| Error::Unavailable(Box::new(panic)))?;
    swept.map_err(|error| Error::Unavailable(Box::new(error)))
}

fn bind(listen: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(listen).map_err(|source| io(listen, source))?;
    listener
        .set_nonblocking(true)
        .map_err(|source| io(listen, source))?;
    Ok(listener)
}

fn open(place: &Place) -> Result<(Database, Option<File>)> {
    /// Names memory databases apart: they are shared by name within a process.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    match place {
        Place::Memory => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("file:touchline-{number}?mode=memory&cache=shared");
            Ok((open_data(&name)?, None))
        }
        Place::Folder(folder) => {
            let failed = |source| io(folder.display(), source);
            std::fs::create_dir_all(folder).map_err(failed)?;
            // An absolute path is never mistaken for a URI.
            let folder = folder.canonicalize().map_err(failed)?;
            let lock = lock(&folder)?;
            let file = folder.join(DATA_FILE);
            let file = file.to_str().ok_or_else(|| Error::Misconfigured {
                what: format!("{}: the path is not UTF-8", folder.display()),
                source: None,
            })?;
            Ok((open_data(file)?, Some(lock)))
        }
    }
}

fn open_data(name: &str) -> Result<Database> {
    let database = Database::new(name).map_err(|error| Error::Misconfigured {
        what: format!("the data in {name} cannot be opened: {error}"),
        source: Some(Box::new(error)),
    })?;
    mend::stream_records(name, mend::RETENTION).map_err(|error| Error::Misconfigured {
        what: format!("the data in {name} is not as this version of dynoxide lays it out: {error}"),
        source: Some(Box::new(error)),
    })?;
    Ok(database)
}

fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| io(path.display(), source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Misconfigured {
            what: format!(
                "the data folder {} is in use by another process",
                folder.display()
            ),
            source: Some(Box::new(std::io::Error::from(
                std::io::ErrorKind::WouldBlock,
            ))),
        }),
        Err(TryLockError::Error(source)) => Err(io(path.display(), source)),
    }
}

fn io(place: impl std::fmt::Display, source: std::io::Error) -> Error {
    Error::Misconfigured {
        what: format!("{place}: {source}"),
        source: Some(Box::new(source)),
    }
}
