//! `GetRecommendations` on the wire: REST-JSON, the service's limits and its error answers.
//!
//! Limits come from the service's API reference (`GetRecommendations`) and its model. It does not
//! verify signatures; a request without one is refused, as the service does.

use std::{collections::BTreeMap, sync::OnceLock};

use axum::{
    Json,
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{Behaviour, Call};

/// `numResults` when none is given.
const NUM_RESULTS_DEFAULT: usize = 25;
/// The largest `numResults` of a request without metadata.
const NUM_RESULTS_MAX: usize = 500;
const USER_ID_CHARS_MAX: usize = 256;
const CONTEXT_KEYS_MAX: usize = 150;
const CONTEXT_KEY_CHARS_MAX: usize = 150;
const CONTEXT_VALUE_CHARS_MAX: usize = 1000;

/// An error answer: `x-amzn-ErrorType` names it, the body explains it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    error_type: &'static str,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, error_type: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            error_type,
            message: message.into(),
        }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidInputException", message)
    }

    fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "SerializationException", message)
    }

    /// The service's reference lists throttling among the common errors, with status 400; SDKs
    /// know it by its name.
    pub(super) fn throttled() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "ThrottlingException",
            "Rate exceeded",
        )
    }

    pub(super) fn internal_failure() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalFailure",
            "The request processing has failed because of an unknown error.",
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let headers = [("x-amzn-ErrorType", self.error_type)];
        (self.status, headers, Json(json!({"message": self.message}))).into_response()
    }
}

/// The answer with these items, best first.
pub(super) fn answer(ranked: &[(String, f64)], number: u64) -> Response {
    let items: Vec<Value> = ranked
        .iter()
        .map(|(item_id, score)| json!({"itemId": item_id, "score": score}))
        .collect();
    let recommendation_id = format!("RID-{number:08x}-{:08x}", process_mark());
    Json(json!({"itemList": items, "recommendationId": recommendation_id})).into_response()
}

/// Reads a request's form: a signature, a JSON object, members of the right types.
pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Call, Refusal> {
    check_signature(headers)?;
    let body: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| Refusal::malformed(format!("the body is no JSON object: {error}")))?;
    Ok(Call {
        campaign_arn: text(&body, "campaignArn")?,
        consumer_id: text(&body, "userId")?,
        num_results: num_results(&body)?,
        context: context(&body)?,
    })
}

/// Checks a request against the service's limits and the campaign that exists.
pub(super) fn check(call: &Call, behaviour: &Behaviour) -> Result<(), Refusal> {
    if call.campaign_arn.is_empty() {
        return Err(Refusal::invalid(
            "Either campaignArn or recommenderArn is required",
        ));
    }
    if call.campaign_arn != behaviour.campaign_arn {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "ResourceNotFoundException",
            format!("Resource Arn {} does not exist.", call.campaign_arn),
        ));
    }
    if call.consumer_id.is_empty() {
        return Err(Refusal::invalid("userId is required for this recipe"));
    }
    if call.consumer_id.chars().count() > USER_ID_CHARS_MAX {
        return Err(Refusal::invalid(
            "userId must have length less than or equal to 256",
        ));
    }
    if call.num_results > NUM_RESULTS_MAX {
        return Err(Refusal::invalid(
            "numResults must be less than or equal to 500",
        ));
    }
    check_context(&call.context)
}

fn check_context(context: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if context.len() > CONTEXT_KEYS_MAX {
        return Err(Refusal::invalid("context must have at most 150 entries"));
    }
    for (key, value) in context {
        let known = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        if key.is_empty() || key.len() > CONTEXT_KEY_CHARS_MAX || !key.chars().all(known) {
            return Err(Refusal::invalid(format!(
                "context key {key:?} is not valid"
            )));
        }
        if value.chars().count() > CONTEXT_VALUE_CHARS_MAX {
            return Err(Refusal::invalid(format!(
                "context value of {key} is too long"
            )));
        }
    }
    Ok(())
}

/// The signing name is part of the scope, so that a request meant for another service is noticed.
fn check_signature(headers: &HeaderMap) -> Result<(), Refusal> {
    let signed = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            value.starts_with("AWS4-HMAC-SHA256 ") && value.contains("/personalize/aws4_request")
        });
    if signed {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        "MissingAuthenticationTokenException",
        "Missing Authentication Token",
    ))
}

fn text(body: &Map<String, Value>, name: &str) -> Result<String, Refusal> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(Refusal::malformed(format!("{name} is no string"))),
    }
}

fn num_results(body: &Map<String, Value>) -> Result<usize, Refusal> {
    match body.get("numResults") {
        None | Some(Value::Null) => Ok(NUM_RESULTS_DEFAULT),
        Some(number) => number
            .as_u64()
            .and_then(|number| usize::try_from(number).ok())
            .ok_or_else(|| Refusal::invalid("numResults must be a number from 0")),
    }
}

fn context(body: &Map<String, Value>) -> Result<BTreeMap<String, String>, Refusal> {
    let entries = match body.get("context") {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(entries)) => entries,
        Some(_) => return Err(Refusal::malformed("context is no object")),
    };
    entries
        .iter()
        .map(|(key, value)| match value {
            Value::String(value) => Ok((key.clone(), value.clone())),
            _ => Err(Refusal::malformed(format!("context.{key} is no string"))),
        })
        .collect()
}

/// Sets apart the recommendation ids of one process from those of another.
fn process_mark() -> u32 {
    static MARK: OnceLock<u32> = OnceLock::new();
    *MARK.get_or_init(|| {
        let since_1970 = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        since_1970.subsec_nanos() ^ std::process::id().rotate_left(16)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed_for(service: &str) -> HeaderMap {
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential=key/20221218/us-east-1/{service}/aws4_request, Signature=0"
        );
        HeaderMap::from_iter([(AUTHORIZATION, scope.parse().unwrap())])
    }

    #[test]
    fn a_request_without_the_services_signature_is_refused() {
        let body = br#"{"userId": "ann"}"#;
        assert!(read(&signed_for("personalize"), body).is_ok());
        for headers in [HeaderMap::new(), signed_for("dynamodb")] {
            let refusal = read(&headers, body).unwrap_err();
            assert_eq!(refusal.error_type, "MissingAuthenticationTokenException");
        }
    }

    #[test]
    fn members_of_the_wrong_type_are_refused() {
        for (body, error_type) in [
            (r#"{"userId": 7}"#, "SerializationException"),
            (
                r#"{"context": {"SCORE_DIFFERENCE": 1}}"#,
                "SerializationException",
            ),
            (r#"{"context": ["GOAL"]}"#, "SerializationException"),
            (r#"["ann"]"#, "SerializationException"),
            ("ann", "SerializationException"),
            (r#"{"numResults": -1}"#, "InvalidInputException"),
        ] {
            let refusal = read(&signed_for("personalize"), body.as_bytes()).unwrap_err();
            assert_eq!(refusal.error_type, error_type, "{body}");
        }
    }
}
