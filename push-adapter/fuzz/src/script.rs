//! Bytes as a fan's frames, so that what is mutated is what the frames say rather than their lengths and
//! masks. Every sequence of bytes is a script, and every sequence of frames has one, malformed ones
//! included.
//!
//! A frame is its first byte as it stands on the wire (FIN, reserved bits, opcode), a byte that says how
//! long it is, and its payload:
//!
//! | length byte | payload |
//! |---|---|
//! | 0 to 249 | as many bytes |
//! | 250 | a byte and a length of two bytes: so many of this byte |
//! | 251 | two bytes of length, and as many bytes |
//! | 252 | a byte of length, and as many bytes, with a header longer than it need be |
//! | 253 | a byte of length, and as many bytes, without a mask |
//! | 254 | eight bytes of length are announced, and nothing follows |
//! | 255 | what follows stands on the wire as it is, frames or not |

const FILL: u8 = 250;
const LONG: u8 = 251;
const WASTEFUL: u8 = 252;
const UNMASKED: u8 = 253;
const ANNOUNCED: u8 = 254;
const RAW: u8 = 255;

/// The frames as they stand on the wire.
pub fn frames(script: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(script.len() * 2);
    let mut rest = script;
    while let Some(first) = take(&mut rest) {
        let Some(kind) = take(&mut rest) else {
            wire.push(first);
            break;
        };
        match kind {
            FILL => {
                let (byte, length) = (take(&mut rest).unwrap_or(b'x'), length_of(&mut rest));
                frame(&mut wire, first, &vec![byte; length]);
            }
            LONG => {
                let length = length_of(&mut rest);
                frame(&mut wire, first, bytes(&mut rest, length));
            }
            WASTEFUL => {
                let length = take(&mut rest).unwrap_or(0);
                let payload = bytes(&mut rest, length.into());
                wire.extend([first, 0xff]);
                wire.extend((payload.len() as u64).to_be_bytes());
                masked(&mut wire, payload);
            }
            UNMASKED => {
                let length = take(&mut rest).unwrap_or(0) & 0x7f;
                let payload = bytes(&mut rest, length.min(125).into());
                wire.extend([first, payload.len() as u8]);
                wire.extend(payload);
            }
            ANNOUNCED => {
                wire.extend([first, 0xff]);
                wire.extend(bytes(&mut rest, 8));
            }
            RAW => wire.extend(std::mem::take(&mut rest)),
            length => frame(&mut wire, first, bytes(&mut rest, length.into())),
        }
    }
    wire
}

/// One masked frame, its header as short as can be.
fn frame(wire: &mut Vec<u8>, first: u8, payload: &[u8]) {
    wire.push(first);
    match payload.len() {
        length @ 0..=125 => wire.push(0x80 | length as u8),
        length => {
            let length = u16::try_from(length).expect("a script's lengths have two bytes");
            wire.push(0x80 | 126);
            wire.extend(length.to_be_bytes());
        }
    }
    masked(wire, payload);
}

fn masked(wire: &mut Vec<u8>, payload: &[u8]) {
    // Any mask does; this one differs from frame to frame.
    let mask = (wire.len() as u32).wrapping_mul(0x9e37_79b9).to_le_bytes();
    wire.extend(mask);
    let bytes = payload.iter().zip(mask.iter().cycle());
    wire.extend(bytes.map(|(byte, mask)| byte ^ mask));
}

fn take(rest: &mut &[u8]) -> Option<u8> {
    let (first, others) = rest.split_first()?;
    *rest = others;
    Some(*first)
}

fn bytes<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (these, others) = rest.split_at(length.min(rest.len()));
    *rest = others;
    these
}

fn length_of(rest: &mut &[u8]) -> usize {
    let [high, low] = [take(rest).unwrap_or(0), take(rest).unwrap_or(0)];
    u16::from_be_bytes([high, low]).into()
}
