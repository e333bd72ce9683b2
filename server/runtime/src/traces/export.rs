//! Sends finished spans, in batches and beside everything else. The queue is bounded, what does not fit
//! is dropped, and a collector that fails is told of once in a while: nobody waits for it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter},
};
use tonic::transport::{ClientTlsConfig, Endpoint, Uri};

use super::SpanMetrics;

/// How long connecting, and then one batch with its repetitions, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last spans may take.
const END_MAX: Duration = Duration::from_secs(2);

/// Pause between two lines of the log about a collector that fails.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Spans of a service, sent to a collector; `sample` is the share of what begins.
pub(super) fn provider(
    endpoint: &Uri,
    sample: f64,
    service: &'static str,
    metrics: SpanMetrics,
) -> Result<SdkTracerProvider, String> {
    let mut to = Endpoint::from(endpoint.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(EXPORT_TIMEOUT);
    if endpoint.scheme_str() == Some("https") {
        let tls = ClientTlsConfig::new().with_native_roots();
        to = to.tls_config(tls).map_err(|error| error.to_string())?;
    }
    let exporter = Otlp::builder()
        .with_tonic()
        .with_channel(to.connect_lazy())
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| error.to_string())?;
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let sampler = Sampler::TraceIdRatioBased(sample);
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(Telling::new(exporter, metrics))
        .with_sampler(Sampler::ParentBased(Box::new(sampler)))
        .with_resource(resource)
        .build())
}

/// Sends what is left, and ends. Blocks for [`END_MAX`] at most.
pub(super) fn end(provider: &SdkTracerProvider) -> Result<(), String> {
    let ended = provider.shutdown_with_timeout(END_MAX);
    ended.map_err(|error| error.to_string())
}

/// An exporter whose failures are told of, each minute at most.
#[derive(Debug)]
struct Telling<E> {
    exporter: E,
    metrics: SpanMetrics,
    lost: Mutex<Lost>,
}

#[derive(Debug, Default)]
struct Lost {
    spans: usize,
    told_at: Option<Instant>,
}

impl<E> Telling<E> {
    fn new(exporter: E, metrics: SpanMetrics) -> Self {
        Self {
            exporter,
            metrics,
            lost: Mutex::default(),
        }
    }

    /// How many spans were lost since it was told last, if it is time to tell.
    fn lose(&self, spans: usize) -> Option<usize> {
        // No code that holds the lock can panic half-way through a change.
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.spans += spans;
        if lost.told_at.is_some_and(|at| at.elapsed() < TOLD_EVERY) {
            return None;
        }
        lost.told_at = Some(Instant::now());
        Some(std::mem::take(&mut lost.spans))
    }
}

impl<E: SpanExporter> SpanExporter for Telling<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        let outcome = match &exported {
            Ok(()) => &self.metrics.sent,
            Err(_) => &self.metrics.failed,
        };
        outcome.inc_by(spans as u64);
        if let Err(error) = &exported
            && let Some(lost) = self.lose(spans)
        {
            tracing::warn!(%error, lost, "spans could not be sent to --otlp-endpoint");
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer as _, TracerProvider as _};

    use super::*;
    use crate::metrics::Registry;

    /// A collector that takes everything.
    #[derive(Debug)]
    struct Taking;

    impl SpanExporter for Taking {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            Ok(())
        }
    }

    #[test]
    fn what_is_taken_is_counted_as_sent() {
        let metrics = SpanMetrics::new(&mut Registry::new("test"));
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(Telling::new(Taking, metrics.clone()))
            .build();
        for _ in 0..2 {
            drop(provider.tracer("test").start("span"));
        }
        assert_eq!((metrics.sent.get(), metrics.failed.get()), (2, 0));
    }

    #[test]
    fn a_collector_that_fails_is_told_of_once_with_all_that_was_lost_meanwhile() {
        let metrics = SpanMetrics::new(&mut Registry::new("test"));
        let telling = Telling::new((), metrics);
        assert_eq!(telling.lose(3), Some(3));
        assert_eq!(telling.lose(4), None);
        assert_eq!(telling.lose(5), None);
        telling.lost.lock().unwrap().told_at = Instant::now().checked_sub(TOLD_EVERY);
        assert_eq!(telling.lose(1), Some(10));
    }
}
