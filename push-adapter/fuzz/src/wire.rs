//! The gateway's WebSocket layer as the targets reach it, without a socket and without time: how a load
//! balancer's header and a handshake are read and answered, how frames are read, and with which code a
//! connection is closed. The only file here that knows the layer's names.

use std::{
    io::{self, Read, Write},
    net::IpAddr,
    pin::pin,
    task::{Context, Poll, Waker},
};

use tokio_tungstenite::tungstenite::{
    Error, Message, WebSocket,
    error::ProtocolError,
    handshake::{machine::TryParse, server::Request},
    protocol::{CloseFrame, Role, frame::coding::CloseCode},
};
use touchline_auth::offer::Offer;
use touchline_push::{
    connections::{closing::Closing, socket},
    gateway::{handshake as gateway, proxy::read},
};

/// Reads a load balancer's header: where it says that the fan is, and how many bytes it takes.
pub fn proxy(bytes: &[u8]) -> (io::Result<Option<IpAddr>>, usize) {
    let mut rest = bytes;
    let said = match pin!(read(&mut rest)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(said) => said,
        Poll::Pending => unreachable!("bytes in memory are always there"),
    };
    (said, bytes.len() - rest.len())
}

/// What a fan's bytes come to before the upgrade.
#[derive(Debug, PartialEq, Eq)]
pub enum Handshake {
    /// More has to come.
    Incomplete,
    /// It is none.
    Invalid,
    /// There is no such stage.
    Forbidden,
    /// The connection is a WebSocket from now on.
    Upgraded {
        /// Bytes of the request.
        bytes: usize,
        /// What is answered.
        answer: Vec<u8>,
        /// What was offered.
        offer: Offer,
    },
}

/// Reads a handshake for this stage.
pub fn handshake(head: &[u8], stage: &str) -> Handshake {
    let (bytes, request) = match Request::try_parse(head) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => return Handshake::Incomplete,
        Err(_) => return Handshake::Invalid,
    };
    if request.uri().path().trim_matches('/') != stage {
        return Handshake::Forbidden;
    }
    let offer = gateway::offer(&request);
    match gateway::answer(&request, &offer) {
        Ok(answer) => Handshake::Upgraded {
            bytes,
            answer,
            offer,
        },
        Err(_) => Handshake::Invalid,
    }
}

/// What a connection came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// Text messages of the fan's, in their order.
    pub texts: Vec<String>,
    /// What was written to the fan.
    pub written: Vec<u8>,
    /// Whether the fan's bytes ended before anything else ended the connection.
    pub is_cut: bool,
}

/// Reads a fan's bytes as they come, so many at a time, and answers as the gateway does.
pub fn converse(bytes: &[u8], at_once: usize) -> Conversation {
    let stream = Stream {
        bytes,
        at_once: at_once.max(1),
        is_dry: false,
        written: Vec::new(),
    };
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, Some(socket::config()));
    let mut conversation = Conversation::default();
    let closing = loop {
        match socket.read() {
            Ok(Message::Text(text)) => conversation.texts.push(text.to_string()),
            Ok(Message::Binary(_)) => break Some(Closing::BINARY),
            Ok(_) => {}
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                conversation.is_cut = true;
                break None;
            }
            Err(Error::ConnectionClosed) => break None,
            Err(error) => {
                let closing = Closing::of(&error);
                break Some(closing.unwrap_or_else(|| panic!("no fan's bytes lead to {error:?}")));
            }
        }
    };
    if let Some(Closing { code, reason }) = closing {
        let code = CloseCode::from(code);
        let closed = socket.close(Some(CloseFrame { code, reason }));
        closed.expect("there is always room in memory");
    }
    conversation.written = std::mem::take(&mut socket.get_mut().written);
    conversation
}

/// A fan who sends these bytes and reads everything.
struct Stream<'a> {
    bytes: &'a [u8],
    at_once: usize,
    /// Between two portions nothing is there, as on a socket that never waits.
    is_dry: bool,
    written: Vec<u8>,
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.is_dry = !self.is_dry;
        if self.is_dry {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = self.at_once.min(buffer.len()).min(self.bytes.len());
        let (these, others) = self.bytes.split_at(length);
        buffer[..length].copy_from_slice(these);
        self.bytes = others;
        Ok(length)
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
