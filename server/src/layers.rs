//! Around every call: how many at once, and until when; how it went is counted in [`calls`]. Knows paths and headers, never messages.

use std::{
    future::ready,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tonic::{Status, body::Body};
use touchline_runtime::metrics::Held;
use tower::{Layer, Service};

use crate::{counters::Counters, error::Error};

pub(crate) mod calls;

/// A caller's deadline further away than this is none.
const DEADLINE_MAX: Duration = Duration::from_hours(24);

/// Answered whatever the load: an orchestrator must not take a busy server for a dead one.
const NEVER_SHED: [&str; 1] = ["/grpc.health.v1.Health/"];

/// Until when a call has to be answered. An extension of each request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    /// The caller's deadline, or the server's default.
    pub(crate) at: Instant,
    /// The caller's own deadline, which ends streams too.
    pub(crate) of_caller: Option<Instant>,
}

impl Deadline {
    fn new(headers: &HeaderMap, default: Duration) -> Self {
        let now = Instant::now();
        let of_caller = headers
            .get("grpc-timeout")
            .and_then(|value| value.to_str().ok())
            .and_then(parse_grpc_timeout)
            .filter(|timeout| *timeout <= DEADLINE_MAX)
            .map(|timeout| now + timeout);
        Self {
            at: of_caller.unwrap_or(now + default),
            of_caller,
        }
    }
}

/// Reads a `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Requests"). One that
/// cannot be read is none.
fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let (last, _) = text.char_indices().next_back()?;
    let (digits, unit) = text.split_at(last);
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3_600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// Gives each call its [`Deadline`], ends it there, and turns away what is over the limit of calls
/// in flight: at once, since a queue would only make everybody late. A stream counts until its
/// answer has begun; streams have limits of their own.
#[derive(Debug, Clone)]
pub(crate) struct AdmitLayer {
    pub(crate) in_flight: Arc<Semaphore>,
    pub(crate) default_deadline: Duration,
    pub(crate) counters: Arc<Counters>,
}

impl<S> Layer<S> for AdmitLayer {
    type Service = Admit<S>;

    fn layer(&self, inner: S) -> Admit<S> {
        Admit {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of [`AdmitLayer`].
#[derive(Debug, Clone)]
pub(crate) struct Admit<S> {
    inner: S,
    layer: AdmitLayer,
}

impl<S> Service<Request<Body>> for Admit<S>
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let counts = !NEVER_SHED.iter().any(|prefix| path.starts_with(prefix));
        let permit = self.layer.in_flight.clone().try_acquire_owned().ok();
        if counts && permit.is_none() {
            self.layer.counters.calls_shed.add(1);
            return Box::pin(ready(Ok(refusal(Error::Overloaded {
                limit: "the server's limit of calls in flight",
            }))));
        }
        let counted = Held::in_gauge(&self.layer.counters.calls_in_flight);
        let deadline = Deadline::new(request.headers(), self.layer.default_deadline);
        request.extensions_mut().insert(deadline);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = timeout_at(deadline.at, answer).await;
            drop((permit, counted));
            answer.unwrap_or_else(|_| Ok(refusal(Error::DeadlineExceeded)))
        })
    }
}

fn refusal(error: Error) -> Response<Body> {
    Status::from(error).into_http()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tonic::Code;
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// A service that never answers, behind the layer. tonic's client would end a call at its
    /// deadline itself, so this is tested without one.
    async fn call_with_timeout(timeout: &str) -> (Status, Duration) {
        let layer = AdmitLayer {
            in_flight: Arc::new(Semaphore::new(1)),
            default_deadline: Duration::from_secs(5),
            counters: Arc::default(),
        };
        let never = service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, Infallible>>()
        });
        let request = Request::builder()
            .uri("/touchline.v1.EventService/GetEvent")
            .header("grpc-timeout", timeout)
            .body(Body::empty())
            .unwrap();
        let began = Instant::now();
        let answer = layer.layer(never).oneshot(request).await.unwrap();
        assert_eq!(layer.in_flight.available_permits(), 1, "the place is free");
        let status = Status::from_header_map(answer.headers()).unwrap();
        (status, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_at_its_callers_deadline() {
        for (timeout, seconds) in [("2S", 2), ("1M", 60), ("nonsense", 5)] {
            let (status, took) = call_with_timeout(timeout).await;
            assert_eq!(status.code(), Code::DeadlineExceeded);
            assert_eq!(took.as_secs(), seconds, "{timeout}");
        }
    }

    #[test]
    fn a_grpc_timeout_is_read_in_every_unit() {
        for (text, duration) in [
            ("1H", Duration::from_secs(3_600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("250m", Duration::from_millis(250)),
            ("9u", Duration::from_micros(9)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(parse_grpc_timeout(text), Some(duration), "{text}");
        }
    }

    #[test]
    fn a_grpc_timeout_that_cannot_be_read_is_none() {
        for text in [
            "",
            "1",
            "H",
            "-1S",
            "+1S",
            "1.5S",
            "123456789S",
            "1s",
            "1é",
            "é",
        ] {
            assert_eq!(parse_grpc_timeout(text), None, "{text:?}");
        }
    }

    #[test]
    fn without_a_deadline_of_the_caller_the_default_holds() {
        let mut headers = HeaderMap::new();
        let default = Duration::from_secs(5);
        assert!(Deadline::new(&headers, default).of_caller.is_none());
        headers.insert("grpc-timeout", "99999999H".parse().unwrap());
        assert!(Deadline::new(&headers, default).of_caller.is_none());
        headers.insert("grpc-timeout", "1M".parse().unwrap());
        let deadline = Deadline::new(&headers, default);
        assert_eq!(deadline.of_caller, Some(deadline.at));
    }
}
