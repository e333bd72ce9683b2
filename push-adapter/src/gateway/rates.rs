//! How much all connections of one address, or of one consumer, may ask for together. What one
//! connection may is in `rate`.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
};

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::{config::FanLimits, connections::connection::Connection};

/// Seconds' worth that may come at once.
const BURST_SECONDS: u32 = 5;

/// Questions after which who asked nothing lately is forgotten.
const FORGET_EVERY: u32 = 10_000;

/// The limits that connections share.
#[derive(Debug)]
pub struct Rates {
    handshakes: DefaultDirectRateLimiter,
    address_handshakes: DefaultKeyedRateLimiter<IpAddr>,
    address_messages: DefaultKeyedRateLimiter<IpAddr>,
    consumer_messages: DefaultKeyedRateLimiter<String>,
    asked: AtomicU32,
}

impl Rates {
    /// Nobody has asked for anything.
    pub fn new(limits: &FanLimits) -> Self {
        let quota = |per_second: u32| {
            let per_second = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
            let burst =
                per_second.saturating_mul(NonZeroU32::MIN.saturating_add(BURST_SECONDS - 1));
            Quota::per_second(per_second).allow_burst(burst)
        };
        // A crowd is let in at this rate from its first fan on: a burst is what it would be.
        let handshakes = NonZeroU32::new(limits.handshakes_per_second).unwrap_or(NonZeroU32::MIN);
        let at_once = NonZeroU32::new(handshakes.get() / 10).unwrap_or(NonZeroU32::MIN);
        Self {
            handshakes: RateLimiter::direct(Quota::per_second(handshakes).allow_burst(at_once)),
            address_handshakes: RateLimiter::keyed(quota(limits.handshakes_per_address)),
            address_messages: RateLimiter::keyed(quota(limits.messages_per_address)),
            consumer_messages: RateLimiter::keyed(quota(limits.messages_per_consumer)),
            asked: AtomicU32::new(0),
        }
    }

    /// Waits until one more fan may come in.
    pub(super) async fn admit(&self) {
        self.handshakes.until_ready().await;
    }

    /// Whether this address may have one more handshake.
    pub(super) fn allow_handshake(&self, address: IpAddr) -> bool {
        self.forget();
        self.address_handshakes.check_key(&address).is_ok()
    }

    /// Whether the address and the consumer of a connection may send one more message.
    pub(super) fn allow_message(&self, connection: &Connection) -> bool {
        self.forget();
        let by_address = self.address_messages.check_key(&connection.source_ip);
        by_address.is_ok()
            && connection
                .consumer()
                .is_none_or(|consumer| self.consumer_messages.check_key(&consumer).is_ok())
    }

    /// Whoever has not asked for a while has all of their allowance again, and need not be known.
    fn forget(&self) {
        if self.asked.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.address_handshakes.retain_recent();
            self.address_messages.retain_recent();
            self.consumer_messages.retain_recent();
        }
    }
}
