//! Measures when the last message of a fan-out reached its front. Decides nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

/// Carried by each message of a fan-out. A message that is dropped on its way ends its part too.
#[derive(Debug, Clone)]
pub struct Mark(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    marks: Arc<Marks>,
}

#[derive(Debug)]
struct Marks {
    began: Instant,
    last_nanoseconds: AtomicU64,
    ended: CancellationToken,
}

/// What became of the messages of a fan-out.
#[derive(Debug)]
pub struct Measurement(Arc<Marks>);

/// Starts measuring from `began`.
pub fn measure(began: Instant) -> (Mark, Measurement) {
    let marks = Arc::new(Marks {
        began,
        last_nanoseconds: AtomicU64::new(0),
        ended: CancellationToken::new(),
    });
    let shared = Shared {
        marks: marks.clone(),
    };
    (Mark(Arc::new(shared)), Measurement(marks))
}

impl Mark {
    /// A message reached its front.
    pub fn delivered(&self, at: Instant) {
        let marks = &self.0.marks;
        let nanoseconds = at.saturating_duration_since(marks.began).as_nanos();
        let nanoseconds = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
        marks
            .last_nanoseconds
            .fetch_max(nanoseconds, Ordering::Relaxed);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.marks.ended.cancel();
    }
}

impl Measurement {
    /// The time from the beginning to the last message, once each was delivered or dropped, or
    /// `patience` is over: whoever reads slowly does not hold up the figure.
    pub async fn last(self, patience: Duration) -> Duration {
        // Either way the figure so far is what there is to say.
        let _ = tokio::time::timeout(patience, self.0.ended.cancelled()).await;
        Duration::from_nanos(self.0.last_nanoseconds.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_delivery_counts_and_a_dropped_message_holds_nothing_up() {
        let began = Instant::now();
        let (mark, measurement) = measure(began);
        let (first, second, dropped) = (mark.clone(), mark.clone(), mark);
        second.delivered(began + Duration::from_millis(30));
        first.delivered(began + Duration::from_millis(20));
        drop((first, second, dropped));
        assert_eq!(
            measurement.last(Duration::from_secs(60)).await,
            Duration::from_millis(30)
        );
    }

    #[tokio::test]
    async fn a_message_that_waits_for_ever_costs_the_patience_only() {
        let began = Instant::now();
        let (mark, measurement) = measure(began);
        mark.delivered(began + Duration::from_millis(5));
        let last = measurement.last(Duration::from_millis(10)).await;
        assert_eq!(last, Duration::from_millis(5));
        drop(mark);
    }
}
