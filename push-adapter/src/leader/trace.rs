//! The beginning of a trace: a span for each change that fans are told of, from the reading of the stream
//! that gave it until its last fan. Whether it is traced is decided here, for every process.

use std::{collections::HashMap, time::Instant};

use touchline_runtime::traces::{Kind, Span, Traces};
use touchline_store::{
    change::{Change, ChangeKind, Heard},
    ids::EventId,
    position::Position,
};

use super::course::Begun;

/// The spans of one reading's changes, by event: a reading gives each event's newest change alone.
pub(super) struct Begins {
    read_at: Instant,
    spans: HashMap<EventId, Span>,
}

impl Begins {
    /// Begins a trace for each change that is fanned out.
    pub(super) fn of(begun: &[Begun], read_at: Instant, traces: &Traces) -> Self {
        let spans = begun
            .iter()
            .filter(|_| traces.is_on())
            .map(|begun| {
                (
                    begun.change.event_id.clone(),
                    span(&begun.change, read_at, traces),
                )
            })
            .collect();
        Self { read_at, spans }
    }

    /// The change as followers of the feed hear of it.
    pub(super) fn heard(&self, change: Change) -> Change {
        let span = self.spans.get(&change.event_id);
        let traceparent = span.and_then(|span| span.place().traceparent());
        let heard = Heard {
            read_at: Some(self.read_at),
            traceparent: traceparent.map(Into::into),
        };
        Change { heard, ..change }
    }

    /// Takes the span of an event's change, for its fan-out.
    pub(super) fn take(&mut self, event_id: &EventId) -> Span {
        self.spans.remove(event_id).unwrap_or_default()
    }
}

fn span(change: &Change, read_at: Instant, traces: &Traces) -> Span {
    let mut span = traces.begin_since(read_at, "change", Kind::Consumer);
    if !span.is_recording() {
        return span;
    }
    span.say("touchline.event_id", change.event_id.as_str().to_owned());
    if let ChangeKind::Put(state) = &change.kind {
        span.say("touchline.version", state.version().as_str().to_owned());
    }
    if let Some(sequence) = change.position.as_ref().map(Position::sequence) {
        span.say("touchline.sequence", sequence.to_owned());
    }
    span
}
