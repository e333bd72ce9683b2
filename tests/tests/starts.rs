//! What happens in the very moment in which a stack starts is lost no more than what happens later.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};
use touchline_tests::{calls, eventually, fan::Fan, local::Ports};

/// Starts of a stack.
const STARTS: usize = 12;

/// Keeps the cores busy until it is dropped, so that every step of a start takes its time.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn start() -> Self {
        let busy = Self(Arc::new(AtomicBool::new(true)));
        for _ in 0..2 {
            let is_busy = busy.0.clone();
            thread::spawn(move || while is_busy.load(Ordering::Relaxed) {});
        }
        busy
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_written_while_a_stack_starts_reaches_who_connects_meanwhile()
-> Result<()> {
    let _busy = Busy::start();
    for start in 0..STARTS {
        let ports = Ports::free()?;
        let stack = ports
            .start(&["--memory", "--no-replay", "--fans", "0"])
            .await?;
        let client = ports.client()?;
        // Half of the fans come before the write.
        let early = Fan::protocol_2(&ports.gateway(), "diego", "final").await?;
        let written = eventually("the server takes a write", || {
            let client = client.clone();
            async move {
                let attributes = [("match_event", format!("START-{start}"))];
                calls::merge_event(&client, "1", attributes).await.ok()
            }
        })
        .await;
        let late = Fan::protocol_2(&ports.gateway(), "camille", "final").await?;
        for (who, mut fan) in [("early", early), ("late", late)] {
            fan.receive_until(|message| message["version"] == *written.version)
                .await
                .with_context(|| format!("start {start}, who comes {who}"))?;
        }
        stack.kill_9().await?;
    }
    Ok(())
}
