//! The prototype's parameters, read by the real binary from a stand-in for Systems Manager.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{Json, Router, extract::State, routing::post};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use crate::support::{
    StubServer,
    connections::{StandIn, session},
    loopback,
    process::Process,
    put, state, store,
};

type Values = Arc<Mutex<HashMap<&'static str, String>>>;

/// Answers GetParameters as Systems Manager does: what is missing is listed apart.
async fn systems_manager(values: Values) -> (String, JoinSet<()>) {
    async fn answer(State(values): State<Values>, body: String) -> Json<Value> {
        let asked: Value = serde_json::from_str(&body).unwrap();
        let values = values.lock().unwrap();
        let (mut found, mut invalid) = (Vec::new(), Vec::new());
        for name in asked["Names"].as_array().unwrap() {
            match values.get(name.as_str().unwrap()) {
                Some(value) => found.push(json!({"Name": name, "Type": "String", "Value": value})),
                None => invalid.push(name.clone()),
            }
        }
        Json(json!({"Parameters": found, "InvalidParameters": invalid}))
    }
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/", post(answer)).with_state(values);
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, serving)
}

#[tokio::test]
async fn the_endpoint_follows_its_parameters_and_missing_ones_are_no_error() {
    let (embedded, store) = store().await;
    let (server, first, second) = (
        StubServer::start().await,
        StandIn::start(&[]).await,
        StandIn::start(&[]).await,
    );
    let values = Values::default();
    let (parameters, _serving) = systems_manager(values.clone()).await;
    let dynamodb = format!("http://{}", embedded.address());
    let process = Process::start(&[
        "--dynamodb-endpoint",
        &dynamodb,
        "--server",
        &server.url(),
        "--sole-leader",
        "--connections",
        "api-gateway",
        "--ssm-prefix",
        "/rt_personalize",
        "--ssm-endpoint",
        &parameters,
        "--ssm-refresh",
        "50ms",
    ])
    .await;
    // A row of the prototype, which names no endpoint.
    session(&store, "one", "ann", "").await;
    for (event, stand_in) in [("1", &first), ("2", &second)] {
        let url = stand_in.endpoint("dev");
        let (domain, _) = url.rsplit_once('/').unwrap();
        values.lock().unwrap().extend([
            ("/rt_personalize/api/api_gateway/domain", domain.to_owned()),
            ("/rt_personalize/api/api_gateway/stage", "dev".to_owned()),
        ]);
        // What is posted before they are read again goes to the one before, so there are several.
        let mut number = 0;
        while stand_in.posted_to("one").is_empty() {
            assert!(number < 200, "never posted");
            number += 1;
            put(&store, &state(event, &format!("GOAL {number}"))).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
    drop(process);
}
