//! What a fan says in `sendmessage`, checked before anything is stored. Pure.

use serde_json::{Map, Value};
use touchline_auth::Identity;
use touchline_store::{
    ids::{ConsumerId, ContentId, DeviceId, InvalidId},
    session::{Protocol, Registration},
};

/// A registration that can be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registering {
    /// What is stored.
    pub registration: Registration,
    /// The component set that the fan shows already.
    pub set_id: Option<String>,
}

/// A registration that cannot be stored, as the fan is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The protocol that the fan asked for, as far as can be seen.
    pub protocol: Protocol,
    /// For a program to read.
    pub code: &'static str,
    /// For a person to read; names the field.
    pub message: String,
}

/// Reads the body of a `sendmessage`. Extra keys are ignored. Where the fan presented a token, the
/// consumer is the token's: the body may leave it out, and may not name another.
pub fn parse(body: &str, identity: Option<&Identity>) -> Result<Registering, Refused> {
    let refused = |protocol, message| Refused {
        protocol,
        code: "invalid",
        message,
    };
    let Ok(Value::Object(object)) = serde_json::from_str(body) else {
        let message = "the message must be a JSON object".to_owned();
        return Err(refused(Protocol::V1, message));
    };
    let protocol = protocol(&object).map_err(|message| refused(Protocol::V1, message))?;
    let mut object = object;
    if let Some(identity) = identity {
        let given = object.entry(ConsumerId::FIELD);
        given.or_insert_with(|| identity.consumer_id.clone().into());
    }
    let registering = read(&object, protocol).map_err(|message| refused(protocol, message))?;
    let consumer_id = registering.registration.consumer_id.as_str();
    if identity.is_some_and(|identity| identity.consumer_id.as_deref() != Some(consumer_id)) {
        let message = "consumer_id must be the token's, or be left out".to_owned();
        return Err(Refused {
            protocol,
            code: "forbidden",
            message,
        });
    }
    Ok(registering)
}

fn read(object: &Map<String, Value>, protocol: Protocol) -> Result<Registering, String> {
    let registration = Registration {
        consumer_id: id(object, ConsumerId::FIELD, |text| ConsumerId::new(text))?,
        device_id: id(object, DeviceId::FIELD, |text| DeviceId::new(text))?,
        content_id: id(object, ContentId::FIELD, |text| ContentId::new(text))?,
        protocol,
    };
    let set_id = match object.get("set_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.len() <= 256 => Some(text.clone()),
        Some(_) => return Err("set_id must be text of at most 256 bytes".to_owned()),
    };
    Ok(Registering {
        registration,
        set_id,
    })
}

fn protocol(object: &Map<String, Value>) -> Result<Protocol, String> {
    match object.get("protocol") {
        None | Some(Value::Null) => Ok(Protocol::V1),
        Some(value) if value.as_u64() == Some(1) => Ok(Protocol::V1),
        Some(value) if value.as_u64() == Some(2) => Ok(Protocol::V2),
        Some(_) => Err("protocol must be 1 or 2".to_owned()),
    }
}

/// Text, or a number, which becomes its text: the prototype's clients send both.
fn id<T>(
    object: &Map<String, Value>,
    field: &str,
    new: impl FnOnce(&str) -> Result<T, InvalidId>,
) -> Result<T, String> {
    let wanted = "text of 1 to 256 characters, or a number";
    let given = match object.get(field) {
        Some(Value::String(text)) => return new(text).map_err(|invalid| invalid.to_string()),
        Some(Value::Number(number)) => {
            return new(&number.to_string()).map_err(|invalid| invalid.to_string());
        }
        None => return Err(format!("{field} is missing; {wanted} is needed")),
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "a boolean",
        Some(Value::Array(_)) => "a list",
        Some(Value::Object(_)) => "an object",
    };
    Err(format!("{field} must be {wanted}, not {given}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> String {
        parse(body, None).unwrap_err().message
    }

    #[test]
    fn the_prototypes_message_is_understood_and_extra_keys_are_ignored() {
        let registering = parse(
            r#"{"action":"sendmessage","consumer_id":"ann","device_id":"d","content_id":"final","x":[1]}"#,
            None,
        )
        .unwrap();
        assert_eq!(registering.registration.consumer_id.as_str(), "ann");
        assert_eq!(registering.registration.device_id.as_str(), "d");
        assert_eq!(registering.registration.content_id.as_str(), "final");
        assert_eq!(registering.registration.protocol, Protocol::V1);
        assert_eq!(registering.set_id, None);
    }

    #[test]
    fn a_number_becomes_its_text() {
        let body = r#"{"consumer_id":42,"device_id":-7,"content_id":18446744073709551615}"#;
        let registration = parse(body, None).unwrap().registration;
        assert_eq!(registration.consumer_id.as_str(), "42");
        assert_eq!(registration.device_id.as_str(), "-7");
        assert_eq!(registration.content_id.as_str(), "18446744073709551615");
    }

    #[test]
    fn each_field_that_is_missing_or_wrong_is_named() {
        for field in ["consumer_id", "device_id", "content_id"] {
            let with = |value: Option<Value>| {
                let mut object: Map<_, _> = ["consumer_id", "device_id", "content_id"]
                    .map(|name| (name.to_owned(), Value::from("x")))
                    .into_iter()
                    .collect();
                match value {
                    Some(value) => object.insert(field.to_owned(), value),
                    None => object.shift_remove(field),
                };
                refused(&Value::Object(object).to_string())
            };
            assert_eq!(
                with(None),
                format!("{field} is missing; text of 1 to 256 characters, or a number is needed")
            );
            for (value, given) in [
                (Value::Null, "null"),
                (Value::Bool(true), "a boolean"),
                (serde_json::json!([1]), "a list"),
                (serde_json::json!({}), "an object"),
            ] {
                assert_eq!(
                    with(Some(value)),
                    format!(
                        "{field} must be text of 1 to 256 characters, or a number, not {given}"
                    )
                );
            }
            assert_eq!(
                with(Some(Value::from(""))),
                format!("{field} must not be empty")
            );
            assert_eq!(
                with(Some(Value::from("x".repeat(100_000)))),
                format!("{field} has 100000 characters; at most 256 are accepted")
            );
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in ["", "{", "null", "[]", "7", "\"text\""] {
            assert_eq!(refused(body), "the message must be a JSON object");
        }
    }

    #[test]
    fn protocol_2_is_asked_for_and_an_unknown_one_is_named() {
        let body = |rest: &str| {
            format!(r#"{{"consumer_id":"a","device_id":"d","content_id":"c",{rest}}}"#)
        };
        let registering = parse(&body(r#""protocol":2,"set_id":"abc""#), None).unwrap();
        assert_eq!(registering.registration.protocol, Protocol::V2);
        assert_eq!(registering.set_id.as_deref(), Some("abc"));
        for wrong in ["0", "3", "\"2\"", "2.5", "true", "[]"] {
            let message = refused(&body(&format!("\"protocol\":{wrong}")));
            assert_eq!(message, "protocol must be 1 or 2");
        }
        let error = parse(&body(r#""protocol":2,"set_id":7"#), None).unwrap_err();
        assert_eq!(error.protocol, Protocol::V2);
        assert_eq!(error.message, "set_id must be text of at most 256 bytes");
    }

    #[test]
    fn with_a_token_the_consumer_is_the_tokens_and_no_other() {
        let identity = |consumer_id: Option<&str>| Identity {
            consumer_id: consumer_id.map(str::to_owned),
            scopes: touchline_auth::Scopes::NONE,
            expires_at: None,
        };
        let body = |consumer: &str| format!(r#"{{{consumer}"device_id":"d","content_id":"c"}}"#);
        let ann = identity(Some("ann"));
        for consumer in ["", r#""consumer_id":"ann","#] {
            let registering = parse(&body(consumer), Some(&ann)).unwrap();
            assert_eq!(registering.registration.consumer_id.as_str(), "ann");
        }
        let bob = parse(&body(r#""consumer_id":"bob","#), Some(&ann)).unwrap_err();
        assert_eq!(
            (bob.code, bob.message.as_str()),
            (
                "forbidden",
                "consumer_id must be the token's, or be left out"
            )
        );
        let seven = body(r#""consumer_id":7,"#);
        assert_eq!(
            parse(&seven, Some(&identity(Some("7"))))
                .unwrap()
                .registration
                .consumer_id
                .as_str(),
            "7"
        );
        assert_eq!(
            parse(&seven, Some(&identity(None))).unwrap_err().code,
            "forbidden"
        );
    }
}
