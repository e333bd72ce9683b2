//! WebSocket frames as a load generator needs them: what a server sends, read without copying, and the
//! little that a fan sends. Pure.

use std::ops::Range;

use anyhow::{Result, bail, ensure};

/// A message of this many bytes is none of a fan's.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The key of the handshake (RFC 6455's example), and what a server makes of it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Close,
    Ping,
    Pong,
}

/// A whole frame at the beginning of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    /// Where its payload stands.
    pub(super) payload: Range<usize>,
}

/// The frame at the beginning, once all of it is there.
pub(super) fn frame(bytes: &[u8]) -> Result<Option<Frame>> {
    let &[first, second, ref rest @ ..] = bytes else {
        return Ok(None);
    };
    // A message in one frame, with no extension agreed on.
    ensure!(first & 0xf0 == 0x80, "a frame begins with {first:#04x}");
    let kind = match first & 0x0f {
        0x1 => Kind::Text,
        0x8 => Kind::Close,
        0x9 => Kind::Ping,
        0xa => Kind::Pong,
        opcode => bail!("a frame has opcode {opcode}"),
    };
    ensure!(second & 0x80 == 0, "a server's frame is masked");
    let (length, begin) = match second {
        126 => match rest.first_chunk::<2>() {
            Some(length) => (usize::from(u16::from_be_bytes(*length)), 4),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(length) => (usize::try_from(u64::from_be_bytes(*length))?, 10),
            None => return Ok(None),
        },
        length => (usize::from(length), 2),
    };
    ensure!(
        length <= MESSAGE_BYTES_MAX,
        "a message has {length} bytes, more than {MESSAGE_BYTES_MAX}"
    );
    let payload = begin..begin + length;
    Ok((bytes.len() >= payload.end).then_some(Frame { kind, payload }))
}

/// A text of a fan's. The mask is zero, which a server cannot tell from any other.
pub(super) fn text(message: &str) -> Vec<u8> {
    masked(0x81, message.as_bytes())
}

/// The answer to a ping.
pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
    masked(0x8a, payload)
}

/// The end of the conversation; the payload is empty or begins with a code.
pub(super) fn close(payload: &[u8]) -> Vec<u8> {
    masked(0x88, payload)
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ ..=125), _) => frame.push(0x80 | length),
        (_, Ok(length)) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The request by which a fan opens its connection.
pub(super) fn handshake(host: &str, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n\r\n"
    )
}

/// What a server answered to a handshake.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Frames follow after so many bytes.
    Accepted(usize),
    /// It is refused, with this status line.
    Refused(String),
}

/// The answer at the beginning, once all of it is there.
pub(super) fn answer(bytes: &[u8]) -> Result<Option<Answer>> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        ensure!(bytes.len() < 8_192, "the handshake's answer has no end");
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end])?;
    let status = head.lines().next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 101") {
        return Ok(Some(Answer::Refused(status.to_owned())));
    }
    let accepts = head.lines().any(|line| {
        line.split_once(':').is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT
        })
    });
    ensure!(accepts, "the handshake is accepted with another key");
    Ok(Some(Answer::Accepted(end + 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_once_all_of_it_is_there() {
        for length in [0, 5, 125, 126, 70_000] {
            let mut bytes = match length {
                0..=125 => vec![0x81, u8::try_from(length).unwrap()],
                126..=65_535 => [&[0x81, 126][..], &[0, 126]].concat(),
                _ => [&[0x81, 127][..], &(length as u64).to_be_bytes()].concat(),
            };
            let begin = bytes.len();
            bytes.resize(begin + length, b'x');
            for cut in [1, begin - 1, bytes.len() - 1] {
                if cut < bytes.len() {
                    assert_eq!(frame(&bytes[..cut]).unwrap(), None, "{length} cut at {cut}");
                }
            }
            bytes.push(b'y');
            let read = frame(&bytes).unwrap().unwrap();
            assert_eq!(read.payload, begin..begin + length);
            assert_eq!(read.kind, Kind::Text);
        }
    }

    #[test]
    fn what_no_server_may_send_is_an_error() {
        for bytes in [[0x01, 0], [0xc1, 0], [0x81, 0x80], [0x80, 0], [0x83, 0]] {
            assert!(frame(&bytes).is_err(), "{bytes:x?}");
        }
        assert!(frame(&[0x81, 127, 0, 0, 0, 0, 1, 0, 0, 0]).is_err());
    }

    #[test]
    fn what_a_fan_sends_is_masked_and_says_its_length() {
        assert_eq!(text("hi"), [0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(pong(b""), [0x8a, 0x80, 0, 0, 0, 0]);
        assert_eq!(text(&"x".repeat(126))[..4], [0x81, 0xfe, 0, 126]);
    }

    #[test]
    fn a_handshake_is_accepted_or_refused_or_goes_on() {
        let accepted = format!("HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n");
        let bytes = format!("{accepted}\u{1}");
        let is_accepted = Some(Answer::Accepted(accepted.len()));
        assert_eq!(answer(bytes.as_bytes()).unwrap(), is_accepted);
        assert_eq!(answer(&bytes.as_bytes()[..20]).unwrap(), None);
        let other = accepted.replace(ACCEPT, KEY);
        assert!(answer(other.as_bytes()).is_err());
        let refused = Answer::Refused("HTTP/1.1 503 Busy".to_owned());
        assert_eq!(answer(b"HTTP/1.1 503 Busy\r\n\r\n").unwrap(), Some(refused));
    }
}
