//! A fan's handshake: any bytes as the request. What is answered is one whole HTTP answer that says what
//! RFC 6455 asks for, offers nothing that was not offered, and never repeats the token.

#![no_main]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use libfuzzer_sys::fuzz_target;
use sha1::{Digest as _, Sha1};
use touchline_auth::offer::{Offer, SUBPROTOCOL};
use touchline_push_fuzz::wire::{Handshake, handshake};

const STAGE: &str = "dev";

/// Appended to the fan's key (RFC 6455, 1.3).
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

fuzz_target!(|head: &[u8]| {
    let whole = handshake(head, STAGE);
    // However the request comes in, it is the same: never something else while parts are missing.
    for end in [head.len() / 2, head.len().saturating_sub(1)] {
        let part = handshake(&head[..end], STAGE);
        assert!(part == whole || part == Handshake::Incomplete || is_of_two(&part, end, &whole));
    }
    let Handshake::Upgraded {
        bytes,
        answer,
        offer,
    } = whole
    else {
        return;
    };
    assert!(bytes <= head.len(), "more is taken than there is");
    assert!(
        head[..bytes].ends_with(b"\n"),
        "what follows the request is left alone"
    );
    assert!(head.starts_with(b"GET ") || head.starts_with(b"\r\n") || head.starts_with(b"\n"));
    holds_what_was_offered(&head[..bytes], &offer);
    is_an_upgrade(&answer, &head[..bytes], &offer);
});

/// A part can be wrong already where the whole is, or already be a whole request.
fn is_of_two(part: &Handshake, end: usize, whole: &Handshake) -> bool {
    match part {
        Handshake::Upgraded { bytes, .. } => *bytes <= end && part == whole,
        Handshake::Invalid => *whole == Handshake::Invalid,
        Handshake::Forbidden => *whole == Handshake::Forbidden,
        Handshake::Incomplete => true,
    }
}

fn holds_what_was_offered(request: &[u8], offer: &Offer) {
    let request = String::from_utf8_lossy(request);
    if let Some(token) = &offer.token {
        assert!(request.contains(token.as_str()), "a token that nobody sent");
        // Not looked for in what a log would show, since a token can consist of a log's own words.
        let other = Offer {
            token: Some(format!("another than {token}")),
            ..offer.clone()
        };
        assert_eq!(
            format!("{offer:?}"),
            format!("{other:?}"),
            "a log tells tokens apart"
        );
    }
    if offer.accept.is_some() {
        let lower = request.to_ascii_lowercase();
        assert!(
            lower.contains("sec-websocket-protocol"),
            "accepted without an offer"
        );
        assert!(request.contains(SUBPROTOCOL));
    }
}

fn is_an_upgrade(answer: &[u8], request: &[u8], offer: &Offer) {
    let answer = std::str::from_utf8(answer).expect("an answer is text");
    let lines = answer
        .strip_suffix("\r\n\r\n")
        .expect("an answer ends once");
    let mut lines = lines.split("\r\n");
    assert_eq!(lines.next(), Some("HTTP/1.1 101 Switching Protocols"));
    let mut headers: Vec<(String, &str)> = lines
        .map(|line| line.split_once(": ").expect("a header has a value"))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    headers.sort();
    let accepts = accepts(request);
    let accept = headers
        .iter()
        .find(|(name, _)| name == "sec-websocket-accept");
    let accept = accept.expect("the key is answered").1;
    assert!(
        accepts.iter().any(|each| each == accept),
        "{accept} is of no key that was sent"
    );
    let mut expected = vec![("connection", "Upgrade"), ("sec-websocket-accept", accept)];
    if let Some(accept) = offer.accept {
        expected.push(("sec-websocket-protocol", accept));
    }
    expected.push(("upgrade", "websocket"));
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    assert_eq!(headers, expected);
}

/// What each key in the request is answered with.
fn accepts(request: &[u8]) -> Vec<String> {
    let lines = request.split(|byte| *byte == b'\n');
    let lines = lines.filter_map(|line| std::str::from_utf8(line).ok());
    let headers = lines.filter_map(|line| line.split_once(':'));
    let keys = headers.filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
    let accept = |(_, key): (&str, &str)| {
        let mut hash = Sha1::new();
        hash.update(key.trim().as_bytes());
        hash.update(KEY_SUFFIX);
        STANDARD.encode(hash.finalize())
    };
    keys.map(accept).collect()
}
