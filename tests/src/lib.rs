//! What the end-to-end tests stand on: fans, AWS clients and processes, all of them real. No
//! assertion about Touchline's behaviour lives here; those are in `tests/*.rs`.

pub mod alone;
pub mod calls;
pub mod campaign;
pub mod collector;
pub mod dynamodb;
pub mod fan;
pub mod local;
pub mod personalize;
pub mod process;
pub mod rows;
pub mod stack;

use std::time::Duration;

/// How long a test waits for something that must happen. Generous, since the machine may be busy;
/// nothing waits for it to pass.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Calls `look` until it gives a value. Panics with `what` when the deadline passes.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < end, "never happened: {what}");
        // Not a wait for the thing itself but the pace of looking for it.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
