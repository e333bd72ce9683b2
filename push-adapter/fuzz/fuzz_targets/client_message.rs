//! What a fan sends once connected: any frames, read as they come in, down to the registration. They
//! amount to the same however they are cut into segments, and to what RFC 6455 says they do.
//!
//! The first byte says how the rest, a [script](touchline_push_fuzz::script), comes in and who the fan
//! is.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use touchline_auth::{Identity, Scopes};
use touchline_push::{
    messages,
    routes::{
        self, Route,
        registration::{self, Refused, Registering},
    },
};
use touchline_push_fuzz::{
    reference::{self, End},
    script,
    wire::{self, Conversation},
};
use touchline_store::session::Protocol;

/// Longest answer to a registration that is refused: a fan's own words are not repeated at length.
const REFUSAL_BYTES_MAX: usize = 256;

fuzz_target!(|input: &[u8]| {
    let Some((how, script)) = input.split_first() else {
        return;
    };
    let bytes = script::frames(script);
    let at_once = [usize::MAX, 1, 2, 7, 125, 1_460, 4_096, 16_384][usize::from(how & 0b111)];
    let conversation = wire::converse(&bytes, at_once);
    assert_eq!(
        conversation,
        wire::converse(&bytes, usize::MAX),
        "segments decide"
    );
    agrees(&bytes, &conversation);
    let identity = (how & 0b1000 != 0).then(|| Identity {
        consumer_id: (how & 0b1_0000 == 0).then(|| "ann".to_owned()),
        scopes: Scopes::NONE,
        expires_at: None,
    });
    for text in &conversation.texts {
        is_routed(text, how & 0b10_0000 != 0);
        is_registered_or_refused(text, identity.as_ref());
    }
});

fn agrees(bytes: &[u8], conversation: &Conversation) {
    let expected = reference::read(bytes);
    assert_eq!(conversation.texts, expected.texts);
    let (pongs, close) = written(&conversation.written);
    assert_eq!(
        pongs, expected.pings,
        "each ping is answered with what it carries, in its turn"
    );
    let fails_with = |codes: &[u16]| matches!(close, Some(Some(code)) if codes.contains(&code));
    let agrees = match &expected.end {
        End::Cut => conversation.is_cut && close.is_none(),
        End::CutWithin(codes) => conversation.is_cut && close.is_none() || fails_with(codes),
        End::Closed(code) => close == Some(*code),
        End::Failed(codes) => fails_with(codes),
    };
    assert!(agrees, "closed with {close:?}, expected {:?}", expected.end);
}

/// What the gateway wrote: the pongs, and the code of the close frame, which is the last one.
fn written(mut bytes: &[u8]) -> (Vec<Vec<u8>>, Option<Option<u16>>) {
    let mut pongs = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        // Control frames alone are written here, so none is long, masked or a fragment.
        assert!(*length <= 125, "{first:#x} with length {length:#x}");
        let (payload, after) = rest.split_at(usize::from(*length));
        bytes = after;
        match first {
            0x8a => pongs.push(payload.to_vec()),
            0x88 => {
                assert!(bytes.is_empty(), "something follows the end");
                let code = payload
                    .get(..2)
                    .map(|code| u16::from_be_bytes([code[0], code[1]]));
                return (pongs, Some(code));
            }
            first => panic!("{first:#x} is neither a pong nor a close frame"),
        }
    }
    assert!(bytes.is_empty(), "half a frame");
    (pongs, None)
}

fn is_routed(text: &str, has_tokens: bool) {
    let message: Option<Map<String, Value>> = serde_json::from_str(text).ok();
    let action = message.as_ref().and_then(|message| message.get("action"));
    let expected = match action.and_then(Value::as_str) {
        Some("sendmessage") => Route::SendMessage,
        Some("refresh") if has_tokens => Route::Refresh,
        _ => Route::Default,
    };
    assert_eq!(routes::select(text, has_tokens), expected);
}

fn is_registered_or_refused(text: &str, identity: Option<&Identity>) {
    match registration::parse(text, identity) {
        Ok(registering) => round_trips(text, &registering, identity),
        Err(refused) => is_told(&refused),
    }
}

fn round_trips(text: &str, registering: &Registering, identity: Option<&Identity>) {
    let registration = &registering.registration;
    let message: Map<String, Value> = serde_json::from_str(text).expect("it was accepted");
    let ids = [
        ("consumer_id", registration.consumer_id.as_str()),
        ("device_id", registration.device_id.as_str()),
        ("content_id", registration.content_id.as_str()),
    ];
    for (field, id) in ids {
        assert!((1..=256).contains(&id.chars().count()), "{field} {id:?}");
        match message.get(field) {
            Some(Value::String(given)) => assert_eq!(given, id),
            Some(Value::Number(given)) => assert_eq!(given.to_string(), id),
            None => assert_eq!(field, "consumer_id", "taken from nowhere"),
            other => panic!("{field} out of {other:?}"),
        }
    }
    if let Some(identity) = identity {
        let consumer_id = Some(registration.consumer_id.as_str());
        assert_eq!(
            identity.consumer_id.as_deref(),
            consumer_id,
            "somebody else"
        );
    }
    let again = json!({
        "action": "sendmessage",
        "consumer_id": registration.consumer_id.as_str(),
        "device_id": registration.device_id.as_str(),
        "content_id": registration.content_id.as_str(),
        "protocol": match registration.protocol {
            Protocol::V1 => 1,
            Protocol::V2 => 2,
        },
        "set_id": registering.set_id,
    });
    let again = registration::parse(&again.to_string(), identity);
    assert_eq!(again.as_ref(), Ok(registering));
}

fn is_told(refused: &Refused) {
    assert!(!refused.message.is_empty());
    assert!(
        refused.message.len() <= REFUSAL_BYTES_MAX,
        "{}",
        refused.message
    );
    let second = messages::error(refused.code, &refused.message);
    let second: Value = serde_json::from_str(&second).expect("protocol 2 is JSON");
    let expected = json!({"type": "error", "code": refused.code, "message": refused.message});
    assert_eq!(second, expected);
    let first = messages::api_gateway_error(&refused.message, "connection", "request");
    let first: Value = serde_json::from_str(&first).expect("protocol 1 is JSON");
    assert_eq!(first["message"], refused.message.as_str());
}
