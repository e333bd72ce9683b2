//! A collector of traces: OTLP's own gRPC service, and what it was sent. Judges nothing.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use anyhow::Result;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, status::StatusCode},
};
use tokio::net::TcpListener;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

/// Spans that are kept; of more it is only counted how many there were.
const KEPT_MAX: usize = 50_000;

/// A running collector; it ends when it is dropped.
#[derive(Debug)]
pub struct Collector {
    url: String,
    received: Received,
    _serving: AbortOnDropHandle<()>,
}

/// A span that came.
#[derive(Debug, Clone)]
pub struct Span {
    /// The service that it is of.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Its trace.
    pub trace_id: Vec<u8>,
    /// Its own id.
    pub span_id: Vec<u8>,
    /// The span that led to it; empty for a trace's first.
    pub parent_span_id: Vec<u8>,
    /// When it began and ended, in nanoseconds since 1970.
    pub unix_ns: (u64, u64),
    /// What it says, as text.
    pub attributes: BTreeMap<String, String>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct Received {
    count: Arc<AtomicUsize>,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    /// Starts on any free port.
    pub async fn start() -> Result<Self> {
        Self::serve(Server::builder(), "http").await
    }

    /// The same over TLS, with this certificate and key, PEM, which are of `localhost`.
    pub async fn start_secure(certificate: &str, key: &str) -> Result<Self> {
        let identity = Identity::from_pem(certificate, key);
        let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity))?;
        Self::serve(server, "https").await
    }

    async fn serve(mut server: Server, scheme: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let received = Received::default();
        let service = TraceServiceServer::new(received.clone());
        let serving = server
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener));
        let serving = TaskTracker::new().spawn(async move {
            // Whoever sends notices if it ends.
            let _ = serving.await;
        });
        Ok(Self {
            url: match scheme {
                "https" => format!("https://localhost:{}", address.port()),
                _ => format!("http://{address}"),
            },
            received,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many spans came.
    pub fn count(&self) -> usize {
        self.received.count.load(Relaxed)
    }

    /// The spans that came.
    pub fn spans(&self) -> Vec<Span> {
        self.received.lock().clone()
    }
}

impl Received {
    fn lock(&self) -> MutexGuard<'_, Vec<Span>> {
        // No code that holds the lock can panic half-way through a change.
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let spans = spans_of(resource);
            self.count.fetch_add(spans.len(), Relaxed);
            let mut kept = self.lock();
            let room = KEPT_MAX.saturating_sub(kept.len());
            kept.extend(spans.into_iter().take(room));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn spans_of(of: ResourceSpans) -> Vec<Span> {
    let resource = texts(of.resource.unwrap_or_default().attributes);
    let service = resource.get("service.name").cloned().unwrap_or_default();
    let spans = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
    spans
        .map(|span| Span {
            service: service.clone(),
            name: span.name,
            trace_id: span.trace_id,
            span_id: span.span_id,
            parent_span_id: span.parent_span_id,
            unix_ns: (span.start_time_unix_nano, span.end_time_unix_nano),
            attributes: texts(span.attributes),
            failure: span
                .status
                .filter(|status| status.code() == StatusCode::Error)
                .map(|status| status.message),
        })
        .collect()
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let attributes = attributes.into_iter();
    attributes
        .map(|attribute| {
            let text = match attribute.value.and_then(|value| value.value) {
                Some(Value::StringValue(text)) => text,
                Some(Value::IntValue(number)) => number.to_string(),
                other => format!("{other:?}"),
            };
            (attribute.key, text)
        })
        .collect()
}
