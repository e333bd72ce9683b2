//! Answers that are encoded already: the least that tonic takes for them.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{future::BoxFuture, stream::BoxStream};
use prost::{Message, bytes::Bytes};
use tokio::sync::watch;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{Service, http},
    server::{Grpc, NamedService, ServerStreamingService, UnaryService},
};
use touchline_client::proto;

use super::{
    super::{
        raw::{GET_COMPONENTS, Raw, SERVICE, WATCH_EVENT},
        script::Script,
    },
    told, unknown,
};

/// The service.
pub(super) fn service(script: Script, state: watch::Receiver<usize>) -> Answering {
    let consumers = script.consumers.into_iter().map(|recorded| {
        let answers = Answers {
            call: recorded.call,
            watch: recorded.watch.into(),
        };
        (recorded.consumer_id, answers)
    });
    Answering {
        consumers: Arc::new(consumers.collect()),
        state,
    }
}

/// One consumer's.
#[derive(Debug, Clone)]
struct Answers {
    call: Bytes,
    watch: Arc<[Bytes]>,
}

/// The service, as tonic's generated code is shaped.
#[derive(Debug, Clone)]
pub(super) struct Answering {
    consumers: Arc<HashMap<String, Answers>>,
    state: watch::Receiver<usize>,
}

impl Answering {
    fn answers(&self, consumer_id: &str) -> Result<&Answers, Status> {
        self.consumers.get(consumer_id).ok_or_else(unknown)
    }
}

impl NamedService for Answering {
    const NAME: &'static str = SERVICE;
}

impl Service<http::Request<Body>> for Answering {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let bare = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(Raw);
            Ok(match request.uri().path() {
                GET_COMPONENTS => grpc.unary(GetComponents(bare), request).await,
                WATCH_EVENT => grpc.server_streaming(WatchEvent(bare), request).await,
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

struct GetComponents(Answering);

impl UnaryService<Bytes> for GetComponents {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let bare = self.0.clone();
        Box::pin(async move {
            let request: proto::GetComponentsRequest = decoded(request)?;
            let answers = bare.answers(&request.consumer_id)?;
            Ok(Response::new(answers.call.clone()))
        })
    }
}

struct WatchEvent(Answering);

impl ServerStreamingService<Bytes> for WatchEvent {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let bare = self.0.clone();
        Box::pin(async move {
            let request: proto::WatchEventRequest = decoded(request)?;
            let messages = bare.answers(&request.consumer_id)?.watch.clone();
            Ok(Response::new(told(bare.state, messages)))
        })
    }
}

fn decoded<M: Message + Default>(request: Request<Bytes>) -> Result<M, Status> {
    M::decode(request.into_inner()).map_err(|error| Status::internal(error.to_string()))
}
