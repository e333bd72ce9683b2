//! What is logged on this thread, which is where everything of a test runs.

use std::{cell::RefCell, io, sync::Once};

thread_local! {
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The log of this thread from the moment on at which this was made.
pub(crate) struct Log;

impl Log {
    pub(crate) fn start() -> Self {
        static ONCE: Once = Once::new();
        // One for the process: with one a thread, what another thread logs first would stay off.
        ONCE.call_once(|| {
            tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(|| Writer)
                .init();
        });
        LOG.take();
        Self
    }

    /// Whether it says this.
    pub(crate) fn says(&self, what: &str) -> bool {
        LOG.with_borrow(|log| String::from_utf8_lossy(log).contains(what))
    }
}

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
