//! A load balancer's PROXY protocol header: any bytes as what comes first. Exactly the header is taken, not
//! one byte of the fan's; a part of it is none; and the address is the one that stands there, read once
//! more in plain words.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use touchline_push_fuzz::wire::proxy;

/// The longest header that is read: the second version's, with all that may follow its addresses.
const HEADER_BYTES_MAX: usize = 16 + 2048;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fuzz_target!(|bytes: &[u8]| {
    let (said, taken) = proxy(bytes);
    assert!(taken <= HEADER_BYTES_MAX, "{taken} bytes are taken");
    for end in [taken / 2, taken.saturating_sub(1)] {
        assert!(
            end == taken || proxy(&bytes[..end]).0.is_err(),
            "{end} bytes of {taken} are enough"
        );
    }
    let Ok(said) = said else {
        return;
    };
    // What follows changes nothing.
    let mut longer = bytes[..taken].to_vec();
    longer.extend(b"GET /dev HTTP/1.1\r\n");
    assert!(matches!(proxy(&longer), (Ok(again), length) if again == said && length == taken));
    let header = &bytes[..taken];
    let plain = match header.starts_with(SIGNATURE) {
        true => binary(header),
        false => line(header),
    };
    assert_eq!(said, plain, "{header:?}");
});

/// The first version: `PROXY TCP4 SOURCE DESTINATION PORT PORT`, or `PROXY UNKNOWN` and whatever follows,
/// which says nothing and need not be text.
fn line(header: &[u8]) -> Option<IpAddr> {
    let line = header.strip_suffix(b"\r\n").expect("a header is a line");
    let said = line.strip_prefix(b"PROXY ").expect("a header says so");
    if let Some(ignored) = said.strip_prefix(b"UNKNOWN") {
        assert!(
            matches!(ignored.first(), None | Some(b' ')),
            "another family"
        );
        return None;
    }
    let said = std::str::from_utf8(said).expect("addresses are text");
    let mut words = said.split(' ');
    let family = words.next();
    let source: Option<IpAddr> = words.next().and_then(|source| source.parse().ok());
    match (family, source) {
        (Some("TCP4"), Some(IpAddr::V4(_))) | (Some("TCP6"), Some(IpAddr::V6(_))) => source,
        _ => panic!("taken, and no header: {said}"),
    }
}

/// The second version: signature, version and command, family, length, source, destination.
fn binary(header: &[u8]) -> Option<IpAddr> {
    let (command, family) = (header[12], header[13] >> 4);
    assert_eq!(command >> 4, 2, "another version");
    match (command & 0xf, family) {
        (1, 1) => {
            let octets: [u8; 4] = header[16..20].try_into().expect("four bytes");
            Some(Ipv4Addr::from(octets).into())
        }
        (1, 2) => {
            let octets: [u8; 16] = header[16..32].try_into().expect("sixteen bytes");
            Some(Ipv6Addr::from(octets).into())
        }
        (0 | 1, _) => None,
        _ => panic!("taken, and no command: {command}"),
    }
}
