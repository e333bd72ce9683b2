//! The end of a front: its fans are sent to others in waves, so that they do not all arrive there at
//! once. Whoever is still here goes on being served.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::task::TaskTracker;

use super::Gateway;
use crate::connections::closing::Closing;

/// From one wave to the next.
const WAVE: Duration = Duration::from_millis(100);

/// Few fans need no waves.
const WAVE_FANS_MIN: usize = 20;

/// The part of the time in which fans are sent away; the rest is for goodbyes.
const SENDING: f64 = 0.7;

/// A fan comes back within this: who is sent away in one wave does not come back at one moment. Longer
/// would spare the others nothing, since the waves are spread over the time already.
const RETRY_AFTER_MAX: Duration = Duration::from_millis(500);

/// Sends all fans away within `time`.
pub(super) async fn send_away(gateway: &Arc<Gateway>, fans: &TaskTracker, time: Duration) {
    let (began, sending) = (Instant::now(), time.mul_f64(SENDING));
    let deadline = began + time;
    let connections = gateway.local.all();
    let total = connections.len();
    let mut left = connections.into_iter();
    loop {
        let is_last = began.elapsed() + WAVE >= sending;
        let due = match is_last {
            true => total,
            false => due(total, began.elapsed() + WAVE, sending),
        };
        let wave = due.saturating_sub(total - left.len());
        for connection in left.by_ref().take(wave.max(WAVE_FANS_MIN)) {
            gateway.metrics.front.ended.drained.inc();
            connection.close(Closing::restarting(retry_after()));
        }
        if left.len() == 0 {
            break;
        }
        tokio::time::sleep(WAVE).await;
    }
    // Those whose handshake came to an end meanwhile.
    let is_over = async {
        while !fans.is_empty() {
            for connection in gateway.local.all() {
                connection.close(Closing::restarting(retry_after()));
            }
            let _ = tokio::time::timeout(WAVE, fans.wait()).await;
        }
    };
    if tokio::time::timeout_at(deadline.into(), is_over)
        .await
        .is_err()
    {
        let left = fans.len();
        tracing::warn!(total, left, "fans were not closed in time");
    }
}

/// How many of all are to have been sent away after some of the time.
fn due(total: usize, passed: Duration, sending: Duration) -> usize {
    let part = passed.as_secs_f64() / sending.as_secs_f64().max(f64::MIN_POSITIVE);
    ((total as f64 * part) as usize).min(total)
}

fn retry_after() -> Duration {
    RETRY_AFTER_MAX.mul_f64(rand::random_range(0.0..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_are_of_equal_size_and_the_last_takes_everybody() {
        let sending = Duration::from_secs(1);
        let after = |millis| due(1_000, Duration::from_millis(millis), sending);
        assert_eq!(
            [after(100), after(500), after(1_000), after(2_000)],
            [100, 500, 1_000, 1_000]
        );
        assert_eq!(due(0, Duration::from_millis(100), sending), 0);
    }
}
