//! Who writes to the sockets of this process: a few writers, each with a share of the connections. A
//! fan-out wakes each of them once, not ten thousand tasks; a connection stands in its writer's line at
//! most once, however much is posted to it meanwhile. Does not know what is written.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::available_parallelism,
};

use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::connection::Connection;

/// Connections that are written to before others have a turn on the writer's thread.
const TURN: usize = 32;

/// The writers.
#[derive(Debug)]
pub struct Writers {
    writers: Box<[Arc<Writer>]>,
    next: AtomicUsize,
}

/// One of them.
#[derive(Debug, Default)]
pub struct Writer {
    /// Connections for which something waits, in the order in which it came.
    line: Mutex<VecDeque<Arc<Connection>>>,
    wake: Notify,
}

impl Writers {
    /// One for each processor. They write once they [`run`](Self::run).
    pub fn new() -> Self {
        let count = available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            writers: (0..count).map(|_| Arc::default()).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// The writer of a new connection.
    pub fn assign(&self) -> Arc<Writer> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.writers[next % self.writers.len()].clone()
    }

    /// Writes until `stopping`.
    pub fn run(&self, tracker: &TaskTracker, stopping: &CancellationToken) {
        for writer in &self.writers {
            let writer = writer.clone();
            let stopping = stopping.clone();
            tracker.spawn(stopping.run_until_cancelled_owned(async move { writer.run().await }));
        }
    }
}

impl Default for Writers {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// Puts a connection into the line. Whoever calls makes sure that it does not stand there.
    pub(super) fn enter(&self, connection: Arc<Connection>) {
        let mut line = self.lock();
        let is_first = line.is_empty();
        line.push_back(connection);
        drop(line);
        if is_first {
            self.wake.notify_one();
        }
    }

    async fn run(&self) {
        loop {
            self.wake.notified().await;
            loop {
                let line = std::mem::take(&mut *self.lock());
                if line.is_empty() {
                    break;
                }
                for (place, connection) in line.into_iter().enumerate() {
                    connection.write();
                    if place % TURN == TURN - 1 {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Connection>>> {
        // No code that holds the lock can panic half-way through a change.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
