//! What the WebSocket front counts: who comes, who is sent away, and what becomes of what it is given.

use touchline_runtime::metrics::{Counter, Gauge, Registry};
use touchline_store::session::Protocol;

use crate::{
    connections::{PostError, mailbox::Put},
    routes::Route,
};

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
    pub(super) fn new(registry: &mut Registry) -> Self {
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
    pub(super) fn new(registry: &mut Registry) -> Self {
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
