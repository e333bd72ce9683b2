//! What the page is told as it happens, as server-sent events. Each kind is a snapshot: a slow page
//! misses what was in between, never what is newest.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

use super::{Desk, Refused};

/// Pages that are told at the same time.
pub(super) const STREAMS_MAX: usize = 32;
/// When a page whose stream broke asks again.
const RETRY: Duration = Duration::from_millis(500);

pub(super) async fn live(State(desk): State<Arc<Desk>>) -> Response {
    let Ok(place) = desk.streams.clone().try_acquire_owned() else {
        let message = format!("{STREAMS_MAX} pages are open already");
        return Refused::new(StatusCode::SERVICE_UNAVAILABLE, message).into_response();
    };
    let first = stream::iter([Event::default().retry(RETRY)]);
    let told = stream::select_all([
        snapshots("state", desk.state.subscribe()).boxed(),
        snapshots("replay", desk.replay.subscribe()).boxed(),
        snapshots("figures", desk.figures.subscribe()).boxed(),
    ]);
    let events = first
        .chain(told)
        .map(move |event| {
            let _place = &place;
            Ok::<_, Infallible>(event)
        })
        .take_until(desk.shutdown.clone().cancelled_owned());
    Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response()
}

/// The value as it is, then each time that it has changed.
fn snapshots<T>(name: &'static str, values: watch::Receiver<T>) -> impl Stream<Item = Event> + Send
where
    T: Serialize + Clone + Send + Sync + 'static,
{
    WatchStream::new(values).map(move |value| {
        let event = Event::default().event(name);
        event
            .json_data(value)
            .expect("values of texts and numbers are JSON")
    })
}
