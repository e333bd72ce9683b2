//! What a server must make of a client's frames, by RFC 6455 and API Gateway's limits, in the plainest
//! words: frame by frame over all the bytes at once. Says which close codes are right where a frame
//! breaks more than one rule, since the RFC names no order.

use touchline_push::connections::socket::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};

/// Largest payload of a control frame (RFC 6455, 5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// What a client's bytes amount to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Text messages, in their order.
    pub texts: Vec<String>,
    /// What its pings carry, in their order.
    pub pings: Vec<Vec<u8>>,
    /// Why reading ends.
    pub end: End,
}

/// Why reading ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum End {
    /// The bytes do.
    #[default]
    Cut,
    /// The bytes end within a frame that is wrong so far: it may be told with one of these codes, or the
    /// rest may be waited for.
    CutWithin(Vec<u16>),
    /// The client closes, and is answered with its own code, or with 1002 where it may not use that one.
    Closed(Option<u16>),
    /// A rule is broken; one of these codes says which.
    Failed(Vec<u16>),
}

/// A message whose fragments still come.
struct Incomplete {
    is_text: bool,
    payload: Vec<u8>,
}

struct Header {
    is_final: bool,
    has_reserved_bits: bool,
    opcode: u8,
    mask: Option<[u8; 4]>,
    length: u64,
    bytes: usize,
}

/// Reads what a client sent.
pub fn read(mut bytes: &[u8]) -> Reading {
    let mut reading = Reading::default();
    let mut incomplete: Option<Incomplete> = None;
    while let Some(header) = header(bytes) {
        let mut codes = header_codes(&header, incomplete.is_some());
        let rest = &bytes[header.bytes..];
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        if length > rest.len() {
            // A frame that is too long is refused before it comes.
            reading.end = match (codes.contains(&1009), codes.is_empty()) {
                (true, _) => End::Failed(codes),
                (false, false) => End::CutWithin(codes),
                (false, true) => End::Cut,
            };
            return reading;
        }
        let (payload, after) = rest.split_at(length);
        bytes = after;
        let payload: Vec<u8> = match header.mask {
            Some(mask) => payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask)
                .collect(),
            None => payload.to_vec(),
        };
        let end = match header.opcode {
            0x8 => {
                let (code, close_codes) = close(&payload);
                codes.extend(close_codes);
                codes.is_empty().then_some(End::Closed(code))
            }
            0x9 if codes.is_empty() => {
                reading.pings.push(payload);
                None
            }
            0x0..=0x2 => data(
                &header,
                payload,
                &mut incomplete,
                &mut codes,
                &mut reading.texts,
            ),
            _ => None,
        };
        if !codes.is_empty() {
            reading.end = End::Failed(codes);
            return reading;
        }
        if let Some(end) = end {
            reading.end = end;
            return reading;
        }
    }
    reading
}

/// `None`: the bytes end within it.
fn header(bytes: &[u8]) -> Option<Header> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let extra = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let is_masked = second & 0x80 != 0;
    let length_end = 2 + extra;
    let end = length_end + if is_masked { 4 } else { 0 };
    let header = bytes.get(..end)?;
    let length = match extra {
        0 => u64::from(second & 0x7f),
        _ => header[2..length_end]
            .iter()
            .fold(0, |length, byte| length << 8 | u64::from(*byte)),
    };
    let mask = is_masked.then(|| {
        header[length_end..]
            .try_into()
            .expect("a mask has four bytes")
    });
    Some(Header {
        is_final: first & 0x80 != 0,
        has_reserved_bits: first & 0x70 != 0,
        opcode: first & 0x0f,
        mask,
        length,
        bytes: end,
    })
}

/// Which rules the header breaks.
fn header_codes(header: &Header, is_within_message: bool) -> Vec<u16> {
    let mut codes = Vec::new();
    let is_control = header.opcode >= 0x8;
    let breaks = [
        header.has_reserved_bits,
        header.mask.is_none(),
        !matches!(header.opcode, 0x0..=0x2 | 0x8..=0xa),
        is_control && !header.is_final,
        is_control && header.length > CONTROL_BYTES_MAX as u64,
        header.opcode == 0x0 && !is_within_message,
        matches!(header.opcode, 0x1 | 0x2) && is_within_message,
    ];
    if breaks.contains(&true) {
        codes.push(1002);
    }
    if header.length > FRAME_BYTES_MAX as u64 {
        codes.push(1009);
    }
    codes
}

/// The code that a close frame is answered with, and which rules it breaks.
fn close(payload: &[u8]) -> (Option<u16>, Vec<u16>) {
    match payload {
        [] => (None, Vec::new()),
        [_] => (None, vec![1002]),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if std::str::from_utf8(reason).is_err() {
                // A code that may not be used is as wrong as the reason is.
                return (None, vec![1007, 1002]);
            }
            // RFC 6455, 7.4, and what IANA registered since but 1014, which only a proxy has a use for.
            let may_be_sent = matches!(code, 1000..=1003 | 1007..=1013 | 3000..=4999);
            (Some(if may_be_sent { code } else { 1002 }), Vec::new())
        }
    }
}

fn data(
    header: &Header,
    payload: Vec<u8>,
    incomplete: &mut Option<Incomplete>,
    codes: &mut Vec<u16>,
    texts: &mut Vec<String>,
) -> Option<End> {
    let message = incomplete.get_or_insert(Incomplete {
        is_text: header.opcode == 0x1,
        payload: Vec::new(),
    });
    message.payload.extend(payload);
    if message.payload.len() > MESSAGE_BYTES_MAX {
        codes.push(1009);
    }
    if message.is_text {
        // A character may be split between fragments, and then the next one has the rest of it.
        let wrong = std::str::from_utf8(&message.payload).err();
        if wrong.is_some_and(|wrong| header.is_final || wrong.error_len().is_some()) {
            codes.push(1007);
        }
    }
    if !codes.is_empty() || !header.is_final {
        return None;
    }
    let message = incomplete.take()?;
    if !message.is_text {
        // API Gateway closes with 1003: fans have nothing to say in binary.
        return Some(End::Failed(vec![1003]));
    }
    let text = String::from_utf8(message.payload).expect("it was looked at above");
    texts.push(text);
    None
}
