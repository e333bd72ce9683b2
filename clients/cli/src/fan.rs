//! A fan: a WebSocket connection that registers, listens and comes back. Knows the messages that
//! docs describe and nothing of how they came about; shows nothing, that is `commands::fan`.

use std::time::Duration;

use async_stream::try_stream;
use clap::ValueEnum;
use futures::{SinkExt, Stream, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        http::HeaderValue,
        protocol::{CloseFrame, WebSocketConfig},
    },
};
use touchline_client::Caller;
use touchline_runtime::backoff::Backoff;

use crate::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Nothing heard for so long, not even a pong: the connection is dead.
const SILENCE_MAX: Duration = Duration::from_secs(75);
/// A gateway's advice is followed up to this.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);
/// API Gateway's own limit of a message (quotas of WebSocket APIs).
const MESSAGE_BYTES_MAX: usize = 128 * 1024;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Which messages a fan asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// The prototype's: an object of item by slot
    #[value(name = "1")]
    V1,
    /// The envelope with version, position and components
    #[value(name = "2")]
    V2,
}

/// Who a fan says to be.
#[derive(Debug, Clone)]
pub struct Fan {
    /// The person, as the recommender knows them.
    pub consumer_id: String,
    /// The device.
    pub device_id: String,
    /// What is watched.
    pub content_id: String,
    /// The messages that are wanted.
    pub protocol: Protocol,
    /// Whose token is presented, if any.
    pub caller: Caller,
}

/// What happens to a fan.
#[derive(Debug)]
pub enum Heard {
    /// A connection stands and has registered: what changes from now on comes.
    Connected,
    /// A message, as it was sent.
    Message(String),
    /// The connection is gone, and a new one is tried.
    Interrupted {
        /// Why.
        reason: String,
        /// When it is tried.
        retry_in: Duration,
    },
}

/// What a fan knows of what it shows, so that it can say so when it comes back.
#[derive(Debug, Default)]
struct Shown {
    set_id: Option<String>,
    event_id: String,
    epoch: String,
    sequence: String,
}

impl Shown {
    /// Whether the message is to be shown: within one epoch of an event, nothing that is older than
    /// what is shown already.
    fn take(&mut self, text: &str) -> bool {
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            return true;
        };
        let of = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
        if message["type"] != "components" {
            return true;
        }
        let (event_id, epoch, sequence) = (of("event_id"), of("epoch"), of("sequence"));
        let same_history = event_id == self.event_id && epoch == self.epoch;
        if same_history && !sequence.is_empty() && sequence < self.sequence {
            return false;
        }
        self.set_id = Some(of("set_id"));
        // What has no position always applies, and says nothing about what may follow.
        if !sequence.is_empty() {
            (self.event_id, self.epoch, self.sequence) = (event_id, epoch, sequence);
        }
        true
    }
}

/// Why a connection is no more.
#[derive(Debug)]
struct Lost {
    reason: String,
    /// When the gateway said to come back, if it did.
    retry_after: Option<Duration>,
}

impl From<String> for Lost {
    fn from(reason: String) -> Self {
        Self {
            reason,
            retry_after: None,
        }
    }
}

/// Connects and listens for ever. The first connection must succeed; after it, one that is lost is
/// made again.
pub fn listen(gateway: String, fan: Fan) -> impl Stream<Item = Result<Heard, Error>> + Send {
    try_stream! {
        let mut shown = Shown::default();
        let mut backoff = Backoff::default();
        let mut socket = Some(connect(&gateway, &fan).await.map_err(|reason| Error::Gateway {
            gateway: gateway.clone(),
            reason,
        })?);
        loop {
            let connected = match socket.take() {
                Some(socket) => Ok(socket),
                None => connect(&gateway, &fan).await,
            };
            let reason = match connected {
                Err(reason) => Lost::from(reason),
                Ok(mut socket) => match register(&mut socket, &fan, &shown).await {
                    Err(reason) => Lost::from(reason),
                    Ok(()) => {
                        yield Heard::Connected;
                        let mut ping = interval(PING_INTERVAL);
                        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
                        let mut heard_at = Instant::now();
                        loop {
                            match next(&mut socket, &mut ping, &mut heard_at).await {
                                Err(reason) => break reason,
                                Ok(text) => {
                                    backoff.reset();
                                    if shown.take(&text) {
                                        yield Heard::Message(text);
                                    }
                                }
                            }
                        }
                    }
                },
            };
            let Lost { reason, retry_after } = reason;
            let retry_in = retry_after.unwrap_or_else(|| backoff.pause());
            yield Heard::Interrupted { reason, retry_in };
            tokio::time::sleep(retry_in).await;
        }
    }
}

async fn connect(gateway: &str, fan: &Fan) -> Result<Socket, String> {
    let mut request = gateway
        .into_client_request()
        .map_err(|error| error.to_string())?;
    if let Some(token) = fan.caller.token() {
        // As a browser can: it sets no other header.
        let offered = format!("touchline, touchline.bearer.{token}");
        let mut offered = HeaderValue::try_from(offered).map_err(|error| error.to_string())?;
        offered.set_sensitive(true);
        request
            .headers_mut()
            .insert("sec-websocket-protocol", offered);
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let connecting = connect_async_with_config(request, Some(config), true);
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}

async fn register(socket: &mut Socket, fan: &Fan, shown: &Shown) -> Result<(), String> {
    let message = registration(fan, shown.set_id.as_deref());
    let sent = timeout(CONNECT_TIMEOUT, socket.send(Message::text(message)));
    sent.await
        .map_err(|_| "the registration cannot be sent".to_owned())?
        .map_err(|error| error.to_string())
}

fn registration(fan: &Fan, set_id: Option<&str>) -> String {
    let mut message = json!({
        "action": "sendmessage",
        "consumer_id": fan.consumer_id,
        "device_id": fan.device_id,
        "content_id": fan.content_id,
    });
    if fan.protocol == Protocol::V2 {
        message["protocol"] = 2.into();
        if let Some(set_id) = set_id {
            message["set_id"] = set_id.into();
        }
    }
    message.to_string()
}

/// The next text. Pings, so that neither an idle time-out nor a dead network goes unnoticed.
async fn next(
    socket: &mut Socket,
    ping: &mut tokio::time::Interval,
    heard_at: &mut Instant,
) -> Result<String, Lost> {
    loop {
        let frame = tokio::select! {
            frame = socket.next() => frame,
            _ = ping.tick() => {
                if heard_at.elapsed() > SILENCE_MAX {
                    return Err("nothing heard, not even a pong".to_owned().into());
                }
                // An error of the socket is what the next reading says.
                let _ = timeout(CONNECT_TIMEOUT, socket.send(Message::Ping(Vec::new().into()))).await;
                continue;
            }
        };
        *heard_at = Instant::now();
        match frame {
            Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
            Some(Ok(Message::Close(frame))) => return Err(closed(frame)),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.to_string().into()),
            None => return Err("the connection was closed".to_owned().into()),
        }
    }
}

fn closed(frame: Option<CloseFrame>) -> Lost {
    let Some(frame) = frame else {
        return "the gateway closed the connection".to_owned().into();
    };
    let advice: Value = serde_json::from_str(&frame.reason).unwrap_or_default();
    let retry_after = advice["retry_after_ms"].as_u64().map(Duration::from_millis);
    Lost {
        reason: format!("the gateway closed the connection: {frame}"),
        retry_after: retry_after.map(|after| after.min(RETRY_AFTER_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fan(protocol: Protocol) -> Fan {
        Fan {
            consumer_id: "diego".to_owned(),
            device_id: "phone".to_owned(),
            content_id: "final".to_owned(),
            protocol,
            caller: Caller::default(),
        }
    }

    #[test]
    fn a_fan_who_is_sent_away_comes_back_when_it_was_told_to() {
        let lost = |reason: &'static str| {
            closed(Some(CloseFrame {
                code: 1012.into(),
                reason: reason.into(),
            }))
        };
        let advised = lost(r#"{"retry_after_ms":850,"reason":"the server restarts"}"#);
        assert_eq!(advised.retry_after, Some(Duration::from_millis(850)));
        let far = lost(r#"{"retry_after_ms":18446744073709551615}"#);
        assert_eq!(far.retry_after, Some(RETRY_AFTER_MAX));
        assert_eq!(lost("the connection is idle").retry_after, None);
    }

    #[test]
    fn a_fan_of_protocol_1_registers_exactly_as_the_prototypes_fans() {
        assert_eq!(
            registration(&fan(Protocol::V1), Some("0123")),
            r#"{"action":"sendmessage","consumer_id":"diego","device_id":"phone","content_id":"final"}"#
        );
    }

    #[test]
    fn a_fan_of_protocol_2_says_what_it_shows_when_it_comes_back() {
        let message = registration(&fan(Protocol::V2), Some("0123"));
        assert!(
            message.ends_with(r#""protocol":2,"set_id":"0123"}"#),
            "{message}"
        );
    }

    #[test]
    fn within_an_epoch_nothing_older_is_shown() {
        let message = |epoch: &str, sequence: &str| {
            json!({"type": "components", "event_id": "1", "set_id": "a", "epoch": epoch, "sequence": sequence})
                .to_string()
        };
        let mut shown = Shown::default();
        assert!(shown.take(&message("e", "2")));
        assert!(!shown.take(&message("e", "1")));
        assert!(shown.take(&message("f", "1")));
        assert!(shown.take(&message("f", "3")));
        assert!(shown.take(r#"{"type":"components","event_id":"1","set_id":"b"}"#));
        assert!(!shown.take(&message("f", "2")));
        assert!(shown.take("anything else"));
    }
}
