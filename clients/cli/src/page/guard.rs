//! Who is answered at all, and what every answer says to the browser. The page has no
//! authentication: it is for the person at this machine, and not for other web sites in that
//! person's browser, which must neither read it (DNS rebinding) nor write to it (forged requests).

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Desk, Refused};

/// Checks the request, and sets the headers of the answer.
pub(super) async fn guard(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    let mut response = match refuse(request.method(), request.headers()) {
        None => next.run(request).await,
        Some(refused) => refused.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(policy) = HeaderValue::from_str(&policy(desk.gateway())) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Everything from here, and the phones' WebSockets.
fn policy(gateway: &str) -> String {
    // An origin has no path.
    let origin_end = gateway.find("://").map_or(0, |at| at + 3);
    let end = gateway[origin_end..]
        .find('/')
        .map_or(gateway.len(), |at| origin_end + at);
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self' {}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        &gateway[..end]
    )
}

fn refuse(method: &Method, headers: &HeaderMap) -> Option<Refused> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let host = text(header::HOST).unwrap_or_default();
    if !is_loopback(host) {
        let message = "the page answers to localhost and 127.0.0.1 only";
        return Some(Refused::new(StatusCode::MISDIRECTED_REQUEST, message));
    }
    let origin = headers.get(header::ORIGIN);
    let is_ours =
        origin.is_some_and(|origin| origin.as_bytes() == format!("http://{host}").as_bytes());
    let writes = !matches!(*method, Method::GET | Method::HEAD);
    if (writes || origin.is_some()) && !is_ours {
        let message = "only the page itself may ask this: the header Origin must name it";
        return Some(Refused::new(StatusCode::FORBIDDEN, message));
    }
    let kind = text(header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if writes && !kind.eq_ignore_ascii_case("application/json") {
        let message = "the header Content-Type must be application/json";
        return Some(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    None
}

/// Whether a host, with or without its port, is this machine. The port is free: it may have been
/// forwarded.
fn is_loopback(host: &str) -> bool {
    host.parse::<Authority>()
        .is_ok_and(|host| matches!(host.host(), "localhost" | "127.0.0.1" | "[::1]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(host: &'static str, origin: Option<&'static str>, kind: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        headers
    }

    fn status(method: &Method, headers: &HeaderMap) -> Option<u16> {
        refuse(method, headers).map(|refused| refused.status.as_u16())
    }

    #[test]
    fn only_this_machines_names_are_answered() {
        for host in [
            "127.0.0.1:8080",
            "localhost:9000",
            "localhost",
            "[::1]:8080",
        ] {
            assert_eq!(
                status(&Method::GET, &headers(host, None, "")),
                None,
                "{host}"
            );
        }
        for host in [
            "",
            "evil.example",
            "127.0.0.1.evil.example:8080",
            "localhost@evil.example",
        ] {
            assert_eq!(
                status(&Method::GET, &headers(host, None, "")),
                Some(421),
                "{host}"
            );
        }
    }

    #[test]
    fn only_the_page_itself_writes() {
        let host = "127.0.0.1:8080";
        let json = "application/json";
        let ask = |origin, kind| status(&Method::POST, &headers(host, origin, kind));
        assert_eq!(ask(Some("http://127.0.0.1:8080"), json), None);
        assert_eq!(
            ask(
                Some("http://127.0.0.1:8080"),
                "application/json; charset=utf-8"
            ),
            None
        );
        for origin in [
            None,
            Some("null"),
            Some("http://127.0.0.1:8081"),
            Some("https://127.0.0.1:8080"),
            Some("http://evil.example"),
        ] {
            assert_eq!(ask(origin, json), Some(403), "{origin:?}");
        }
        // What a form of another site can send without asking first.
        assert_eq!(ask(Some("http://127.0.0.1:8080"), "text/plain"), Some(415));
    }

    #[test]
    fn another_site_reads_nothing() {
        let asked = headers("127.0.0.1:8080", Some("http://evil.example"), "");
        assert_eq!(status(&Method::GET, &asked), Some(403));
    }

    #[test]
    fn the_policy_names_the_gateways_origin() {
        let policy = policy("ws://127.0.0.1:8081/dev");
        assert!(
            policy.contains("connect-src 'self' ws://127.0.0.1:8081;"),
            "{policy}"
        );
    }
}
