//! The gateway's WebSocket layer as the echo uses it: the handshake, its limits, and what each error
//! closes a connection with. The only file here that knows the layer's names.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, accept_async_with_config,
    tungstenite::{
        Error, Message, Utf8Bytes,
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};
use touchline_push::management::MESSAGE_BYTES_MAX;

/// Largest frame that a fan may send (API Gateway quotas: WebSocket frame size 32 KB).
const FRAME_BYTES_MAX: usize = 32 << 10;

/// How long a closed peer is listened to, so that it can read why it was closed.
const GOODBYE: Duration = Duration::from_secs(1);

/// A connection after its handshake.
pub(crate) struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// `None`: it came to nothing.
    pub(crate) async fn accept(stream: TcpStream) -> Option<Self> {
        stream.set_nodelay(true).ok()?;
        let config = WebSocketConfig::default()
            .read_buffer_size(4 << 10)
            .write_buffer_size(4 << 10)
            .max_write_buffer_size(512 << 10)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(FRAME_BYTES_MAX));
        let accepted = accept_async_with_config(stream, Some(config)).await;
        accepted.ok().map(Self)
    }

    /// The next text message; `None` when the connection has ended, and the peer was told why.
    pub(crate) async fn receive(&mut self) -> Option<Utf8Bytes> {
        let code = loop {
            match self.0.next().await? {
                Ok(Message::Text(text)) => return Some(text),
                Ok(Message::Binary(_)) => break 1003,
                Ok(_) => {}
                Err(Error::Capacity(_)) => break 1009,
                Err(Error::Utf8(_)) => break 1007,
                Err(Error::Protocol(_)) => break 1002,
                Err(_) => return None,
            }
        };
        let frame = CloseFrame {
            code: CloseCode::from(code),
            reason: Utf8Bytes::from_static("as at the gateway"),
        };
        // Past this the peer has had its time.
        let _ = tokio::time::timeout(GOODBYE, self.say_goodbye(frame)).await;
        None
    }

    /// `None`: nobody is there any more.
    pub(crate) async fn send(&mut self, text: Utf8Bytes) -> Option<()> {
        self.0.send(Message::Text(text)).await.ok()
    }

    async fn say_goodbye(&mut self, frame: CloseFrame) -> Option<()> {
        self.0.send(Message::Close(Some(frame))).await.ok()?;
        let stream = self.0.get_mut();
        stream.shutdown().await.ok()?;
        let mut rest = [0; 1_024];
        while stream.read(&mut rest).await.ok()? > 0 {}
        Some(())
    }
}
