//! Everything that is shown of a server: where its parts and its calls are counted, in one registry.
//! Says nothing of where it is shown.

use std::sync::Arc;

use touchline_runtime::{metrics::Registry, traces::SpanMetrics};

use crate::{counters::Counters, layers::calls::Calls};

/// What a server counts and measures.
#[derive(Debug)]
pub struct Metrics {
    /// By its parts.
    pub counters: Arc<Counters>,
    /// Around every call.
    pub(crate) calls: Arc<Calls>,
    /// Of traces.
    pub(crate) spans: SpanMetrics,
}

impl Metrics {
    /// All at zero, and where they are registered.
    pub fn new() -> (Self, Registry) {
        let mut registry = Registry::new("touchline_server");
        let metrics = Self {
            calls: Arc::new(Calls::new(&mut registry)),
            counters: Arc::new(Counters::new(&mut registry)),
            spans: SpanMetrics::new(&mut registry),
        };
        (metrics, registry)
    }
}
