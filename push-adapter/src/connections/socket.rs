//! One fan's socket: WebSocket messages over plain TCP or TLS, read and written without ever waiting.
//! Whoever has something to write does it here and now; only a socket that is full is waited for, by
//! its connection's task. Knows nothing of mailboxes and events.
//!
//! Frames of events do not pass through the WebSocket library's buffer: they are written from where
//! they were encoded, beside a header of a few bytes, so that an idle connection holds none of them.

use std::{
    io::{self, IoSlice, Read, Write},
    net::Shutdown,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{Interest, Ready},
    net::TcpStream,
};
use tokio_rustls::rustls::ServerConnection;
use tokio_tungstenite::tungstenite::{
    Error, Message,
    protocol::{
        CloseFrame, Role, WebSocketConfig, WebSocketContext,
        frame::{
            FrameHeader,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

use super::{Frame, closing::Closing};

/// Largest message that a fan may send, or that can be posted (API Gateway quotas: WebSocket message
/// payload 128 KB).
pub const MESSAGE_BYTES_MAX: usize = 128 << 10;

/// Largest frame that a fan may send (API Gateway quotas: WebSocket frame size 32 KB).
pub const FRAME_BYTES_MAX: usize = 32 << 10;

/// Read at once from one socket. Fans say little, and each connection holds as much.
const READ_BUFFER_BYTES: usize = 512;

/// Control frames that wait; beyond, the fan does not read.
const CONTROL_BYTES_MAX: usize = 4 << 10;

/// Reads of a socket for one message before somebody else has a turn.
const READS_MAX: u32 = 64;

/// How long a closed fan is listened to, so that it can read why it was closed.
const GOODBYE: Duration = Duration::from_secs(1);

/// Header of a frame from the server, which has no mask (RFC 6455, 5.2).
const HEADER_BYTES_MAX: usize = 10;

/// A fan's socket after its handshake.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    wire: Mutex<Wire>,
}

#[derive(Debug)]
struct Wire {
    tls: Option<Box<ServerConnection>>,
    context: WebSocketContext,
    outgoing: Option<Outgoing>,
}

/// A frame that is being written.
#[derive(Debug)]
struct Outgoing {
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: usize,
    written: usize,
    frame: Frame,
}

/// How far writing came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Nothing is left.
    All,
    /// The socket takes no more at the moment.
    Blocked,
}

/// How the WebSocket library reads what fans send.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(CONTROL_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX))
}

impl Socket {
    /// Takes over after the handshake, with what was read beyond it.
    pub fn new(stream: TcpStream, tls: Option<ServerConnection>, rest: Vec<u8>) -> Self {
        let context = WebSocketContext::from_partially_read(rest, Role::Server, Some(config()));
        let wire = Wire {
            tls: tls.map(Box::new),
            context,
            outgoing: None,
        };
        Self {
            stream,
            wire: Mutex::new(wire),
        }
    }

    /// Waits until something can be done. Cancel safe.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        self.stream.ready(interest).await
    }

    /// The next message, if one is there; `None` when more has to come first. `read` counts the bytes
    /// that came in. Pings are answered on the way.
    pub fn receive(&self, read: &mut usize) -> Result<Option<Message>, Error> {
        let mut wire = self.lock();
        let wire = &mut *wire;
        let mut io = Io {
            stream: &self.stream,
            tls: wire.tls.as_deref_mut(),
            // Nothing may stand in the middle of a frame.
            may_write: wire.outgoing.is_none(),
            reads_left: READS_MAX,
            read,
        };
        match wire.context.read(&mut io) {
            Ok(message) => Ok(Some(message)),
            Err(error) if would_block(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes what was begun, and then each frame that `next` gives, until there is none or the socket
    /// is full. `written` is told of each that went out whole, and `came_to` how far it came, before
    /// anybody else can write: of two who write, the last one's word is the socket's state.
    pub fn send(
        &self,
        next: impl FnMut() -> Option<Frame>,
        written: impl FnMut(&Frame),
        came_to: impl FnOnce(Sent),
    ) -> Result<Sent, Error> {
        let mut wire = self.lock();
        let sent = wire.send(&self.stream, next, written)?;
        came_to(sent);
        Ok(sent)
    }

    /// Asks whether the fan is still there.
    pub fn ping(&self) -> Result<Sent, Error> {
        self.control(|context, io| context.write(io, Message::Ping(bytes::Bytes::new())))
    }

    fn close(&self, closing: Closing) -> Result<Sent, Error> {
        let frame = CloseFrame {
            code: CloseCode::from(closing.code),
            reason: closing.reason,
        };
        self.control(move |context, io| context.close(io, Some(frame)))
    }

    /// Says why the connection ends, and reads on for a moment: closing a socket with unread bytes in it
    /// would take the reason back.
    pub async fn say_goodbye(&self, closing: Closing) {
        let goodbye = async {
            let mut sent = self.close(closing).ok()?;
            while sent == Sent::Blocked {
                self.ready(Interest::WRITABLE).await.ok()?;
                // What was begun before the reason goes out before it.
                sent = self.send(|| None, |_| {}, |_| {}).ok()?;
            }
            self.shut_down();
            let mut rest = [0; 1_024];
            loop {
                self.ready(Interest::READABLE).await.ok()?;
                match self.stream.try_read(&mut rest) {
                    Ok(0) => return Some(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return None,
                }
            }
        };
        // Past this the fan has had its time.
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
    }

    /// What was begun and never went out whole.
    pub fn abandon(&self) -> Option<Frame> {
        self.lock().outgoing.take().map(|outgoing| outgoing.frame)
    }

    /// Nothing is written any more. Whoever does not take it learns by the closed connection.
    fn shut_down(&self) {
        let mut wire = self.lock();
        if let Some(tls) = &mut wire.tls {
            tls.send_close_notify();
            let _ = write_tls(tls, &self.stream);
        }
        let _ = SockRef::from(&self.stream).shutdown(Shutdown::Write);
    }

    fn control(
        &self,
        queue: impl FnOnce(&mut WebSocketContext, &mut Io<'_>) -> Result<(), Error>,
    ) -> Result<Sent, Error> {
        let mut wire = self.lock();
        let wire = &mut *wire;
        let mut io = Io {
            stream: &self.stream,
            tls: wire.tls.as_deref_mut(),
            may_write: wire.outgoing.is_none(),
            reads_left: 0,
            read: &mut 0,
        };
        sent(queue(&mut wire.context, &mut io))
    }

    fn lock(&self) -> MutexGuard<'_, Wire> {
        // No code that holds the lock can panic half-way through a change.
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire {
    fn send(
        &mut self,
        stream: &TcpStream,
        mut next: impl FnMut() -> Option<Frame>,
        mut written: impl FnMut(&Frame),
    ) -> Result<Sent, Error> {
        loop {
            if self.outgoing.is_some() && self.advance(stream)? == Sent::Blocked {
                return Ok(Sent::Blocked);
            }
            if let Some(outgoing) = self.outgoing.take() {
                written(&outgoing.frame);
            }
            if self.flush(stream)? == Sent::Blocked {
                return Ok(Sent::Blocked);
            }
            match next() {
                Some(frame) => self.outgoing = Some(Outgoing::new(frame)),
                None => return Ok(Sent::All),
            }
        }
    }

    /// Pongs and what TLS still holds.
    fn flush(&mut self, stream: &TcpStream) -> Result<Sent, Error> {
        let mut io = Io {
            stream,
            tls: self.tls.as_deref_mut(),
            may_write: true,
            reads_left: 0,
            read: &mut 0,
        };
        sent(self.context.flush(&mut io))
    }

    /// Writes more of the frame that is going out.
    fn advance(&mut self, stream: &TcpStream) -> Result<Sent, Error> {
        let Some(outgoing) = &mut self.outgoing else {
            return Ok(Sent::All);
        };
        let mut io = Io {
            stream,
            tls: self.tls.as_deref_mut(),
            may_write: true,
            reads_left: 0,
            read: &mut 0,
        };
        while !outgoing.is_done() {
            match outgoing.write(&mut io) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(bytes) => outgoing.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Sent::Blocked);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Sent::All)
    }
}

impl Outgoing {
    fn new(frame: Frame) -> Self {
        let head = FrameHeader {
            opcode: OpCode::Data(Data::Text),
            ..FrameHeader::default()
        };
        let mut header = [0; HEADER_BYTES_MAX];
        let mut rest = &mut header[..];
        let length = frame.text().len() as u64;
        head.format(length, &mut rest)
            .expect("a header without mask has at most 10 bytes");
        let header_bytes = HEADER_BYTES_MAX - rest.len();
        Self {
            header,
            header_bytes,
            written: 0,
            frame,
        }
    }

    fn is_done(&self) -> bool {
        self.written == self.header_bytes + self.frame.text().len()
    }

    fn write(&self, io: &mut Io<'_>) -> io::Result<usize> {
        let text = self.frame.text().as_bytes();
        match self.header_bytes.checked_sub(self.written) {
            Some(left) if left > 0 => {
                let header = &self.header[self.written..self.header_bytes];
                io.write_vectored(&[IoSlice::new(header), IoSlice::new(text)])
            }
            _ => io.write(&text[self.written - self.header_bytes..]),
        }
    }
}

/// The socket as the WebSocket library wants it.
struct Io<'a> {
    stream: &'a TcpStream,
    tls: Option<&'a mut ServerConnection>,
    may_write: bool,
    reads_left: u32,
    read: &'a mut usize,
}

impl Read for Io<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads_left = self
            .reads_left
            .checked_sub(1)
            .ok_or(io::ErrorKind::WouldBlock)?;
        let bytes = match &mut self.tls {
            None => self.stream.try_read(buffer)?,
            Some(tls) => read_tls(tls, self.stream, buffer)?,
        };
        *self.read += bytes;
        Ok(bytes)
    }
}

impl Write for Io<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buffer)])
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.may_write {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match &mut self.tls {
            None => self.stream.try_write_vectored(buffers),
            Some(tls) => {
                write_tls(tls, self.stream)?;
                let bytes = tls.writer().write_vectored(buffers)?;
                // What TLS took goes out with the next flush, if not now.
                match write_tls(tls, self.stream) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                    Ok(()) | Err(_) => Ok(bytes),
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) if self.may_write => write_tls(tls, self.stream),
            Some(_) | None => Ok(()),
        }
    }
}

/// `rustls` reads and writes a blocking stream.
struct Raw<'a>(&'a TcpStream);

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.try_write(buffer)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read_tls(
    tls: &mut ServerConnection,
    stream: &TcpStream,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        match tls.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
        if tls.read_tls(&mut Raw(stream))? == 0 {
            return Ok(0);
        }
        let state = tls.process_new_packets();
        state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
}

fn write_tls(tls: &mut ServerConnection, stream: &TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        if tls.write_tls(&mut Raw(stream))? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

fn sent(result: Result<(), Error>) -> Result<Sent, Error> {
    match result {
        Ok(()) => Ok(Sent::All),
        Err(error) if would_block(&error) => Ok(Sent::Blocked),
        Err(error) => Err(error),
    }
}

fn would_block(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn nobody_else_writes_before_it_is_said_how_far_writing_came() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fan = TcpStream::connect(listener.local_addr().unwrap());
        let (fan, accepted) = tokio::join!(fan, listener.accept());
        let socket = Socket::new(accepted.unwrap().0, None, Vec::new());
        let mut frames = vec![Frame::reply("x")];
        let mut said = None;
        let came_to = |sent| {
            assert!(socket.wire.try_lock().is_err(), "another could write now");
            said = Some(sent);
        };
        let sent = socket.send(|| frames.pop(), |_| {}, came_to).unwrap();
        assert_eq!((sent, said), (Sent::All, Some(Sent::All)));
        drop(fan);
    }
}
