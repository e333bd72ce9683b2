//! Before each handler: whether the caller may ask this of this consumer. Which calls a caller may make
//! at all was decided before, by the layer that `needs` instructs; without authentication everybody may
//! everything. Reads ids and decides nothing else.

use tonic::{Request, Status};
use touchline_auth::{
    Identity, Scope,
    grpc::{Need, common, not_for_oneself, not_yours},
};
use touchline_proto::{
    serving::{GetComponentsResponse, component_service_server::ComponentService},
    v1::{
        BatchGetComponentsRequest, GetComponentsRequest, RecordInteractionsRequest,
        RecordInteractionsResponse, WatchEventRequest, feedback_service_server::FeedbackService,
    },
};

use super::Api;
use crate::status::Reply;

/// What each call of this server needs.
pub(crate) fn needs(path: &str) -> Need {
    match path {
        "/touchline.v1.ComponentService/GetComponents" => Need::OneOf(&[Scope::Components]),
        // Its state is taken for the event's, whoever asks: not for fans to say.
        "/touchline.v1.ComponentService/BatchGetComponents" => Need::OneOf(&[Scope::ComponentsAny]),
        "/touchline.v1.ComponentService/WatchEvent"
        | "/touchline.v1.EventService/GetEvent"
        | "/touchline.v1.EventService/ListEvents" => Need::OneOf(&[Scope::EventsRead]),
        "/touchline.v1.EventService/PutEvent" | "/touchline.v1.EventService/DeleteEvent" => {
            Need::OneOf(&[Scope::EventsWrite])
        }
        "/touchline.v1.FeedbackService/RecordInteractions" => Need::OneOf(&[Scope::Feedback]),
        other => common(other),
    }
}

/// The services, for callers who may ask what they ask.
#[derive(Debug, Clone)]
pub(crate) struct Guarded(pub(crate) Api);

/// Whether the caller may ask for these consumers, each named by its field.
fn check<'a, T>(
    request: &'a Request<T>,
    any: Scope,
    consumers: impl Fn(&'a T) -> Vec<(String, &'a str)>,
) -> Result<(), Status> {
    // Absent while authentication is off: the layer lets nobody through without one.
    let Some(identity) = request.extensions().get::<Identity>() else {
        return Ok(());
    };
    if identity.scopes.has(any) {
        return Ok(());
    }
    for (field, consumer_id) in consumers(request.get_ref()) {
        if !identity.may_act_for(consumer_id, any) {
            return Err(not_yours(&field, any));
        }
    }
    Ok(())
}

#[tonic::async_trait]
impl ComponentService for Guarded {
    async fn get_components(
        &self,
        request: Request<GetComponentsRequest>,
    ) -> Reply<GetComponentsResponse> {
        check(&request, Scope::ComponentsAny, |asked| {
            vec![("consumer_id".to_owned(), asked.consumer_id.as_str())]
        })?;
        let identity = request.extensions().get::<Identity>();
        // A filter may be what keeps an item from somebody, who shall not ask without it.
        if request.get_ref().refinement.is_some()
            && identity.is_some_and(|identity| !identity.scopes.has(Scope::ComponentsAny))
        {
            return Err(not_for_oneself("refinement", Scope::ComponentsAny));
        }
        self.0.get_components(request).await
    }

    type BatchGetComponentsStream = <Api as ComponentService>::BatchGetComponentsStream;

    async fn batch_get_components(
        &self,
        request: Request<BatchGetComponentsRequest>,
    ) -> Reply<Self::BatchGetComponentsStream> {
        self.0.batch_get_components(request).await
    }

    type WatchEventStream = <Api as ComponentService>::WatchEventStream;

    async fn watch_event(
        &self,
        request: Request<WatchEventRequest>,
    ) -> Reply<Self::WatchEventStream> {
        // Without a consumer it is the event's state alone.
        check(&request, Scope::ComponentsAny, |asked| {
            match asked.consumer_id.as_str() {
                "" => Vec::new(),
                consumer_id => vec![("consumer_id".to_owned(), consumer_id)],
            }
        })?;
        self.0.watch_event(request).await
    }
}

#[tonic::async_trait]
impl FeedbackService for Guarded {
    async fn record_interactions(
        &self,
        request: Request<RecordInteractionsRequest>,
    ) -> Reply<RecordInteractionsResponse> {
        check(&request, Scope::FeedbackAny, |asked| {
            let interactions = asked.interactions.iter().enumerate();
            interactions
                .map(|(place, interaction)| {
                    let field = format!("interactions[{place}].consumer_id");
                    (field, interaction.consumer_id.as_str())
                })
                .collect()
        })?;
        self.0.record_interactions(request).await
    }
}
