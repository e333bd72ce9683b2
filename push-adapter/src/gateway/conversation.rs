//! One fan's connection from its opening to its end. Messages of one fan are handled one after
//! another; while one is being handled, what others put into the mailbox is still written.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

use touchline_runtime::{backoff::Backoff, metrics::Held};

use super::{Gateway, rate::Rate, registered};
use crate::{
    connections::{
        Frame,
        local::{Closing, Connection},
    },
    messages,
    routes::{self, Route, registration::Registering},
};

type Socket = WebSocketStream<TcpStream>;
/// Handling of one message; a registration that is stored is still to be answered with a set.
type Handling = Pin<Box<dyn Future<Output = Option<Registering>> + Send>>;
/// Answering a registration, beside whatever else the fan sends.
type Answering = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How long a closed fan is listened to, so that it can read why it was closed.
const GOODBYE: Duration = Duration::from_secs(1);

/// Attempts to remove the row of a closed connection; after that the first 410 or its TTL does it.
const CLOSING_ATTEMPTS_MAX: u32 = 3;

/// Holds the connection until one side ends it.
pub(super) async fn hold(
    gateway: &Arc<Gateway>,
    mut socket: Socket,
    connection: &Arc<Connection>,
    stopping: &CancellationToken,
) {
    let opened = {
        // The semaphore is never closed; without a permit the call would only be less polite.
        let _permit = gateway.session_calls.acquire().await;
        let identity = connection.identity();
        let endpoint = &gateway.endpoint;
        routes::connect(&gateway.store, &connection.id, endpoint, identity.as_ref()).await
    };
    let closing = if opened.status == 200 {
        converse(gateway, &mut socket, connection, stopping).await
    } else {
        Some(Closing {
            code: 1011,
            reason: "try again later",
        })
    };
    gateway.local.remove(&connection.id);
    if let Some(closing) = closing {
        say_goodbye(&mut socket, closing).await;
    }
    drop(socket);
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    for _ in 0..CLOSING_ATTEMPTS_MAX {
        let permit = gateway.session_calls.acquire().await;
        if routes::disconnect(&gateway.store, &connection.id)
            .await
            .status
            == 200
        {
            return;
        }
        drop(permit);
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// Moments that end or test a quiet connection.
struct Clock {
    ends: Instant,
    /// A message, or a ping of the fan's, last went in or out.
    active: Instant,
    /// Anything last came in.
    heard: Instant,
    pinged: Instant,
}

/// Reads and writes until something ends it; `None` when the fan is gone already.
async fn converse(
    gateway: &Arc<Gateway>,
    socket: &mut Socket,
    connection: &Arc<Connection>,
    stopping: &CancellationToken,
) -> Option<Closing> {
    let now = Instant::now();
    let limits = &gateway.limits;
    let mut clock = Clock {
        ends: now + limits.fan_lifetime_max,
        active: now,
        heard: now,
        pinged: now,
    };
    let mut rate = Rate::new(limits.fan_messages_per_second, now);
    let front = &gateway.metrics.front;
    let mut counted = Held::in_gauge(front.fans(None));
    let mut handling: Option<Handling> = None;
    let mut answering: Option<Answering> = None;
    let mut frames = Vec::new();
    loop {
        let expires = expires_in(connection);
        if expires.is_some_and(|left| left.is_zero()) {
            return Some(Closing::expired());
        }
        let wakes = clock
            .ends
            .min(expires.map_or(clock.ends, |left| Instant::now() + left))
            .min(clock.active + limits.fan_idle_timeout)
            .min(clock.pinged + limits.fan_ping_interval);
        tokio::select! {
            biased;
            () = stopping.cancelled() => return Some(Closing::going_away("the server restarts")),
            () = connection.woken() => {
                if let Err(closing) = write(gateway, socket, connection, &mut frames).await {
                    return closing;
                }
                clock.active = Instant::now();
            }
            registered = wait_for(&mut handling) => {
                handling = None;
                if let Some(registering) = registered {
                    let protocol = registering.registration.protocol;
                    counted.move_to(front.fans(Some(protocol)));
                    // The newest registration is the one that counts.
                    let (gateway, connection) = (gateway.clone(), connection.clone());
                    answering = Some(Box::pin(async move {
                        registered::answer(&gateway, &connection, &registering).await;
                    }));
                }
            }
            () = wait_for(&mut answering) => answering = None,
            // The next message waits until the last one is handled: order, and no queue.
            message = socket.next(), if handling.is_none() => {
                clock.heard = Instant::now();
                match receive(gateway, connection, message, &mut rate) {
                    Ok(next) => {
                        if next.counts {
                            clock.active = clock.heard;
                            connection.active();
                        }
                        handling = next.handling;
                    }
                    Err(closing) => return closing,
                }
            }
            () = tokio::time::sleep_until(wakes.into()) => {
                if let Some(closing) = tick(gateway, socket, &mut clock).await {
                    return closing;
                }
            }
        }
    }
}

/// How long the fan's token is still good; `None` where none was asked for, or it is for ever.
fn expires_in(connection: &Connection) -> Option<Duration> {
    connection.identity()?.expires_in(SystemTime::now())
}

async fn wait_for<F: Future + Unpin>(work: &mut Option<F>) -> F::Output {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// What a message from the fan leads to.
#[derive(Default)]
struct Received {
    handling: Option<Handling>,
    /// Whether the connection is not idle because of it.
    counts: bool,
}

/// Looks at what came in. An error ends the connection, with a word where the fan can hear one.
fn receive(
    gateway: &Arc<Gateway>,
    connection: &Arc<Connection>,
    message: Option<Result<Message, Error>>,
    rate: &mut Rate,
) -> Result<Received, Option<Closing>> {
    let close = |code, reason| Err(Some(Closing { code, reason }));
    match message {
        Some(Ok(Message::Text(text))) => {
            if !rate.allows(Instant::now()) {
                gateway.metrics.front.messages_throttled.inc();
                let request_id = request_id();
                let error = messages::api_gateway_error(
                    "too many messages; send fewer a second",
                    connection.id.as_str(),
                    &request_id,
                );
                // A full mailbox closes the connection by itself.
                let _ = connection.post(Frame::reply(error));
                return Ok(Received {
                    handling: None,
                    counts: true,
                });
            }
            Ok(Received {
                handling: Some(Box::pin(handle(gateway.clone(), connection.clone(), text))),
                counts: true,
            })
        }
        Some(Ok(Message::Binary(_))) => close(1003, "binary messages are not supported"),
        // The library has queued the pong.
        Some(Ok(Message::Ping(_))) => Ok(Received {
            handling: None,
            counts: true,
        }),
        // After the fan's close frame the library answers it, and the stream ends.
        Some(Ok(Message::Pong(_) | Message::Close(_) | Message::Frame(_))) => {
            Ok(Received::default())
        }
        Some(Err(Error::Capacity(_))) => close(1009, "the message is too large"),
        Some(Err(Error::Utf8(_))) => close(1007, "the message is not UTF-8"),
        Some(Err(Error::Protocol(_))) => close(1002, "the message breaks the protocol"),
        Some(Err(_)) | None => Err(None),
    }
}

/// Runs the route that a message selects and answers it; gives the registration that is stored now.
async fn handle(
    gateway: Arc<Gateway>,
    connection: Arc<Connection>,
    text: Utf8Bytes,
) -> Option<Registering> {
    let route = routes::select(&text, gateway.verifier.is_some());
    gateway.metrics.front.received(route).inc();
    let outcome = match route {
        Route::Default => routes::default(),
        Route::SendMessage => {
            connection.registering();
            let store = &gateway.store;
            let _permit = gateway.session_calls.acquire().await;
            let identity = connection.identity();
            routes::sendmessage(
                store,
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
                routes::refresh(&gateway.store, verifier, &connection.id, &text).await
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
        let _ = connection.post(Frame::reply(post));
    }
    outcome.registered
}

/// Writes what waits in the mailbox. A fan who does not take it in time is closed.
async fn write(
    gateway: &Gateway,
    socket: &mut Socket,
    connection: &Connection,
    frames: &mut Vec<Frame>,
) -> Result<(), Option<Closing>> {
    connection.take(frames).map_err(Some)?;
    if frames.is_empty() {
        return Ok(());
    }
    let writing = async {
        for frame in frames.iter() {
            socket.feed(Message::Text(frame.text().clone())).await?;
        }
        socket.flush().await
    };
    let written = tokio::time::timeout(gateway.limits.fan_write_deadline, writing).await;
    match written {
        Ok(Ok(())) => {
            frames.drain(..).for_each(|frame| frame.delivered());
            connection.active();
            Ok(())
        }
        // Nobody can be told: either the socket is broken, or the fan does not read.
        Ok(Err(_)) | Err(_) => Err(None),
    }
}

/// Something is due: the end of a connection that is old or idle, or a ping.
async fn tick(
    gateway: &Gateway,
    socket: &mut Socket,
    clock: &mut Clock,
) -> Option<Option<Closing>> {
    let now = Instant::now();
    if now >= clock.ends {
        let reason = "the connection has reached its greatest age; connect again";
        return Some(Some(Closing::going_away(reason)));
    }
    if now >= clock.active + gateway.limits.fan_idle_timeout {
        return Some(Some(Closing::going_away("the connection is idle")));
    }
    if now < clock.pinged + gateway.limits.fan_ping_interval {
        return None;
    }
    if clock.heard < clock.pinged {
        // The last ping was never answered.
        return Some(None);
    }
    let ping = socket.send(Message::Ping(bytes::Bytes::new()));
    let pinged = tokio::time::timeout(gateway.limits.fan_write_deadline, ping).await;
    if !matches!(pinged, Ok(Ok(()))) {
        return Some(None);
    }
    clock.pinged = now;
    None
}

/// Sends the reason, and reads on for a moment: closing a socket with unread bytes in it would take
/// the reason back.
async fn say_goodbye(socket: &mut Socket, closing: Closing) {
    let frame = CloseFrame {
        code: CloseCode::from(closing.code),
        reason: Utf8Bytes::from_static(closing.reason),
    };
    let goodbye = async {
        socket.send(Message::Close(Some(frame))).await.ok()?;
        let stream = socket.get_mut();
        stream.shutdown().await.ok()?;
        let mut rest = [0; 1_024];
        while stream.read(&mut rest).await.ok()? > 0 {}
        Some(())
    };
    // Past this the fan has had its time.
    let _ = tokio::time::timeout(GOODBYE, goodbye).await;
}

/// An id in the shape of API Gateway's request ids.
fn request_id() -> String {
    URL_SAFE.encode(rand::random::<[u8; 11]>())
}
