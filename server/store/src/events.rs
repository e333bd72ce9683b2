//! Rows of the event table. Says nothing of what a state means for anybody: see `event`.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use tracing::warn;

use crate::{
    Error, Result,
    event::EventState,
    ids::EventId,
    row::{self, EVENT_ID, Row, text},
    tables::Store,
};

/// A page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// Readable rows.
    pub states: Vec<EventState>,
    /// Events whose rows cannot be understood.
    pub unreadable: Vec<EventId>,
    /// Where the next page starts; `None` on the last.
    pub next: Option<EventId>,
}

impl Store {
    /// Replaces the event's row, or with `merge` sets the attributes (and the contents, unless
    /// empty) that are given and keeps the others. Returns the state after the write.
    pub async fn put_event(&self, state: &EventState, merge: bool) -> Result<EventState> {
        if merge {
            return self.merge_event(state).await;
        }
        let request = self.dynamodb.put_item().table_name(&self.names.event);
        let written = request
            .set_item(Some(row::event::to_row(state)?))
            .send()
            .await;
        written.map_err(|error| Error::from_sdk(&self.names.event, error))?;
        Ok(state.clone())
    }

    async fn merge_event(&self, state: &EventState) -> Result<EventState> {
        let mut request = self
            .dynamodb
            .update_item()
            .table_name(&self.names.event)
            .key(EVENT_ID, text(state.event_id.as_str()))
            .return_values(ReturnValue::AllNew);
        let mut sets = Vec::new();
        for (index, (name, value)) in row::event::attributes(state)?.into_iter().enumerate() {
            sets.push(format!("#n{index} = :v{index}"));
            request = request
                .expression_attribute_names(format!("#n{index}"), name)
                .expression_attribute_values(format!(":v{index}"), value);
        }
        if !sets.is_empty() {
            request = request.update_expression(format!("SET {}", sets.join(", ")));
        }
        let written = request.send().await;
        let written = written.map_err(|error| Error::from_sdk(&self.names.event, error))?;
        read(written.attributes.unwrap_or_default())
    }

    /// The newest state, read consistently. A row that cannot be understood is `Error::Invalid`.
    pub async fn event(&self, event_id: &EventId) -> Result<Option<EventState>> {
        let request = self.dynamodb.get_item().table_name(&self.names.event);
        let found = request
            .key(EVENT_ID, text(event_id.as_str()))
            .consistent_read(true)
            .send()
            .await;
        let found = found.map_err(|error| Error::from_sdk(&self.names.event, error))?;
        found.item.map(read).transpose()
    }

    /// A page of at most `limit` events, after `after`. Rows that cannot be understood are skipped,
    /// logged and counted.
    pub async fn events(&self, limit: u32, after: Option<&EventId>) -> Result<EventPage> {
        let limit = i32::try_from(limit.max(1)).unwrap_or(i32::MAX);
        let mut start = after.map(|after| key(text(after.as_str())));
        let (mut states, mut unreadable) = (Vec::new(), Vec::new());
        loop {
            let request = self.dynamodb.scan().table_name(&self.names.event);
            let page = request
                .limit(limit)
                .consistent_read(true)
                .set_exclusive_start_key(start)
                .send()
                .await;
            let page = page.map_err(|error| Error::from_sdk(&self.names.event, error))?;
            for row in page.items.unwrap_or_default() {
                let event_id = row.get(EVENT_ID).and_then(|id| id.as_s().ok());
                let event_id = event_id.and_then(|id| EventId::new(id).ok());
                match row::event::from_row(row) {
                    Ok(state) => states.push(state),
                    Err(reason) => {
                        warn!(%reason, "skipped a row of the event table");
                        unreadable.extend(event_id);
                    }
                }
            }
            let Some(last) = page.last_evaluated_key else {
                return Ok(EventPage {
                    states,
                    unreadable,
                    next: None,
                });
            };
            // A page that ends on a row whose key is no event id cannot be continued by its
            // caller, so it is continued here.
            if let Some(AttributeValue::S(last)) = last.get(EVENT_ID)
                && let Ok(next) = EventId::new(last)
            {
                let next = Some(next);
                return Ok(EventPage {
                    states,
                    unreadable,
                    next,
                });
            }
            start = Some(last);
        }
    }

    /// Deletes the event's row; says whether there was one.
    pub async fn delete_event(&self, event_id: &EventId) -> Result<bool> {
        let request = self.dynamodb.delete_item().table_name(&self.names.event);
        let deleted = request
            .key(EVENT_ID, text(event_id.as_str()))
            .return_values(ReturnValue::AllOld)
            .send()
            .await;
        let deleted = deleted.map_err(|error| Error::from_sdk(&self.names.event, error))?;
        Ok(deleted.attributes.is_some_and(|row| !row.is_empty()))
    }
}

fn key(event_id: AttributeValue) -> Row {
    Row::from([(EVENT_ID.to_owned(), event_id)])
}

fn read(row: Row) -> Result<EventState> {
    row::event::from_row(row).map_err(|unreadable| Error::Invalid {
        field: "the event's row".to_owned(),
        reason: unreadable.to_string(),
    })
}
