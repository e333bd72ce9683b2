//! The layer before every gRPC call: who calls, and whether they may make this call at all. What a
//! message says about whom is for the service to look at; it finds the [`Identity`] among the request's
//! extensions. An answer that still streams when the caller's identity expires is ended.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    args::{AuthArgs, Open},
    identity::Identity,
    scopes::{Scope, Scopes},
    tls::Peer,
    token::{Refused, Verifier},
};

/// `ErrorInfo.domain` of every error, as the server's.
const DOMAIN: &str = "touchline";

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// gRPC health: an identity, unless it is left open.
    Health,
    /// gRPC reflection: an identity, unless it is left open.
    Reflection,
    /// One of these scopes.
    OneOf(&'static [Scope]),
}

/// What each call needs, by its path.
pub type Needs = fn(&str) -> Need;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a call needs that every Touchline process serves alike; what nobody knows needs `admin`.
pub fn common(path: &str) -> Need {
    if path.starts_with("/grpc.health.") {
        Need::Health
    } else if path.starts_with("/grpc.reflection.") {
        Need::Reflection
    } else {
        Need::OneOf(&[Scope::Admin])
    }
}

/// Looks at callers.
#[derive(Debug)]
struct Gate {
    verifier: Option<Arc<Verifier>>,
    open: Vec<Open>,
    client_scopes: Vec<Scope>,
    needs: Needs,
}

/// Lets a call through to those who may make it. While authentication is off, everybody may.
#[derive(Debug, Clone)]
pub struct AuthLayer(Option<Arc<Gate>>);

impl AuthLayer {
    /// As these flags say; `verifier` is what [`Verifier::open`] made of them.
    pub fn new(args: &AuthArgs, verifier: Option<Arc<Verifier>>, needs: Needs) -> Self {
        let gate = args.is_on().then(|| {
            Arc::new(Gate {
                verifier,
                open: args.auth_open.clone(),
                client_scopes: args.tls_client_scopes.clone(),
                needs,
            })
        });
        Self(gate)
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth {
            inner,
            gate: self.0.clone(),
        }
    }
}

/// The service of [`AuthLayer`].
#[derive(Debug, Clone)]
pub struct Auth<S> {
    inner: S,
    gate: Option<Arc<Gate>>,
}

impl<S> Service<Request<Body>> for Auth<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(gate) = self.gate.clone() else {
            return Box::pin(self.inner.call(request));
        };
        let need = (gate.needs)(request.uri().path());
        if gate.is_open(need) {
            return Box::pin(self.inner.call(request));
        }
        // The one that is ready goes with the call; its clone waits for the next.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            // A body is not to be shared between threads, so the request itself is not lent out.
            let token = bearer(request.headers()).map(|token| token.map(str::to_owned));
            let has_certificate =
                (request.extensions().get::<Peer>()).is_some_and(Peer::has_certificate);
            let identity = match gate.identify(token, has_certificate).await {
                Ok(identity) => identity,
                Err(refused) => return Ok(unauthenticated(&refused).into_http()),
            };
            if let Need::OneOf(scopes) = need
                && !scopes.iter().any(|scope| identity.scopes.has(*scope))
            {
                return Ok(lacks(scopes).into_http());
            }
            let expires_in = identity.expires_in(SystemTime::now());
            request.extensions_mut().insert(identity);
            let answer = inner.call(request).await?;
            Ok(match expires_in {
                None => answer,
                Some(expires_in) => answer.map(|body| {
                    Body::new(Expiring {
                        body,
                        expired: Box::pin(tokio::time::sleep(expires_in)),
                        is_over: false,
                    })
                }),
            })
        })
    }
}

impl Gate {
    fn is_open(&self, need: Need) -> bool {
        match need {
            Need::Health => self.open.contains(&Open::Health),
            Need::Reflection => self.open.contains(&Open::Reflection),
            Need::OneOf(_) => false,
        }
    }

    async fn identify(
        &self,
        token: Result<Option<String>, Refused>,
        has_certificate: bool,
    ) -> Result<Identity, Refused> {
        let certified = || Identity {
            consumer_id: None,
            scopes: Scopes::NONE.granting(self.client_scopes.iter().copied()),
            expires_at: None,
        };
        match (&self.verifier, token?) {
            (Some(verifier), Some(token)) => verifier.verify(&token).await,
            (Some(_), None) if has_certificate && !self.client_scopes.is_empty() => Ok(certified()),
            (None, _) if has_certificate => Ok(certified()),
            (Some(_) | None, _) => Err(Refused::Missing),
        }
    }
}

/// The token of an `authorization` header (RFC 6750, 2.1); another scheme is none of ours.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refused> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Ok(None);
    };
    let value = value.to_str().map_err(|_| Refused::Malformed)?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(Refused::Malformed),
    }
}

fn unauthenticated(refused: &Refused) -> Status {
    let code = match refused {
        Refused::Unavailable => Code::Unavailable,
        _ => Code::Unauthenticated,
    };
    with_reason(code, &refused.to_string(), refused.reason())
}

fn lacks(scopes: &[Scope]) -> Status {
    let names: Vec<_> = scopes.iter().map(|scope| scope.name()).collect();
    let message = format!("the caller lacks the scope {}", names.join(" or "));
    with_reason(Code::PermissionDenied, &message, "SCOPE_MISSING")
}

/// For a service that finds that a message concerns somebody else: `field` names whom.
pub fn not_yours(field: &str, any: Scope) -> Status {
    let message = format!("{field}: another consumer's; the scope {any} is needed for that");
    with_reason(Code::PermissionDenied, &message, "NOT_YOURS")
}

/// For a service that finds that a message sets what its caller may not: `field` names that.
pub fn not_for_oneself(field: &str, any: Scope) -> Status {
    let message = format!("{field}: the scope {any} is needed to set it");
    with_reason(Code::PermissionDenied, &message, "SCOPE_MISSING")
}

fn with_reason(code: Code, message: &str, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

/// An answer that ends when the caller's identity does.
struct Expiring {
    body: Body,
    /// Looked at while there is nothing to send, so that a short answer costs no timer.
    expired: Pin<Box<Sleep>>,
    is_over: bool,
}

impl http_body::Body for Expiring {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        if self.expired.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.is_over = true;
        let trailers = unauthenticated(&Refused::Expired).into_http::<Body>();
        Poll::Ready(Some(Ok(Frame::trailers(trailers.headers().clone()))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_read_in_any_case_and_another_one_is_refused() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            bearer(&headers).map(|token| token.map(str::to_owned))
        };
        assert_eq!(bearer(&HeaderMap::new()), Ok(None));
        for good in ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c"] {
            assert_eq!(read(good), Ok(Some("a.b.c".to_owned())), "{good}");
        }
        for bad in ["Basic YTpi", "a.b.c", ""] {
            assert_eq!(read(bad), Err(Refused::Malformed), "{bad}");
        }
    }

    #[test]
    fn what_nobody_knows_needs_admin() {
        assert_eq!(common("/grpc.health.v1.Health/Check"), Need::Health);
        let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        assert_eq!(common(reflection), Need::Reflection);
        assert_eq!(
            common("/touchline.v1.New/Call"),
            Need::OneOf(&[Scope::Admin])
        );
    }
}
