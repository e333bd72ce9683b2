//! One fan's socket: opening it, and bytes in and out of it. Knows frames, and no message.

use std::{
    fmt,
    io::{self, Read, Write},
    net::SocketAddr,
};

use anyhow::{Result, bail};
use mio::{Interest, Registry, Token, net::TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use super::frames::{self, Answer, Kind};

/// What a fan who stalls has room for, and the size of the segments that it is sent: as over the
/// Internet. A loopback's segments are so large that kilobytes of messages would never fill a socket.
const STALLING_BYTES: usize = 4_096;
const STALLING_SEGMENT_BYTES: u32 = 1_400;

/// The code of a fan who leaves by itself (RFC 6455, 7.4.1).
const LEAVING: u16 = 1000;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Shaking,
    Open,
}

/// An open socket, or one that is being opened.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    phase: Phase,
    /// The beginning of what has not come whole yet.
    rest: Vec<u8>,
    /// What the socket had no room for.
    unsent: Vec<u8>,
}

/// What came over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// The handshake is through.
    Open,
    /// A message.
    Text(&'a [u8]),
    /// A ping, which is answered already.
    Ping,
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// With a word of the server's, and the code of the word.
    Closed { code: u16, reason: String },
    /// The handshake was refused, with this status line.
    Refused(String),
    /// Without a word.
    Broken(String),
}

impl Connection {
    /// Begins to open one.
    pub(super) fn open(
        address: SocketAddr,
        is_stalling: bool,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let mut stream = match is_stalling {
            true => stalling(address)?,
            false => TcpStream::connect(address)?,
        };
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            stream,
            phase: Phase::Connecting,
            rest: Vec::new(),
            unsent: Vec::new(),
        })
    }

    /// Sends bytes now, or as soon as there is room.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.unsent.is_empty() {
            let sent = match self.stream.write(bytes) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            self.unsent.extend(&bytes[sent..]);
        } else {
            self.unsent.extend(bytes);
        }
        Ok(())
    }

    /// The socket may have room: goes on with what is under way.
    pub(super) fn writable(&mut self, host: &str, path: &str) -> Result<(), Ended> {
        if self.phase == Phase::Connecting {
            if let Some(error) = self.stream.take_error().map_err(Ended::from)? {
                return Err(Ended::from(error));
            }
            if self.stream.peer_addr().is_err() {
                return Ok(());
            }
            self.phase = Phase::Shaking;
            let _ = self.stream.set_nodelay(true);
            let handshake = frames::handshake(host, path);
            return self.send(handshake.as_bytes()).map_err(Ended::from);
        }
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            self.send(&unsent).map_err(Ended::from)?;
        }
        Ok(())
    }

    /// Reads what is there, into a buffer that is shared by all; gives how much. 0 is the end; `None`
    /// says that there is nothing.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Ended> {
        if self.phase == Phase::Connecting {
            return Ok(None);
        }
        loop {
            return match self.stream.read(buffer) {
                Ok(length) => Ok(Some(length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(Ended::from(error)),
            };
        }
    }

    /// Reads what is there, or to the end of the connection, and hands on what it says. An inner error
    /// ends the connection, an outer one is a fault.
    pub(super) fn pump(
        &mut self,
        buffer: &mut [u8],
        to_the_end: bool,
        mut on: impl FnMut(&mut Self, Event<'_>) -> Result<()>,
    ) -> Result<Result<(), Ended>> {
        loop {
            let length = match self.read(buffer) {
                Ok(Some(0)) => {
                    let what = "the connection was closed".to_owned();
                    return Ok(Err(Ended::Broken(what)));
                }
                Ok(Some(length)) => length,
                Ok(None) => return Ok(Ok(())),
                Err(ended) => return Ok(Err(ended)),
            };
            if let Err(ended) = self.take(&buffer[..length], &mut on)? {
                return Ok(Err(ended));
            }
            // What is not there yet is another event.
            if length < buffer.len() && !to_the_end {
                return Ok(Ok(()));
            }
        }
    }

    /// Says goodbye; the connection is to be dropped after it.
    pub(super) fn leave(&mut self) {
        let _ = self.send(&frames::close(&LEAVING.to_be_bytes()));
    }

    /// Takes bytes that were read, and hands on what they say. An inner error ends the connection, an
    /// outer one is a fault.
    fn take(
        &mut self,
        bytes: &[u8],
        mut on: impl FnMut(&mut Self, Event<'_>) -> Result<()>,
    ) -> Result<Result<(), Ended>> {
        let joined;
        let bytes = if self.rest.is_empty() {
            bytes
        } else {
            let mut rest = std::mem::take(&mut self.rest);
            rest.extend(bytes);
            joined = rest;
            &joined
        };
        let mut at = 0;
        if self.phase == Phase::Shaking {
            match frames::answer(bytes)? {
                None => {
                    self.rest.extend(bytes);
                    return Ok(Ok(()));
                }
                Some(Answer::Refused(status)) => return Ok(Err(Ended::Refused(status))),
                Some(Answer::Accepted(length)) => at = length,
            }
            self.phase = Phase::Open;
            on(self, Event::Open)?;
        }
        while let Some(frame) = frames::frame(&bytes[at..])? {
            let payload = &bytes[at..][frame.payload.clone()];
            at += frame.payload.end;
            match frame.kind {
                Kind::Text => on(self, Event::Text(payload))?,
                Kind::Ping => {
                    if let Err(error) = self.send(&frames::pong(payload)) {
                        return Ok(Err(Ended::from(error)));
                    }
                    on(self, Event::Ping)?;
                }
                Kind::Pong => bail!("a pong that nobody asked for"),
                Kind::Close => {
                    // Whoever is told goodbye says so, too, if it still can be said.
                    let _ = self.send(&frames::close(&payload[..payload.len().min(2)]));
                    return Ok(Err(closed(payload)));
                }
            }
        }
        self.rest.extend(&bytes[at..]);
        Ok(Ok(()))
    }
}

/// A socket with little room, of which connecting is under way.
fn stalling(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_recv_buffer_size(STALLING_BYTES)?;
    socket.set_tcp_mss(STALLING_SEGMENT_BYTES)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(error),
        _ => {}
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// What the system says of a connection that is being opened.
const EINPROGRESS: i32 = 115;

/// What a close frame says.
fn closed(payload: &[u8]) -> Ended {
    match payload.split_first_chunk::<2>() {
        Some((code, reason)) => Ended::Closed {
            code: u16::from_be_bytes(*code),
            reason: String::from_utf8_lossy(reason).into_owned(),
        },
        None => Ended::Broken("closed without a code".to_owned()),
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { code, reason } => write!(formatter, "closed with {code}, {reason:?}"),
            Self::Refused(status) => write!(formatter, "refused with {status:?}"),
            Self::Broken(what) => formatter.write_str(what),
        }
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}
