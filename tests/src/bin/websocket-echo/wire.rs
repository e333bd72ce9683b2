//! The gateway's WebSocket layer as the echo uses it: the handshake, its limits, and what each error
//! closes a connection with. The only file here that knows the layer's names.

use tokio::{
    io::{AsyncWriteExt, Interest},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use touchline_push::{
    connections::{
        Frame,
        closing::Closing,
        socket::{self, Sent},
    },
    gateway::handshake,
};

/// A connection after its handshake.
pub(crate) struct Socket(socket::Socket);

impl Socket {
    /// `None`: it came to nothing.
    pub(crate) async fn accept(mut stream: TcpStream) -> Option<Self> {
        stream.set_nodelay(true).ok()?;
        let (request, rest) = handshake::read(&mut stream).await.ok()?;
        let answer = handshake::answer(&request, &handshake::offer(&request)).ok()?;
        stream.write_all(&answer).await.ok()?;
        Some(Self(socket::Socket::new(stream, None, rest)))
    }

    /// The next text message; `None` when the connection has ended, and the peer was told why.
    pub(crate) async fn receive(&mut self) -> Option<Utf8Bytes> {
        let closing = loop {
            match self.0.receive(&mut 0) {
                Ok(Some(Message::Text(text))) => return Some(text),
                Ok(Some(Message::Binary(_))) => break Closing::BINARY,
                // Pongs are written at once, each before the next ping is looked at.
                Ok(Some(_)) => self.write(None).await?,
                Ok(None) => {
                    self.0.ready(Interest::READABLE).await.ok()?;
                }
                Err(error) => break Closing::of(&error)?,
            }
        };
        self.0.say_goodbye(closing).await;
        None
    }

    /// `None`: nobody is there any more.
    pub(crate) async fn send(&mut self, text: Utf8Bytes) -> Option<()> {
        self.write(Some(Frame::reply(text))).await
    }

    async fn write(&self, mut frame: Option<Frame>) -> Option<()> {
        while self.0.send(|| frame.take(), |_| {}, |_| {}).ok()? == Sent::Blocked {
            self.0.ready(Interest::WRITABLE).await.ok()?;
        }
        Some(())
    }
}
