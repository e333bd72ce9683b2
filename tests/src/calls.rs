//! Calls that many tests make, over the typed client.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use touchline_client::{Client, Situation, Watched, proto};

/// What a consumer is shown in an event.
pub async fn components(
    client: &Client,
    consumer: &str,
    event: &str,
) -> Result<proto::ComponentSet> {
    let situation = Situation::Event(event.to_owned());
    Ok(client.get_components(consumer, situation).await?)
}

/// Sets attributes of an event and keeps the others.
pub async fn merge_event<'a, V: Into<String>>(
    client: &Client,
    event: &str,
    attributes: impl IntoIterator<Item = (&'a str, V)>,
) -> Result<proto::EventState> {
    let attributes = attributes
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()));
    let event = proto::EventState {
        event_id: event.to_owned(),
        attributes: attributes.collect(),
        ..proto::EventState::default()
    };
    Ok(client.put_event(event, true).await?)
}

/// Records that a consumer tapped an item during an event.
pub async fn tap(client: &Client, consumer: &str, item: &str, event: &str) -> Result<()> {
    let interaction = proto::Interaction {
        consumer_id: consumer.to_owned(),
        item_id: item.to_owned(),
        event_type: "tap".to_owned(),
        event_id: event.to_owned(),
        ..proto::Interaction::default()
    };
    client.record_interactions(vec![interaction]).await?;
    Ok(())
}

/// All events.
pub async fn events(client: &Client) -> Result<Vec<proto::EventState>> {
    Ok(client.list_events().try_collect().await?)
}

/// The next state of a watch, and the set beside it.
pub async fn next_state(
    watch: &mut BoxStream<'static, Result<Watched, touchline_client::Error>>,
) -> Result<(proto::EventState, Option<proto::ComponentSet>)> {
    loop {
        let watched = tokio::time::timeout(crate::DEADLINE, watch.next()).await;
        match watched
            .context("nothing came")?
            .context("the watch ended")??
        {
            Watched::State {
                state,
                component_set,
            } => return Ok((state, component_set)),
            Watched::Interrupted { .. } => {}
        }
    }
}
