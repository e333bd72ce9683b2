//! Answers that are held as messages: what a service is that implements the code which tonic generates.

use std::{collections::HashMap, sync::Arc};

use anyhow::Result;
use futures::stream::{BoxStream, Empty};
use prost::Message;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use touchline_proto::v1::{
    BatchGetComponentsRequest, BatchGetComponentsResponse, GetComponentsRequest,
    GetComponentsResponse, WatchEventRequest, WatchEventResponse,
    component_service_server::{ComponentService, ComponentServiceServer},
};

use super::{super::script::Script, told, unknown};

/// The service.
pub(super) fn service(
    script: Script,
    state: watch::Receiver<usize>,
) -> Result<ComponentServiceServer<Answering>> {
    let mut consumers = HashMap::new();
    for recorded in script.consumers {
        let watch = recorded.watch.into_iter().map(WatchEventResponse::decode);
        let answers = Answers {
            call: GetComponentsResponse::decode(recorded.call)?,
            watch: watch.collect::<Result<_, _>>()?,
        };
        consumers.insert(recorded.consumer_id, answers);
    }
    Ok(ComponentServiceServer::new(Answering { consumers, state }))
}

/// One consumer's.
#[derive(Debug)]
struct Answers {
    call: GetComponentsResponse,
    watch: Arc<[WatchEventResponse]>,
}

/// The service's state.
#[derive(Debug)]
pub(super) struct Answering {
    consumers: HashMap<String, Answers>,
    state: watch::Receiver<usize>,
}

impl Answering {
    fn answers(&self, consumer_id: &str) -> Result<&Answers, Status> {
        self.consumers.get(consumer_id).ok_or_else(unknown)
    }
}

#[tonic::async_trait]
impl ComponentService for Answering {
    async fn get_components(
        &self,
        request: Request<GetComponentsRequest>,
    ) -> Result<Response<GetComponentsResponse>, Status> {
        let answers = self.answers(&request.get_ref().consumer_id)?;
        Ok(Response::new(answers.call.clone()))
    }

    type BatchGetComponentsStream = Empty<Result<BatchGetComponentsResponse, Status>>;

    async fn batch_get_components(
        &self,
        _: Request<BatchGetComponentsRequest>,
    ) -> Result<Response<Self::BatchGetComponentsStream>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    type WatchEventStream = BoxStream<'static, Result<WatchEventResponse, Status>>;

    async fn watch_event(
        &self,
        request: Request<WatchEventRequest>,
    ) -> Result<Response<Self::WatchEventStream>, Status> {
        let messages = self.answers(&request.get_ref().consumer_id)?.watch.clone();
        Ok(Response::new(told(self.state.clone(), messages)))
    }
}
