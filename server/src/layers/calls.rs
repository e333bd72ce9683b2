//! Counts every call by its method and its code, measures how long it took, and says so in the log of
//! whoever debugs. Knows which methods
//! there are from the contract itself, so that no caller can make up a label.

use std::{
    borrow::Cow,
    collections::HashMap,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Instant,
};

use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use prost::{Message as _, bytes::Bytes};
use prost_types::FileDescriptorSet;
use tonic::{Code, Status, body::Body};
use touchline_runtime::metrics::{Counter, Histogram, Pairs, Registry};
use tower::{Layer, Service};
use tracing::{Instrument, Span};

/// The services of the contract that a server serves, and health. Reflection and whatever else is asked
/// for counts as one.
const SERVED: [&str; 4] = [
    "touchline.v1.ComponentService",
    "touchline.v1.EventService",
    "touchline.v1.FeedbackService",
    "grpc.health.v1.Health",
];
/// Streams that last for as long as somebody watches: how long says nothing.
const ENDLESS: [&str; 2] = ["ComponentService/WatchEvent", "Health/Watch"];
/// What the methods that nobody serves are called.
const OTHER: &str = "other";
/// From an answer out of memory to a deadline.
const BOUNDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// The codes of gRPC by their numbers.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The calls of a server.
#[derive(Debug)]
pub(crate) struct Calls {
    by_path: HashMap<String, Arc<Method>>,
    other: Arc<Method>,
}

/// The calls of one method.
#[derive(Debug)]
struct Method {
    name: Cow<'static, str>,
    calls: Pairs,
    /// The counters of the codes that were seen.
    codes: [OnceLock<Counter>; CODES.len()],
    duration: Option<Histogram>,
}

impl Calls {
    /// None yet.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let calls = registry.pairs(
            "calls",
            "Calls that ended, by method and gRPC code. CANCELLED: the caller went away. Methods that \
             are not served, and reflection, count as other",
            ["method", "code"],
        );
        let method = |name: Cow<'static, str>, duration| {
            Arc::new(Method {
                name,
                calls: calls.clone(),
                codes: [const { OnceLock::new() }; CODES.len()],
                duration,
            })
        };
        let served = served();
        let names = served.iter().map(|(_, name)| name.clone());
        let measured: Vec<_> = names.filter(|name| !is_endless(name)).collect();
        let histograms = registry.histograms(
            "call",
            "From a call's arrival to the end of its answer; of methods that end by themselves",
            BOUNDS,
            "method",
            measured.clone(),
        );
        let mut histograms: HashMap<_, _> = measured.into_iter().zip(histograms).collect();
        let by_path = served
            .into_iter()
            .map(|(path, name)| {
                let duration = histograms.remove(&name);
                (path, method(name.into(), duration))
            })
            .collect();
        Self {
            by_path,
            other: method(OTHER.into(), None),
        }
    }

    fn begin(&self, path: &str) -> Call {
        Call {
            method: self.by_path.get(path).unwrap_or(&self.other).clone(),
            began: Instant::now(),
            code: Code::Cancelled,
        }
    }
}

fn is_endless(name: &str) -> bool {
    ENDLESS.contains(&name)
}

/// Path and name of each method that is served.
fn served() -> Vec<(String, String)> {
    let contracts = [
        touchline_proto::v1::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
    ];
    let invariant = "the descriptors were compiled by this build";
    let files = contracts.map(|bytes| FileDescriptorSet::decode(bytes).expect(invariant));
    let files = files.iter().flat_map(|files| &files.file);
    let services = files.flat_map(|file| {
        let services = file.service.iter();
        services.map(|service| (format!("{}.{}", file.package(), service.name()), service))
    });
    services
        .filter(|(full_name, _)| SERVED.contains(&full_name.as_str()))
        .flat_map(|(full_name, service)| {
            service.method.iter().map(move |method| {
                let path = format!("/{full_name}/{}", method.name());
                (path, format!("{}/{}", service.name(), method.name()))
            })
        })
        .collect()
}

/// One call until its answer has ended; one that is dropped before was cancelled.
#[derive(Debug)]
struct Call {
    method: Arc<Method>,
    began: Instant,
    code: Code,
}

impl Call {
    fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let method = &self.method;
        // The enum's numbers are gRPC's, from 0 to 16.
        let place = self.code as usize;
        let counter =
            method.codes[place].get_or_init(|| method.calls.of(method.name.clone(), CODES[place]));
        counter.inc();
        let took = self.began.elapsed();
        if let Some(duration) = &method.duration {
            duration.observe(took.as_secs_f64());
        }
        tracing::debug!(code = CODES[place], ?took, "a call ended");
    }
}

/// Counts and measures what goes through.
#[derive(Debug, Clone)]
pub(crate) struct CallsLayer(pub(crate) Arc<Calls>);

impl<S> Layer<S> for CallsLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            calls: self.0.clone(),
        }
    }
}

/// The service of [`CallsLayer`].
#[derive(Debug, Clone)]
pub(crate) struct Counted<S> {
    inner: S,
    calls: Arc<Calls>,
}

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let call = self.calls.begin(path);
        // The path names the call and nobody else; headers and messages stay out of the log.
        let span = tracing::debug_span!("call", path);
        let answer = span.in_scope(|| self.inner.call(request));
        let counted = {
            let span = span.clone();
            async move {
                let answer = answer.await?;
                // An answer that is nothing but an error has its code in the headers.
                if let Some(code) = code(answer.headers()) {
                    call.end(code);
                    return Ok(answer);
                }
                let call = Some(call);
                Ok(answer.map(|body| Body::new(Answer { body, call, span })))
            }
        };
        match span.is_disabled() {
            true => Box::pin(counted),
            false => Box::pin(counted.instrument(span)),
        }
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    let status = headers.get("grpc-status")?;
    Some(Code::from_bytes(status.as_bytes()))
}

/// A body whose trailers say how the call went.
struct Answer {
    body: Body,
    call: Option<Call>,
    span: Span,
}

impl Answer {
    fn end(&mut self, code: Code) {
        if let Some(call) = self.call.take() {
            call.end(code);
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, span, .. } = &mut *self;
        let frame = ready!(span.in_scope(|| Pin::new(body).poll_frame(context)));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.end(code(trailers).unwrap_or(Code::Unknown));
                }
            }
            Some(Err(status)) => {
                let code = status.code();
                self.end(code);
            }
            None => self.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::BodyExt;
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// What is shown after one call of this path, answered so and read to its end.
    async fn after(path: &str, answer: fn() -> Response<Body>) -> String {
        let mut registry = Registry::new("touchline_server");
        let layer = CallsLayer(Arc::new(Calls::new(&mut registry)));
        let service =
            service_fn(move |_: Request<Body>| async move { Ok::<_, Infallible>(answer()) });
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let answer = layer.layer(service).oneshot(request).await.unwrap();
        // A body that breaks is one of the cases.
        let _ = answer.into_body().collect().await;
        registry.open_metrics()
    }

    fn counted(shown: &str) -> Vec<&str> {
        let lines = shown.lines();
        lines
            .filter_map(|line| line.strip_prefix("touchline_server_calls_total"))
            .collect()
    }

    #[tokio::test]
    async fn a_call_is_counted_by_its_method_and_the_code_that_ends_it() {
        let path = "/touchline.v1.EventService/GetEvent";
        let refused = || Status::not_found("").into_http();
        let shown = after(path, refused).await;
        let wanted = [r#"{method="EventService/GetEvent",code="NOT_FOUND"} 1"#];
        assert_eq!(counted(&shown), wanted);
        let measured = r#"call_seconds_count{method="EventService/GetEvent"} 1"#;
        assert!(shown.contains(measured), "{shown}");

        let answered = || {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let body = http_body_util::Full::new(Bytes::from_static(b"answer"));
            let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
            Response::new(Body::new(body))
        };
        let shown = after(path, answered).await;
        let wanted = [r#"{method="EventService/GetEvent",code="OK"} 1"#];
        assert_eq!(counted(&shown), wanted);
    }

    #[tokio::test]
    async fn what_nobody_serves_is_one_method_whatever_it_is_called() {
        let refused = || Status::unimplemented("").into_http();
        for path in ["/touchline.v1.ChangeFeed/Follow", "/made/up", "/"] {
            let shown = after(path, refused).await;
            let wanted = [r#"{method="other",code="UNIMPLEMENTED"} 1"#];
            assert_eq!(counted(&shown), wanted, "{path}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_nobody_waits_for_was_cancelled() {
        let mut registry = Registry::new("touchline_server");
        let layer = CallsLayer(Arc::new(Calls::new(&mut registry)));
        let never = service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, Infallible>>()
        });
        let path = "/touchline.v1.ComponentService/WatchEvent";
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        drop(layer.layer(never).oneshot(request));
        assert!(counted(&registry.open_metrics()).is_empty(), "not begun");
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        drop(layer.layer(never).call(request));
        let shown = registry.open_metrics();
        let wanted = [r#"{method="ComponentService/WatchEvent",code="CANCELLED"} 1"#];
        assert_eq!(counted(&shown), wanted);
    }

    #[test]
    fn every_method_of_the_served_services_is_known() {
        let served = served();
        let names: Vec<_> = served.iter().map(|(_, name)| name.as_str()).collect();
        for name in ENDLESS
            .into_iter()
            .chain(["FeedbackService/RecordInteractions"])
        {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        assert!(!names.iter().any(|name| name.starts_with("ChangeFeed")));
    }
}
