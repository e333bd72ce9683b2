//! Traces: what one piece of work led to, over processes, as spans that a collector is sent over OTLP.
//! Whether a piece of work is traced is decided where it begins and carried along, so that a trace is
//! whole or absent. Spans are begun in a few places, none of them for one fan; who begins one says
//! counts, outcomes and what is public, never a consumer, a token or a message. Metrics and logs are not
//! sent this way.
//!
//! Without an endpoint nothing is made: every call of what is here is one branch.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

pub use opentelemetry::trace::SpanKind as Kind;
use opentelemetry::{
    Context, KeyValue, StringValue,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{Span as _, SpanContext, Status, TraceContextExt, Tracer as _, TracerProvider as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};

use crate::metrics::{Counter, Registry};

mod args;
mod export;

pub use args::TraceArgs;

/// The name of the header, and of a call's metadata, that says where in a trace a call belongs (W3C
/// Trace Context).
pub const TRACEPARENT: &str = "traceparent";

/// A process's traces. Off by default; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<On>>);

#[derive(Debug)]
struct On {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    ended: Counter,
}

/// What becomes of spans. Those that ended and were neither sent nor lost wait, or found no room to.
#[derive(Debug, Clone)]
pub struct SpanMetrics {
    ended: Counter,
    sent: Counter,
    failed: Counter,
}

impl SpanMetrics {
    /// Registered, whether or not anything is traced.
    pub fn new(registry: &mut Registry) -> Self {
        let ended = registry.counter("spans", "Spans of traces that ended");
        let [sent, failed] = registry.counters(
            "spans_exported",
            "Spans that were sent to the collector, or lost since it failed; what is in neither and not among those \
             that wait, 2,048 at most, found no room",
            "outcome",
            ["sent", "failed"],
        );
        Self {
            ended,
            sent,
            failed,
        }
    }
}

impl Traces {
    /// Traces of a service, by the name under which they are found. Must be called in a tokio runtime;
    /// connects when there is something to send.
    ///
    /// # Errors
    /// Why OpenTelemetry's own variables (OTEL_…) cannot be followed.
    pub fn open(
        args: &TraceArgs,
        service: &'static str,
        metrics: SpanMetrics,
    ) -> Result<Self, String> {
        let Some(endpoint) = &args.otlp_endpoint else {
            return Ok(Self::default());
        };
        let ended = metrics.ended.clone();
        let provider = export::provider(endpoint, args.trace_sample, service, metrics)?;
        Ok(Self(Some(Arc::new(On {
            tracer: provider.tracer("touchline"),
            provider,
            ended,
        }))))
    }

    /// Whether anything is traced at all.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Where a `traceparent` says. One that cannot be read, like none, says nothing: what is begun there
    /// begins a trace of its own.
    pub fn place(&self, traceparent: Option<&str>) -> Place {
        let (Some(_), Some(traceparent)) = (&self.0, traceparent) else {
            return Place::default();
        };
        let carried = TraceContextPropagator::new()
            .extract_with_context(&Context::new(), &Carried(Some(traceparent.to_owned())));
        let context = carried.span().span_context().clone();
        match context.is_valid() {
            true => Place::of(self, context),
            false => Place::default(),
        }
    }

    /// Begins a span: at a place, or a trace of its own where that says nothing.
    pub fn begin(&self, name: &'static str, kind: Kind, place: &Place) -> Span {
        match &place.0 {
            Some(_) => place.begin(name, kind),
            None => self.begin_at(name, kind, None, None),
        }
    }

    /// Begins a trace of its own with work that began earlier.
    pub fn begin_since(&self, began: Instant, name: &'static str, kind: Kind) -> Span {
        self.begin_at(name, kind, None, Some(began))
    }

    fn begin_at(
        &self,
        name: &'static str,
        kind: Kind,
        parent: Option<&SpanContext>,
        began: Option<Instant>,
    ) -> Span {
        let Some(on) = &self.0 else {
            return Span::default();
        };
        if let Some(parent) = parent
            && !parent.is_sampled()
        {
            // Carried along as it is: whoever is called shall not decide anew.
            return Span::new(self, parent.clone(), None);
        }
        let mut builder = on.tracer.span_builder(name).with_kind(kind);
        if let Some(began) = began {
            builder.start_time = SystemTime::now().checked_sub(began.elapsed());
        }
        let under = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent.clone()),
            None => Context::new(),
        };
        let span = on.tracer.build_with_context(builder, &under);
        let context = span.span_context().clone();
        let recording = span.is_recording().then(|| Box::new(span));
        Span::new(self, context, recording)
    }

    /// Sends what is left, for two seconds at most. Nothing is traced after it.
    pub async fn end(&self) {
        let Some(on) = &self.0 else {
            return;
        };
        let provider = on.provider.clone();
        // Blocks, and sends by this runtime.
        let ending = tokio::task::spawn_blocking(move || export::end(&provider));
        if let Ok(Err(reason)) = ending.await {
            tracing::debug!(reason, "the last spans could not be sent");
        }
    }
}

/// A piece of work, from its beginning until it is dropped; nothing where it is not traced.
#[derive(Debug, Default)]
pub struct Span {
    traces: Traces,
    context: Option<SpanContext>,
    recording: Option<Box<opentelemetry_sdk::trace::Span>>,
}

impl Span {
    fn new(
        traces: &Traces,
        context: SpanContext,
        recording: Option<Box<opentelemetry_sdk::trace::Span>>,
    ) -> Self {
        Self {
            traces: traces.clone(),
            context: Some(context),
            recording,
        }
    }

    /// Whether what is said of it is heard by anybody.
    pub fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    /// The place of what it leads to.
    pub fn place(&self) -> Place {
        match &self.context {
            Some(context) => Place::of(&self.traces, context.clone()),
            None => Place::default(),
        }
    }

    /// Begins a span of what it leads to.
    pub fn begin(&self, name: &'static str, kind: Kind) -> Self {
        self.traces
            .begin_at(name, kind, self.context.as_ref(), None)
    }

    /// Says how many.
    pub fn count(&mut self, key: &'static str, count: usize) {
        if let Some(span) = &mut self.recording {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            span.set_attribute(KeyValue::new(key, count));
        }
    }

    /// Says something in words.
    pub fn say(&mut self, key: &'static str, text: impl Into<StringValue>) {
        if let Some(span) = &mut self.recording {
            span.set_attribute(KeyValue::new(key, text.into()));
        }
    }

    /// Says that it failed, and why in a word.
    pub fn fail(&mut self, reason: impl Into<std::borrow::Cow<'static, str>>) {
        if let Some(span) = &mut self.recording {
            span.set_status(Status::error(reason));
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let (Some(_), Some(on)) = (&self.recording, &self.traces.0) {
            on.ended.inc();
        }
    }
}

/// A place in a trace, or none. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Place(Option<Arc<Known>>);

#[derive(Debug)]
struct Known {
    traces: Traces,
    context: SpanContext,
}

impl Place {
    fn of(traces: &Traces, context: SpanContext) -> Self {
        Self(Some(Arc::new(Known {
            traces: traces.clone(),
            context,
        })))
    }

    /// Begins a span there; nothing where there is no place.
    pub fn begin(&self, name: &'static str, kind: Kind) -> Span {
        match &self.0 {
            Some(known) => known
                .traces
                .begin_at(name, kind, Some(&known.context), None),
            None => Span::default(),
        }
    }

    /// The place as another process reads it.
    pub fn traceparent(&self) -> Option<String> {
        let known = self.0.as_ref()?;
        let context = Context::new().with_remote_span_context(known.context.clone());
        let mut carried = Carried(None);
        TraceContextPropagator::new().inject_context(&context, &mut carried);
        carried.0
    }
}

/// A `traceparent` alone: what vendors add to it is left out.
struct Carried(Option<String>);

impl Extractor for Carried {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.as_deref().filter(|_| key == TRACEPARENT)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

impl Injector for Carried {
    fn set(&mut self, key: &str, value: String) {
        if key == TRACEPARENT {
            self.0 = Some(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    /// Traces that are sent nowhere.
    fn traces(trace_sample: f64) -> Traces {
        let args = TraceArgs {
            otlp_endpoint: Some("http://127.0.0.1:1".parse().unwrap()),
            trace_sample,
        };
        open(&args)
    }

    fn open(args: &TraceArgs) -> Traces {
        let metrics = SpanMetrics::new(&mut Registry::new("test"));
        Traces::open(args, "touchline-test", metrics).unwrap()
    }

    fn trace_id(traceparent: &str) -> &str {
        traceparent.split('-').nth(1).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_begun_at_a_place_is_of_its_trace_and_says_so_to_others() {
        let traces = traces(0.0);
        let mut span = traces.begin("called", Kind::Server, &traces.place(Some(SAMPLED)));
        span.count("consumers", 3);
        assert!(span.is_recording(), "its caller decided that");
        let said = span.begin("within", Kind::Client).place().traceparent();
        let said = said.unwrap();
        assert_eq!(trace_id(&said), trace_id(SAMPLED));
        assert!(said.ends_with("-01") && said != SAMPLED, "{said}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_traced_is_not_traced_by_whoever_is_called_either() {
        let traces = traces(1.0);
        let place = traces.place(Some(UNSAMPLED));
        let span = traces.begin("called", Kind::Server, &place);
        assert!(!span.is_recording());
        assert_eq!(span.place().traceparent().as_deref(), Some(UNSAMPLED));
        let never = self::traces(0.0);
        let span = never.begin_since(Instant::now(), "change", Kind::Consumer);
        assert!(!span.is_recording());
        let said = span.place().traceparent().unwrap();
        assert!(said.ends_with("-00"), "{said}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_traceparent_that_cannot_be_read_begins_a_trace() {
        let traces = traces(1.0);
        for wrong in ["", "00", "nonsense", &SAMPLED.replace("0af7", "xxxx")] {
            let place = traces.place(Some(wrong));
            assert_eq!(place.traceparent(), None, "{wrong}");
            let span = traces.begin("called", Kind::Server, &place);
            assert!(span.is_recording(), "{wrong}");
        }
    }

    #[test]
    fn without_an_endpoint_nothing_is_made() {
        let traces = open(&TraceArgs::default());
        let place = traces.place(Some(SAMPLED));
        let mut span = traces.begin("called", Kind::Server, &place);
        span.say("never", "heard");
        assert!(!span.is_recording());
        assert_eq!(span.place().traceparent(), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_collector_that_is_not_there_is_not_sent_is_counted() {
        let metrics = SpanMetrics::new(&mut Registry::new("test"));
        let args = TraceArgs {
            otlp_endpoint: Some("http://127.0.0.1:1".parse().unwrap()),
            trace_sample: 1.0,
        };
        let traces = Traces::open(&args, "touchline-test", metrics.clone()).unwrap();
        for _ in 0..3 {
            drop(traces.begin("lost", Kind::Internal, &Place::default()));
        }
        traces.end().await;
        let SpanMetrics {
            ended,
            sent,
            failed,
        } = metrics;
        assert_eq!((ended.get(), sent.get(), failed.get()), (3, 0, 3));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_traced_after_the_end() {
        let traces = traces(1.0);
        traces.end().await;
        let span = traces.begin("late", Kind::Internal, &Place::default());
        assert!(!span.is_recording());
    }
}
