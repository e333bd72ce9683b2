//! The control path: how a script changes the stand-in's behaviour and reads its counts.
//!
//! It is no part of the service's protocol and asks for no signature.

use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{Behaviour, Service};

/// `GET /stand-in/behaviour`: how it behaves.
pub(super) async fn behaviour(State(service): State<Arc<Service>>) -> Json<Behaviour> {
    Json(service.conduct().behaviour().clone())
}

/// `PATCH /stand-in/behaviour`: replaces the members given, keeps the others.
pub(super) async fn change(State(service): State<Arc<Service>>, body: Bytes) -> Response {
    let mut conduct = service.conduct();
    match patched(conduct.behaviour(), &body) {
        Ok(behaviour) => {
            conduct.replace(behaviour.clone(), Instant::now());
            Json(behaviour).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

/// `GET /stand-in/calls`: how often each call came in.
pub(super) async fn calls(State(service): State<Arc<Service>>) -> Json<Value> {
    let calls = service.calls();
    let counts: Vec<Value> = calls
        .counts()
        .iter()
        .map(|(call, count)| call.to_json(*count))
        .collect();
    Json(json!({"total": calls.total(), "atOnceMax": calls.at_once_max(), "calls": counts}))
}

/// `DELETE /stand-in/calls`: counts anew.
pub(super) async fn forget(State(service): State<Arc<Service>>) -> StatusCode {
    service.calls().forget();
    StatusCode::NO_CONTENT
}

fn patched(behaviour: &Behaviour, patch: &[u8]) -> serde_json::Result<Behaviour> {
    let patch: serde_json::Map<String, Value> = serde_json::from_slice(patch)?;
    let mut whole = serde_json::to_value(behaviour)?;
    for (name, value) in patch {
        whole[name] = value;
    }
    serde_json::from_value(whole)
}
