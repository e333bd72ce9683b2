//! A WebSocket client that knows only the public messages.

use std::{net::SocketAddr, time::Duration};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, protocol::CloseFrame},
};

use super::DEADLINE;

pub(crate) struct Fan {
    pub(crate) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Fan {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let (socket, _) = connect_async(format!("ws://{address}/dev")).await.unwrap();
        Self { socket }
    }

    /// Registers as the prototype's fans do, and waits for the answer.
    pub(crate) async fn register(&mut self, consumer: &str, content: &str) {
        self.say(&registration(consumer, content)).await;
        assert_eq!(self.hear().await, json!({"status": "success"}));
    }

    /// Registers for protocol 2; an answer comes only where an event is on.
    pub(crate) async fn register_2(&mut self, consumer: &str, content: &str, set_id: Option<&str>) {
        let mut message = registration(consumer, content);
        message["protocol"] = json!(2);
        if let Some(set_id) = set_id {
            message["set_id"] = json!(set_id);
        }
        self.say(&message).await;
    }

    pub(crate) async fn say(&mut self, message: &Value) {
        self.send(Message::text(message.to_string())).await;
    }

    pub(crate) async fn send(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    /// The next text.
    pub(crate) async fn hear_text(&mut self) -> String {
        let hear = async {
            loop {
                match self.socket.next().await.unwrap().unwrap() {
                    Message::Text(text) => return text.to_string(),
                    Message::Close(frame) => panic!("closed: {frame:?}"),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(DEADLINE, hear).await.unwrap()
    }

    /// The next text, as JSON.
    pub(crate) async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.hear_text().await).unwrap()
    }

    /// Passes over messages until this one; says how many there were before.
    pub(crate) async fn hear_until(&mut self, wanted: &Value) -> usize {
        let mut before = 0;
        while self.hear().await != *wanted {
            before += 1;
        }
        before
    }

    /// Asks for the default text: what comes before it was sent before.
    pub(crate) async fn hear_what_waits(&mut self) -> Vec<Value> {
        self.send(Message::text("anything")).await;
        let default = json!("this is default route. please use right action key");
        let mut waited = Vec::new();
        loop {
            match self.hear().await {
                message if message == default => return waited,
                message => waited.push(message),
            }
        }
    }

    /// Nothing was sent that was not heard.
    pub(crate) async fn has_heard_nothing(&mut self) {
        assert_eq!(self.hear_what_waits().await, Vec::<Value>::new());
    }

    /// The frame that the front closes with.
    pub(crate) async fn closed(&mut self) -> Option<CloseFrame> {
        let closed = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(frame))) => return frame,
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return None,
                }
            }
        };
        tokio::time::timeout(DEADLINE, closed).await.unwrap()
    }

    /// How many texts came before the frame that the front closes with, and that.
    pub(crate) async fn closed_after_texts(&mut self) -> (usize, Option<CloseFrame>) {
        let mut texts = 0;
        let closed = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(frame))) => return frame,
                    Some(Ok(message)) => texts += usize::from(message.is_text()),
                    Some(Err(_)) | None => return None,
                }
            }
        };
        let closed = tokio::time::timeout(DEADLINE, closed).await.unwrap();
        (texts, closed)
    }

    /// The code that the front closes with.
    pub(crate) async fn close_code(&mut self) -> u16 {
        self.closed().await.unwrap().code.into()
    }

    /// Whether nothing comes for a while: for what must never come, where nothing else tells.
    pub(crate) async fn is_quiet_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.socket.next())
            .await
            .is_err()
    }
}

/// The prototype's `sendmessage`.
pub(crate) fn registration(consumer: &str, content: &str) -> Value {
    json!({
        "action": "sendmessage",
        "consumer_id": consumer,
        "device_id": "phone",
        "content_id": content,
    })
}
