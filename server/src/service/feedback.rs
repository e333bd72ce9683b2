//! `FeedbackService`: what consumers did, checked as a whole before any of it is recorded.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{StreamExt, TryStreamExt, stream};
use tonic::{Request, Response};
use touchline_proto::v1::{
    Interaction as InteractionMessage, RecordInteractionsRequest, RecordInteractionsResponse,
    feedback_service_server::FeedbackService,
};
use touchline_store::{
    event::Context,
    ids::{ConsumerId, EventId, ID_CHARACTERS_MAX, ItemId},
};

use super::{Api, validate::Violations};
use crate::{catalog::Catalog, error::Error, recommend::Interaction, status::Reply};

/// Interactions of one call.
const INTERACTIONS_MAX: usize = 500;
/// How far ahead of this server a caller's clock may be.
const AHEAD_MAX: Duration = Duration::from_hours(24);
/// Events whose state is read at the same time.
const READ_CONCURRENCY: usize = 16;

#[tonic::async_trait]
impl FeedbackService for Api {
    async fn record_interactions(
        &self,
        request: Request<RecordInteractionsRequest>,
    ) -> Reply<RecordInteractionsResponse> {
        let mut interactions = read(request.into_inner())?;
        self.check_items(&interactions).await?;
        self.add_contexts(&mut interactions).await?;
        let recorded = self
            .sets
            .rankings()
            .recommender()
            .record(&interactions)
            .await
            .map_err(Error::from)?;
        let count = |count| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Response::new(RecordInteractionsResponse {
            recorded: count(recorded.recorded),
            duplicates: count(recorded.duplicates),
        }))
    }
}

impl Api {
    /// Every item must be known; before one is refused the catalog is read again.
    async fn check_items(&self, interactions: &[Interaction]) -> Result<(), Error> {
        let catalog = self.sets.catalog();
        if unknown_items(interactions, catalog.current()?.as_ref()).is_ok() {
            return Ok(());
        }
        unknown_items(interactions, catalog.recent().await?.as_ref())
    }

    /// Interactions that name an event instead of a context get the context of its newest state;
    /// one that has ended meanwhile gives none.
    async fn add_contexts(&self, interactions: &mut [Interaction]) -> Result<(), Error> {
        let without = |interaction: &&mut Interaction| interaction.context.is_empty();
        let event_ids: HashSet<EventId> = interactions
            .iter_mut()
            .filter(without)
            .filter_map(|interaction| interaction.event_id.clone())
            .collect();
        let contexts: HashMap<EventId, Context> = stream::iter(event_ids)
            .map(|event_id| async move {
                let context = match self.events.current(&event_id).await {
                    Ok(seen) => Context::clone(&self.sets.context(&seen)),
                    Err(Error::EventNotFound) => Context::new(),
                    Err(error) => return Err(error),
                };
                Ok((event_id, context))
            })
            .buffer_unordered(READ_CONCURRENCY)
            .try_collect()
            .await?;
        for interaction in interactions.iter_mut().filter(without) {
            let event_id = interaction.event_id.as_ref();
            if let Some(context) = event_id.and_then(|event_id| contexts.get(event_id)) {
                interaction.context = context.clone();
            }
        }
        Ok(())
    }
}

fn unknown_items(interactions: &[Interaction], catalog: &Catalog) -> Result<(), Error> {
    let mut violations = Violations::default();
    for (index, interaction) in interactions.iter().enumerate() {
        if catalog.get(&interaction.item_id).is_none() {
            let field = format!("interactions[{index}].item_id");
            violations.add(field, "is no item of the catalog");
        }
    }
    violations.finish()
}

fn read(request: RecordInteractionsRequest) -> Result<Vec<Interaction>, Error> {
    let mut violations = Violations::default();
    let count = request.interactions.len();
    if count == 0 {
        violations.add("interactions", "must not be empty");
    }
    violations.at_most("interactions", count, INTERACTIONS_MAX);
    let interactions = request
        .interactions
        .into_iter()
        .take(INTERACTIONS_MAX)
        .enumerate()
        .filter_map(|(index, message)| read_one(&mut violations, index, message))
        .collect();
    violations.finish()?;
    Ok(interactions)
}

/// One interaction; `None` only beside a violation.
fn read_one(
    violations: &mut Violations,
    index: usize,
    message: InteractionMessage,
) -> Option<Interaction> {
    let field = |name: &str| format!("interactions[{index}].{name}");
    let consumer_id = violations.id(field("consumer_id"), ConsumerId::new(message.consumer_id));
    let item_id = violations.id(field("item_id"), ItemId::new(message.item_id));
    if message.event_type.is_empty() {
        violations.add(field("event_type"), "must not be empty");
    }
    for (name, text) in [
        ("event_type", &message.event_type),
        ("interaction_id", &message.interaction_id),
        ("recommendation_id", &message.recommendation_id),
    ] {
        violations.characters(field(name), text, ID_CHARACTERS_MAX);
    }
    let event_id = violations.optional_id(field("event_id"), message.event_id, EventId::new);
    let context = violations.context(&field("context"), message.context);
    let timestamp_seconds = match read_time(message.occurred_at) {
        Ok(seconds) => seconds,
        Err(description) => {
            violations.add(field("occurred_at"), description);
            return None;
        }
    };
    let recommendation_id = message.recommendation_id;
    Some(Interaction {
        interaction_id: message.interaction_id,
        consumer_id: consumer_id?,
        item_id: item_id?,
        event_type: message.event_type,
        timestamp_seconds,
        event_id,
        context,
        recommendation_id: (!recommendation_id.is_empty()).then_some(recommendation_id),
    })
}

/// Seconds since 1970; absent: now.
fn read_time(time: Option<prost_types::Timestamp>) -> Result<i64, &'static str> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let Some(time) = time else {
        return Ok(seconds(now));
    };
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err("has nanos outside 0 to 999,999,999");
    }
    if time.seconds < 0 {
        return Err("lies before 1970");
    }
    if time.seconds > seconds(now + AHEAD_MAX) {
        return Err("lies more than a day ahead");
    }
    Ok(time.seconds)
}
