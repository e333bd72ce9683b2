//! What ends a process from outside: the first SIGINT or SIGTERM (Ctrl-C, a cluster's request) begins
//! shutdown, the second ends the process at once. What shutdown means is for the work to know.

use std::{convert::Infallible, io, process};

use tokio_util::sync::CancellationToken;

/// Exit code of a process that was interrupted: 128 and the number of SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// Does `work` to its end. The first signal cancels `shutdown`, upon which the work has to end; a
/// second one exits with [`INTERRUPTED`], whatever the work does.
///
/// # Errors
/// Signals cannot be listened for; nothing was done.
pub async fn obeying<T>(
    shutdown: &CancellationToken,
    work: impl Future<Output = T>,
) -> io::Result<T> {
    let mut signals = Signals::listen()?;
    let told = async {
        signals.next().await;
        tracing::info!("shutting down; a second signal exits at once");
        shutdown.cancel();
        signals.next().await;
        tracing::warn!("a second signal: exiting at once");
        exit()
    };
    tokio::select! {
        done = work => Ok(done),
        never = told => match never {},
    }
}

fn exit() -> Infallible {
    process::exit(i32::from(INTERRUPTED))
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    // The only test of this process that sends it a signal: a second one would end it.
    #[tokio::test]
    async fn the_first_signal_begins_shutdown_and_the_work_ends_in_order() {
        let shutdown = CancellationToken::new();
        let work = async {
            let this = process::id().to_string();
            let sent = process::Command::new("kill")
                .args(["-TERM", &this])
                .status();
            assert!(sent.unwrap().success());
            shutdown.cancelled().await;
            "ended in order"
        };
        assert_eq!(obeying(&shutdown, work).await.unwrap(), "ended in order");
    }
}
