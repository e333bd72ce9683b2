//! A process as its operators see it, on a port of its own: `/metrics`, `/healthz`, `/readyz`. Nothing
//! of the data that the process serves is here, so the port needs no authentication; it is bounded all
//! the same, since anybody may come.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::metrics::Registry;

/// Connections at the same time; further ones wait in the system's queue.
const CONNECTIONS_MAX: usize = 64;
/// A request's head must have come by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection, which is one request and its answer, has ended by then.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest head of a request; a body is never read.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// After a connection could not be accepted there is nothing better than to wait.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Says why a process is not ready, in a line; nothing of what the store or a peer said.
pub type Ready = Arc<dyn Fn() -> Result<(), &'static str> + Send + Sync>;

/// What is shown.
pub struct Shown {
    /// The process's metrics.
    pub registry: Registry,
    /// Whether it is ready for what it is for.
    pub ready: Ready,
}

impl fmt::Debug for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Shown");
        shown
            .field("ready", &(self.ready)())
            .finish_non_exhaustive()
    }
}

/// Serves until `stopping`. Each connection is for one request, so that none is held open.
pub async fn serve(listener: TcpListener, shown: Shown, stopping: CancellationToken) {
    let shown = Arc::new(shown);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await;
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, _)) => {
                    let shown = shown.clone();
                    connections.spawn(async move {
                        answer_one(stream, shown).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    stopping.run_until_cancelled(accepting).await;
    connections.shutdown().await;
}

async fn answer_one(stream: TcpStream, shown: Arc<Shown>) {
    let answer = service_fn(|request: Request<Incoming>| {
        let answer = shown.answer(request.method(), request.uri().path(), request.headers());
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    // Who asks wrongly, slowly or not at all is closed, and knows it.
    let _ = timeout(CONNECTION_TIMEOUT, connection).await;
}

impl Shown {
    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD are answered");
            let methods = HeaderValue::from_static("GET, HEAD");
            refusal.headers_mut().insert(ALLOW, methods);
            return refusal;
        }
        match path {
            "/metrics" if wants_prometheus_text(headers) => {
                let text = self.registry.prometheus_text();
                response(StatusCode::OK, PROMETHEUS_TEXT, text)
            }
            "/metrics" => response(StatusCode::OK, OPEN_METRICS, self.registry.open_metrics()),
            "/healthz" => plain(StatusCode::OK, "ok"),
            "/readyz" => match (self.ready)() {
                Ok(()) => plain(StatusCode::OK, "ready"),
                Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason),
            },
            _ => plain(
                StatusCode::NOT_FOUND,
                "here are /metrics, /healthz and /readyz",
            ),
        }
    }
}

/// Whether the caller names the older format and not the newer one. Prometheus names both, a browser
/// neither.
fn wants_prometheus_text(headers: &HeaderMap) -> bool {
    let accepts = |wanted: &str| {
        let accepted = headers.get_all(ACCEPT).iter();
        accepted
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.contains(wanted))
    };
    accepts("text/plain") && !accepts("application/openmetrics-text")
}

fn plain(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    response(status, TEXT, format!("{line}\n"))
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::atomic::{AtomicBool, Ordering},
    };

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    struct Port {
        address: SocketAddr,
        is_ready: Arc<AtomicBool>,
        stopping: CancellationToken,
        serving: JoinSet<()>,
    }

    impl Port {
        async fn open() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut registry = Registry::new("touchline_test");
            registry.counter("cups", "Cups").inc();
            let is_ready = Arc::new(AtomicBool::new(false));
            let asked = is_ready.clone();
            let ready = Arc::new(move || match asked.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err("the kettle is cold"),
            });
            let stopping = CancellationToken::new();
            let mut serving = JoinSet::new();
            let shown = Shown { registry, ready };
            serving.spawn(serve(listener, shown, stopping.clone()));
            Self {
                address,
                is_ready,
                stopping,
                serving,
            }
        }

        /// What comes back before the port closes the connection.
        async fn say(&self, request: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let read = stream.read_to_end(&mut answer);
            // A connection that is closed before all of a request was read may be reset.
            let _ = timeout(DEADLINE, read).await.unwrap();
            String::from_utf8(answer).unwrap()
        }

        async fn get(&self, path: &str, headers: &str) -> String {
            let head = format!("GET {path} HTTP/1.1\r\nhost: here\r\n{headers}\r\n");
            self.say(&head).await
        }
    }

    #[tokio::test]
    async fn metrics_come_in_the_format_that_the_caller_reads() {
        let port = Port::open().await;
        let prometheus = "accept: application/openmetrics-text;version=1.0.0;q=0.5,\
            text/plain;version=0.0.4;q=0.4\r\n";
        for headers in ["", "accept: */*\r\n", prometheus] {
            let answer = port.get("/metrics", headers).await;
            assert!(answer.contains(OPEN_METRICS), "{answer}");
            assert!(answer.ends_with("touchline_test_cups_total 1\n# EOF\n"));
        }
        let answer = port.get("/metrics", "accept: text/plain\r\n").await;
        assert!(answer.contains(PROMETHEUS_TEXT), "{answer}");
        assert!(
            answer.ends_with("touchline_test_cups_total 1\n"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn a_process_that_is_not_ready_lives_and_says_why() {
        let port = Port::open().await;
        let healthy = port.get("/healthz", "").await;
        assert!(healthy.starts_with("HTTP/1.1 200 "), "{healthy}");
        let answer = port.get("/readyz", "").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nthe kettle is cold\n"), "{answer}");
        port.is_ready.store(true, Ordering::Relaxed);
        let answer = port.get("/readyz", "").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    #[tokio::test]
    async fn what_is_not_there_is_refused_with_what_is() {
        let port = Port::open().await;
        let nothing = port.get("/", "").await;
        assert!(nothing.starts_with("HTTP/1.1 404 "), "{nothing}");
        assert!(nothing.contains("/metrics, /healthz and /readyz"));
        let post = "POST /metrics HTTP/1.1\r\nhost: here\r\ncontent-length: 9999\r\n\r\n";
        let refused = port.say(post).await;
        assert!(refused.starts_with("HTTP/1.1 405 "), "{refused}");
    }

    #[tokio::test]
    async fn heads_without_end_and_silent_callers_are_closed() {
        let port = Port::open().await;
        let long = format!("GET /metrics HTTP/1.1\r\nx: {}", "x".repeat(64 << 10));
        let said = tokio::join!(port.say(&long), port.say("GET /metrics"), port.say(""));
        for answer in <[String; 3]>::from(said) {
            assert!(!answer.contains("200 OK"), "{answer}");
        }
    }

    #[tokio::test]
    async fn silent_callers_hold_nobody_up_for_long() {
        let port = Port::open().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(port.address).await.unwrap());
        }
        let answer = timeout(DEADLINE, port.get("/healthz", "")).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    #[tokio::test]
    async fn it_ends_when_it_is_told_to_whoever_is_connected() {
        let mut port = Port::open().await;
        let silent = TcpStream::connect(port.address).await.unwrap();
        port.get("/healthz", "").await;
        port.stopping.cancel();
        let ended = timeout(DEADLINE, port.serving.join_next()).await.unwrap();
        ended.unwrap().unwrap();
        drop(silent);
        assert!(TcpStream::connect(port.address).await.is_err());
    }
}
