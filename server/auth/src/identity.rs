//! Who a caller is, once what they presented was verified.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use crate::scopes::{Scope, Scopes};

/// A verified caller.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The consumer that the caller is; `None` for one that is no person, such as a client
    /// certificate.
    pub consumer_id: Option<String>,
    /// What they may do.
    pub scopes: Scopes,
    /// From when on they are nobody; `None` for as long as the connection stands.
    pub expires_at: Option<SystemTime>,
}

impl Identity {
    /// Whether this is the consumer, or may act for anyone by `any`.
    pub fn may_act_for(&self, consumer_id: &str, any: Scope) -> bool {
        self.scopes.has(any) || self.consumer_id.as_deref() == Some(consumer_id)
    }

    /// How long from now until the identity has expired; `None` if it never does.
    pub fn expires_in(&self, now: SystemTime) -> Option<Duration> {
        let expires_at = self.expires_at?;
        Some(expires_at.duration_since(now).unwrap_or_default())
    }
}

impl fmt::Debug for Identity {
    /// Without who it is: debug output ends up in logs.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Identity")
            .field("is_consumer", &self.consumer_id.is_some())
            .field("scopes", &self.scopes)
            .field("expires_at", &self.expires_at)
            .finish()
    }
}
