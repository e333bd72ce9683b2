//! A fan: a real WebSocket client that knows only the public messages.

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, protocol::CloseFrame},
};

use crate::DEADLINE;

/// One open connection of one fan.
#[derive(Debug)]
pub struct Fan {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Fan {
    /// Opens a connection, without registering.
    pub async fn connect(url: &str) -> Result<Self> {
        let (socket, _) = tokio::time::timeout(DEADLINE, connect_async(url))
            .await
            .context("no answer to the handshake")??;
        Ok(Self { socket })
    }

    /// Connects and registers with the prototype's message.
    pub async fn protocol_1(url: &str, consumer: &str, content: &str) -> Result<Self> {
        let mut fan = Self::connect(url).await?;
        fan.send_json(&registration(consumer, content)).await?;
        let answer = fan.receive().await?;
        if answer != json!({"status": "success"}) {
            bail!("registration was answered by {answer}");
        }
        Ok(fan)
    }

    /// Connects and registers for protocol 2. What comes first is the newest set, if there is one.
    pub async fn protocol_2(url: &str, consumer: &str, content: &str) -> Result<Self> {
        Self::protocol_2_resuming(url, consumer, content, None).await
    }

    /// As [`Fan::protocol_2`], saying which set is shown already.
    pub async fn protocol_2_resuming(
        url: &str,
        consumer: &str,
        content: &str,
        set_id: Option<&str>,
    ) -> Result<Self> {
        let mut fan = Self::connect(url).await?;
        let mut message = registration(consumer, content);
        message["protocol"] = json!(2);
        if let Some(set_id) = set_id {
            message["set_id"] = json!(set_id);
        }
        fan.send_json(&message).await?;
        Ok(fan)
    }

    /// Sends a JSON text.
    pub async fn send_json(&mut self, message: &Value) -> Result<()> {
        self.send(Message::text(message.to_string())).await
    }

    /// Sends any message.
    pub async fn send(&mut self, message: Message) -> Result<()> {
        Ok(self.socket.send(message).await?)
    }

    /// The next text as it was sent.
    pub async fn receive_text(&mut self) -> Result<String> {
        tokio::time::timeout(DEADLINE, async {
            loop {
                match self.socket.next().await.context("the connection ended")?? {
                    Message::Text(text) => return Ok(text.to_string()),
                    Message::Close(frame) => bail!("closed: {frame:?}"),
                    _ => {}
                }
            }
        })
        .await
        .context("nothing was received")?
    }

    /// The next message as JSON.
    pub async fn receive(&mut self) -> Result<Value> {
        let text = self.receive_text().await?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// The next message that `wanted` accepts; others are passed over, and named if it does not come.
    pub async fn receive_until(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut others = Vec::new();
        loop {
            let message = self.receive().await;
            let message =
                message.with_context(|| format!("what is waited for came not after {others:?}"))?;
            if wanted(&message) {
                return Ok(message);
            }
            others.push(message.to_string());
        }
    }

    /// The frame that the other side closes with.
    pub async fn closed(&mut self) -> Result<Option<CloseFrame>> {
        tokio::time::timeout(DEADLINE, async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(frame))) => return Ok(frame),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => return Ok(None),
                }
            }
        })
        .await
        .context("was not closed")?
    }

    /// Closes in order.
    pub async fn close(mut self) -> Result<()> {
        self.socket.close(None).await?;
        // The other side's answer.
        let _ = self.closed().await?;
        Ok(())
    }
}

/// The prototype's `sendmessage`.
pub fn registration(consumer: &str, content: &str) -> Value {
    json!({
        "action": "sendmessage",
        "consumer_id": consumer,
        "device_id": format!("phone of {consumer}"),
        "content_id": content,
    })
}
