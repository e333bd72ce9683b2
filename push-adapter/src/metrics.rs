//! What this process counts and measures. Each struct is for one part, which moves it and knows nothing
//! of names; names, help and labels stand here alone. docs/metrics.md is made from them.

use std::{sync::Arc, time::Duration};

use touchline_runtime::{
    metrics::{Age, Counter, Gauge, Histogram, Registry, Seconds},
    traces::SpanMetrics,
};
use touchline_store::{
    Error,
    stream::{PollError, Polled},
};

use crate::connections::PostError;

mod front;

pub use front::{Endings, FrontMetrics, Refusals, StateMetrics};

/// From what one machine does in a moment to what nobody waits for, finest around what fans notice.
const CHANGE_TO_LAST_BOUNDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0,
    10.0, 30.0, 60.0,
];

/// Everything that is shown of a push adapter.
#[derive(Debug)]
pub struct Metrics {
    /// Leading, and getting to.
    pub leader: LeaderMetrics,
    /// Reading the stream.
    pub stream: StreamMetrics,
    /// Fanning changes out.
    pub fan_out: FanOutMetrics,
    /// The WebSocket front.
    pub front: FrontMetrics,
    /// What becomes of states at the front.
    pub states: Arc<StateMetrics>,
    /// Streams of the change feed that are open.
    pub feed_followers: Gauge,
    /// Of traces.
    pub spans: SpanMetrics,
}

impl Metrics {
    /// All at zero, and where they are registered.
    pub fn new() -> (Self, Registry) {
        let mut registry = Registry::new("touchline_push");
        let metrics = Self {
            leader: LeaderMetrics::new(&mut registry),
            stream: StreamMetrics::new(&mut registry),
            fan_out: FanOutMetrics::new(&mut registry),
            front: FrontMetrics::new(&mut registry),
            states: Arc::new(StateMetrics::new(&mut registry)),
            feed_followers: registry.gauge(
                "feed_followers",
                "Servers and other push adapters that follow this one's change feed",
            ),
            spans: SpanMetrics::new(&mut registry),
        };
        (metrics, registry)
    }
}

/// Leading, and getting to.
#[derive(Debug)]
pub struct LeaderMetrics {
    /// Whether this process leads: 0 or 1.
    pub is_leading: Gauge,
    /// Terms of leadership that began.
    pub terms: Counter,
    /// Renewals of the lease.
    pub renewed: Counter,
    /// Renewals that failed and were tried again.
    pub renewals_failed: Counter,
    /// Leases that were taken by another process, or not renewed in time.
    pub lost: Counter,
}

impl LeaderMetrics {
    fn new(registry: &mut Registry) -> Self {
        let is_leading = registry.gauge(
            "leader",
            "1 while this process leads, which is to say reads the stream and pushes; 0 otherwise. \
             The sum over all replicas is 1, for seconds at most 0",
        );
        let terms = registry.counter("terms", "Terms of leadership that began");
        let [renewed, renewals_failed, lost] = registry.counters(
            "lease_renewals",
            "Attempts to renew the lease: renewed, failed and tried again, or the lease was lost, by \
             being taken or by not being renewed in time",
            "outcome",
            ["renewed", "failed", "lost"],
        );
        Self {
            is_leading,
            terms,
            renewed,
            renewals_failed,
            lost,
        }
    }
}

/// Reading the stream. All of it stands still while another process leads.
#[derive(Debug)]
pub struct StreamMetrics {
    /// Readings, by how they went.
    readings: Readings,
    /// Records that were read.
    pub records: Counter,
    /// Records that could not be understood.
    pub poison: Counter,
    /// Changes that a newer one of the same event replaced before they were looked at.
    pub conflated: Counter,
    /// Changes that decided nothing: display attributes alone, or a repeat.
    pub display_only: Counter,
    /// Since the stream was last read to its tip.
    age: Age,
    /// How old the newest record was when it was read.
    pub lag: Seconds,
}

#[derive(Debug)]
struct Readings {
    read: Counter,
    throttled: Counter,
    failed: Counter,
    gap: Counter,
    replaced: Counter,
}

impl StreamMetrics {
    fn new(registry: &mut Registry) -> Self {
        let [read, throttled, failed, gap, replaced] = registry.counters(
            "stream_readings",
            "Readings of the stream: read; throttled, in whole or of one shard; failed and tried again; \
             or the place in it was lost, by a gap (unread records are gone) or because the table has \
             another stream, upon which the rows are read instead",
            "outcome",
            ["read", "throttled", "failed", "gap", "replaced"],
        );
        Self {
            readings: Readings {
                read,
                throttled,
                failed,
                gap,
                replaced,
            },
            records: registry.counter("stream_records", "Records that were read of the stream"),
            poison: registry.counter(
                "stream_records_poison",
                "Records that could not be understood: logged with their sequence number, skipped",
            ),
            conflated: registry.counter(
                "changes_conflated",
                "Changes that a newer one of the same event replaced before they were looked at",
            ),
            display_only: registry.counter(
                "changes_display_only",
                "Changes that fans are not told of: display attributes alone, or a repeat",
            ),
            age: registry.age(
                "stream_age",
                "Time since this leader last read the stream to its tip; absent on a standby",
            ),
            lag: registry.seconds(
                "stream_lag",
                "Age of the newest record when it was read, by two machines' clocks; DynamoDB dates \
                 records to the second. 0 on a standby",
            ),
        }
    }

    /// The stream was read, or could not be.
    pub fn reading(&self, polled: &Result<Polled, PollError>) {
        match polled {
            Ok(polled) if polled.is_throttled => self.readings.throttled.inc(),
            Ok(_) => self.readings.read.inc(),
            Err(PollError::Store(Error::Throttled(_))) => self.readings.throttled.inc(),
            Err(PollError::Store(_)) => self.readings.failed.inc(),
            Err(PollError::Gap) => self.readings.gap.inc(),
            Err(PollError::Replaced) => self.readings.replaced.inc(),
        };
    }

    /// What was read reached the leader.
    pub fn read(&self, polled: &Polled) {
        self.records.inc_by(polled.records as u64);
        self.poison.inc_by(polled.poison as u64);
        if polled.is_at_tip {
            self.age.begin();
        }
        if let Some(written_at) = polled.written_at {
            // Before the record was written, by this machine's clock, is as good as at once.
            self.lag
                .set(written_at.elapsed().unwrap_or_default().as_secs_f64());
        }
    }

    /// Since the stream was last read to its tip; `None` on a standby.
    pub fn age(&self) -> Option<Duration> {
        self.age.elapsed()
    }

    /// Another process reads it now, if any does.
    pub fn left(&self) {
        self.age.end();
        self.lag.set(0.0);
    }
}

/// Fanning changes out.
#[derive(Debug)]
pub struct FanOutMetrics {
    /// Fan-outs that began.
    pub begun: Counter,
    /// Fan-outs that a newer state ended early.
    pub superseded: Counter,
    /// Messages that were pushed or were to be.
    pushes: Pushes,
    /// Second looks that found somebody.
    second_looks: Counter,
    /// Whom they found.
    second_look_fans: Counter,
    /// From the reading of a change to its last message.
    pub change_to_last: Histogram,
}

#[derive(Debug)]
struct Pushes {
    delivered: Counter,
    gone: Counter,
    full: Counter,
    refused: Counter,
    throttled: Counter,
    unavailable: Counter,
    superseded: Counter,
    lapsed: Counter,
}

impl FanOutMetrics {
    fn new(registry: &mut Registry) -> Self {
        Self {
            change_to_last: registry.histogram(
                "change_to_last",
                "From the leader's reading of the stream that brought a change to its last message's \
                 arrival at the front, at a gateway too; of changes that reached somebody and were not \
                 superseded. What came before that reading is stream_lag",
                CHANGE_TO_LAST_BOUNDS,
            ),
            begun: registry.counter("fan_outs", "Changes that fans are told of"),
            superseded: registry.counter(
                "fan_outs_superseded",
                "Fan-outs that a newer state of the same event ended early",
            ),
            pushes: Pushes::new(registry),
            second_looks: registry.counter(
                "second_looks",
                "Second looks that found somebody who registered shortly before or during a fan-out",
            ),
            second_look_fans: registry.counter(
                "second_look_fans",
                "Fans whom second looks found",
            ),
        }
    }

    /// A message was posted, or was not.
    pub fn pushed(&self, posted: &Result<(), PostError>) {
        let pushes = &self.pushes;
        let counter = match posted {
            Ok(()) => &pushes.delivered,
            Err(PostError::Gone) => &pushes.gone,
            Err(PostError::Full) => &pushes.full,
            Err(PostError::Refused(_)) => &pushes.refused,
            Err(PostError::Throttled) => &pushes.throttled,
            Err(PostError::Unavailable(_)) => &pushes.unavailable,
            Err(PostError::Superseded) => &pushes.superseded,
            Err(PostError::Lapsed) => &pushes.lapsed,
        };
        counter.inc();
    }

    /// A second look found so many fans.
    pub fn second_look(&self, fans: usize) {
        self.second_looks.inc();
        self.second_look_fans.inc_by(fans as u64);
    }

    /// Messages that their front took.
    pub fn delivered(&self) -> u64 {
        self.pushes.delivered.get()
    }
}

impl Pushes {
    fn new(registry: &mut Registry) -> Self {
        let [
            delivered,
            gone,
            full,
            refused,
            throttled,
            unavailable,
            superseded,
            lapsed,
        ] = registry.counters(
            "pushes",
            "Messages to fans: delivered (their front took them); gone (the connection is closed); full \
             (the fan does not read); refused or unavailable (by the front); throttled (until the \
             push's deadline, then tried again); superseded (something newer was on its way); lapsed \
             (the lease had ended)",
            "outcome",
            [
                "delivered",
                "gone",
                "full",
                "refused",
                "throttled",
                "unavailable",
                "superseded",
                "lapsed",
            ],
        );
        Self {
            delivered,
            gone,
            full,
            refused,
            throttled,
            unavailable,
            superseded,
            lapsed,
        }
    }
}
