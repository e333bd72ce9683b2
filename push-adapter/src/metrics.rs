//! What this process counts and measures. Each struct is for one part, which moves it and knows nothing
//! of names; names, help and labels stand here alone. docs/metrics.md is made from them.

use std::sync::Arc;

use touchline_runtime::metrics::{Age, Counter, Gauge, Histogram, Registry, Seconds};
use touchline_store::{
    Error,
    session::Protocol,
    stream::{PollError, Polled},
};

use crate::{
    connections::{PostError, mailbox::Put},
    routes::Route,
};

/// From what one machine does in a moment to what nobody waits for.
const CHANGE_TO_LAST_BOUNDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
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
                "From the reading of the stream that brought a change to its last message's arrival at \
                 the front; of changes that reached somebody and were not superseded. What came \
                 before that reading is stream_lag",
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

/// The WebSocket front.
#[derive(Debug)]
pub struct FrontMetrics {
    unregistered: Gauge,
    protocol_1: Gauge,
    protocol_2: Gauge,
    /// Fans for whom there was no handshake.
    pub refused: Refusals,
    sendmessage: Counter,
    refresh: Counter,
    default: Counter,
    /// Messages of fans who send too many.
    pub messages_throttled: Counter,
    /// Connections that the front ended.
    pub ended: Endings,
}

/// Connections that the front ended, by why. Those that reached their greatest age, or whose token
/// expired, are nobody's fault and not among them.
#[derive(Debug)]
pub struct Endings {
    /// No message in either direction for too long.
    pub idle: Counter,
    /// No registration came in time.
    pub unregistered: Counter,
    /// The fan did not read.
    pub stalled: Counter,
    /// The fan did not answer a ping.
    pub silent: Counter,
    /// What came was no WebSocket message that is accepted.
    pub invalid: Counter,
    /// The fan sent too much.
    pub flooding: Counter,
    /// Told goodbye by a front that ends.
    pub drained: Counter,
}

/// Handshakes that came to nothing.
#[derive(Debug)]
pub struct Refusals {
    /// There are as many fans as there may be.
    pub full: Counter,
    /// There are as many from this address as there may be.
    pub address_full: Counter,
    /// Nothing is served under this path, or not to this consumer.
    pub forbidden: Counter,
    /// The fan presented no token that is accepted.
    pub unauthenticated: Counter,
    /// It was no handshake, or the fan left.
    pub invalid: Counter,
    /// It took too long.
    pub timeout: Counter,
    /// The page that asked is of an origin that is not allowed.
    pub origin: Counter,
    /// Too many come from this address at once.
    pub throttled: Counter,
}

impl FrontMetrics {
    fn new(registry: &mut Registry) -> Self {
        let [unregistered, protocol_1, protocol_2] = registry.gauges(
            "fans",
            "Fans who are connected to this process, by the protocol that they registered with",
            "protocol",
            ["none", "1", "2"],
        );
        let [full, address_full, forbidden, unauthenticated, invalid, timeout, origin, throttled] = registry.counters(
            "handshakes_refused",
            "Connections that did not become a fan's: the front is full, in all or for one address; the \
             path is not served, or not to this consumer; no token came that is accepted; what came was no \
             handshake; it took too long; the page is of an origin that is not allowed; too many came from \
             one address at once",
            "reason",
            [
                "full",
                "address_full",
                "forbidden",
                "unauthenticated",
                "invalid",
                "timeout",
                "origin",
                "throttled",
            ],
        );
        let [sendmessage, refresh, default] = registry.counters(
            "messages_received",
            "Messages of fans, by the route that they select",
            "route",
            ["sendmessage", "refresh", "default"],
        );
        let [idle, unregistered_too_long, stalled, silent, ended_invalid, flooding, drained] = registry.counters(
            "connections_ended",
            "Connections that the front ended: idle (no message in either direction); unregistered (no \
             registration came in time); stalled (the fan did not read); silent (it did not answer a \
             ping); invalid (it broke the protocol or a limit of it); flooding (it sent too much); \
             drained (the front itself ended)",
            "reason",
            ["idle", "unregistered", "stalled", "silent", "invalid", "flooding", "drained"],
        );
        Self {
            ended: Endings {
                idle,
                unregistered: unregistered_too_long,
                stalled,
                silent,
                invalid: ended_invalid,
                flooding,
                drained,
            },
            unregistered,
            protocol_1,
            protocol_2,
            refused: Refusals {
                full,
                address_full,
                forbidden,
                unauthenticated,
                invalid,
                timeout,
                origin,
                throttled,
            },
            sendmessage,
            refresh,
            default,
            messages_throttled: registry.counter(
                "messages_throttled",
                "Messages that were not looked at, of fans who send too many",
            ),
        }
    }

    /// The fans of one protocol; `None`: who have not registered.
    pub fn fans(&self, protocol: Option<Protocol>) -> &Gauge {
        match protocol {
            None => &self.unregistered,
            Some(Protocol::V1) => &self.protocol_1,
            Some(Protocol::V2) => &self.protocol_2,
        }
    }

    /// Messages that select a route.
    pub fn received(&self, route: Route) -> &Counter {
        match route {
            Route::SendMessage => &self.sendmessage,
            Route::Refresh => &self.refresh,
            Route::Default => &self.default,
        }
    }
}

/// What becomes of messages with an event's state that are offered to a connection of this front.
/// Each is offered once, and comes to one end.
#[derive(Debug)]
pub struct StateMetrics {
    offered: Counter,
    /// Written to the socket.
    pub delivered: Counter,
    conflated: Counter,
    /// Older than what is shown, or for who the fan was before.
    pub stale: Counter,
    /// The connection ended first, or had ended.
    pub closed: Counter,
}

impl StateMetrics {
    fn new(registry: &mut Registry) -> Self {
        let offered = registry.counter(
            "states_offered",
            "Messages with an event's state that were offered to connections of this front. Each comes \
             to one end of touchline_push_states_total, so that the difference is what waits",
        );
        let [delivered, conflated, stale, closed] = registry.counters(
            "states",
            "What became of messages with an event's state: delivered (written to the socket); conflated \
             (a newer state took its place before it was written); stale (older than what the fan was \
             shown, or for another consumer); closed (the connection ended first)",
            "outcome",
            ["delivered", "conflated", "stale", "closed"],
        );
        Self {
            offered,
            delivered,
            conflated,
            stale,
            closed,
        }
    }

    /// A message was offered.
    pub fn offered(&self, put: &Result<Put, PostError>) {
        self.offered.inc();
        match put {
            Ok(Put::Waits) => {}
            Ok(Put::Replaces) => {
                self.conflated.inc();
            }
            Err(PostError::Superseded) => {
                self.stale.inc();
            }
            Err(_) => {
                self.closed.inc();
            }
        }
    }
}
