//! One fan's connection from its opening to its end: what it says is handled here, one message after
//! another; what it is sent is written by its writer, also meanwhile. Each connection has a task of its
//! own that sleeps until the fan says something, so it holds as little as it can.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use tokio::io::Interest;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use touchline_runtime::{backoff::Backoff, metrics::Held};

use super::{Gateway, rate::Rate};
use crate::{
    connections::{
        Frame,
        closing::Closing,
        connection::{Connection, Ending},
    },
    messages,
    routes::{self, Route, registration::Registering},
};

/// Handling of one message; gives the registration that is stored now.
type Handling = Pin<Box<dyn Future<Output = Option<Registering>> + Send>>;

/// Attempts to remove the row of a closed connection; after that the first 410 or its TTL does it.
const CLOSING_ATTEMPTS_MAX: u32 = 3;

/// When a fan whose session cannot be opened may try again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Holds the connection until one side ends it.
pub(super) async fn hold(gateway: Arc<Gateway>, connection: Arc<Connection>) {
    let ending = match Box::pin(open(&gateway, &connection)).await {
        Ok(()) => converse(&gateway, &connection).await,
        Err(closing) => Ending::Closing(closing),
    };
    Box::pin(leave(&gateway, &connection, ending)).await;
}

async fn open(gateway: &Gateway, connection: &Connection) -> Result<(), Closing> {
    // The semaphore is never closed; without a permit the call would only be less polite.
    let _permit = gateway.session_calls.acquire().await;
    let identity = connection.identity();
    let sessions = gateway.sessions.as_ref();
    let opened = routes::connect(
        sessions,
        &connection.id,
        &gateway.endpoint,
        identity.as_ref(),
    );
    match opened.await.status {
        200 => Ok(()),
        _ => Err(Closing::unavailable(RETRY_AFTER)),
    }
}

/// Ends the connection for everybody who may still know it.
async fn leave(gateway: &Gateway, connection: &Connection, ending: Ending) {
    connection.end(ending.clone());
    gateway.local.remove(&connection.id);
    if let Ending::Closing(closing) = ending {
        connection.socket.say_goodbye(closing).await;
    }
    connection.ended();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    for _ in 0..CLOSING_ATTEMPTS_MAX {
        let permit = gateway.session_calls.acquire().await;
        let disconnected = routes::disconnect(gateway.sessions.as_ref(), &connection.id).await;
        if disconnected.status == 200 {
            return;
        }
        drop(permit);
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// Reads, and waits for a socket that was full, until something ends it.
async fn converse(gateway: &Arc<Gateway>, connection: &Arc<Connection>) -> Ending {
    let front = &gateway.metrics.front;
    let mut rate = Rate::new(&gateway.limits, Instant::now());
    let mut counted = Held::in_gauge(front.fans(None));
    let mut handling: Option<Handling> = None;
    // What came in one segment with the handshake was read already.
    let mut may_hold_more = true;
    loop {
        if let Some(ending) = connection.ending() {
            return ending;
        }
        if may_hold_more && handling.is_none() {
            match receive(gateway, connection, &mut rate) {
                Ok(Received::Nothing) => may_hold_more = false,
                Ok(Received::Done) => {}
                Ok(Received::Handling(next)) => handling = Some(next),
                Err(ending) => return ending,
            }
            // A fan who never stops talking lets others have their turn.
            tokio::task::coop::consume_budget().await;
            continue;
        }
        let interest = match (handling.is_none(), connection.times.is_blocked()) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            // The next message waits until the last one is handled: order, and no queue.
            (false, true) => Some(Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, false) => None,
        };
        let ready = async {
            match interest {
                Some(interest) => connection.socket.ready(interest).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = connection.woken() => {}
            registered = wait_for(&mut handling) => {
                handling = None;
                if let Some(registering) = registered {
                    let protocol = registering.registration.protocol;
                    counted.move_to(front.fans(Some(protocol)));
                }
            }
            ready = ready => {
                let Ok(ready) = ready else {
                    return Ending::Broken;
                };
                if ready.is_writable() && connection.times.is_blocked() {
                    connection.write();
                }
                // Waiting to write says nothing of what came in before.
                may_hold_more |= ready.is_readable();
            }
        }
    }
}

async fn wait_for<F: Future + Unpin>(work: &mut Option<F>) -> F::Output {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// What looking for a message came to.
enum Received {
    /// More has to come first.
    Nothing,
    /// Nothing follows from it.
    Done,
    Handling(Handling),
}

/// Looks at what came in, if it is a whole message. An error ends the connection, with a word where the
/// fan can hear one.
fn receive(
    gateway: &Arc<Gateway>,
    connection: &Arc<Connection>,
    rate: &mut Rate,
) -> Result<Received, Ending> {
    let ended = &gateway.metrics.front.ended;
    let mut bytes = 0;
    let received = connection.socket.receive(&mut bytes);
    let now = Instant::now();
    if bytes > 0 {
        connection.times.heard();
        if !rate.allows_bytes(bytes, now) {
            ended.flooding.inc();
            return Err(Ending::Closing(Closing::policy("too much is sent")));
        }
    }
    match received {
        Ok(None) => Ok(Received::Nothing),
        Ok(Some(Message::Text(text))) => {
            connection.times.active();
            let may_pass = rate.allows_message(now) && gateway.rates.allow_message(connection);
            if !may_pass {
                gateway.metrics.front.messages_throttled.inc();
                throttle(connection);
                return Ok(Received::Done);
            }
            let (gateway, connection) = (gateway.clone(), connection.clone());
            let handling = handle(gateway, connection, text);
            Ok(Received::Handling(Box::pin(handling)))
        }
        Ok(Some(Message::Ping(_))) => {
            if !rate.allows_ping(now) {
                ended.flooding.inc();
                return Err(Ending::Closing(Closing::policy("too many pings")));
            }
            connection.times.active();
            // The library holds the pong; it goes out now or when the socket takes it.
            connection.write();
            Ok(Received::Done)
        }
        Ok(Some(Message::Binary(_))) => {
            ended.invalid.inc();
            Err(Ending::Closing(Closing::BINARY))
        }
        // After the fan's close frame the library answers it, and the stream ends.
        Ok(Some(Message::Pong(_) | Message::Close(_) | Message::Frame(_))) => Ok(Received::Done),
        Err(error) => Err(match Closing::of(&error) {
            Some(closing) => {
                ended.invalid.inc();
                Ending::Closing(closing)
            }
            None => Ending::Broken,
        }),
    }
}

fn throttle(connection: &Arc<Connection>) {
    let error = messages::api_gateway_error(
        "too many messages; send fewer a second",
        connection.id.as_str(),
        &request_id(),
    );
    // A full mailbox closes the connection by itself.
    let _ = connection.answer(Frame::reply(error));
}

/// Runs the route that a message selects and answers it; gives the registration that is stored now.
async fn handle(
    gateway: Arc<Gateway>,
    connection: Arc<Connection>,
    text: Utf8Bytes,
) -> Option<Registering> {
    let route = routes::select(&text, gateway.verifier.is_some());
    gateway.metrics.front.received(route).inc();
    let sessions = gateway.sessions.as_ref();
    let outcome = match route {
        Route::Default => routes::default(),
        Route::SendMessage => {
            connection.registering();
            let _permit = gateway.session_calls.acquire().await;
            let identity = connection.identity();
            routes::sendmessage(
                sessions,
                &connection.id,
                &request_id(),
                &text,
                identity.as_ref(),
            )
            .await
        }
        Route::Refresh => match &gateway.verifier {
            Some(verifier) => {
                let _permit = gateway.session_calls.acquire().await;
                routes::refresh(sessions, verifier, &connection.id, &text).await
            }
            None => routes::default(),
        },
    };
    if outcome.renewed.is_some() {
        connection.identify(outcome.renewed.clone());
    }
    if let Some(registering) = &outcome.registered {
        connection.registered(registering.registration.consumer_id.clone());
    }
    if let Some(post) = outcome.post {
        // A full mailbox closes the connection by itself.
        let _ = connection.answer(Frame::reply(post));
    }
    if let Some(registering) = &outcome.registered {
        gateway
            .welcome
            .answer(&connection, registering.clone())
            .await;
    }
    outcome.registered
}

/// An id in the shape of API Gateway's request ids.
fn request_id() -> String {
    URL_SAFE.encode(rand::random::<[u8; 11]>())
}
