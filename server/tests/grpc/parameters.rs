//! The prototype's parameters, read by the real binary at its start.

use std::{collections::HashMap, process::Stdio};

use axum::{Json, Router, routing::post};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::Command,
    task::JoinSet,
};

use crate::harness::soon;

/// Systems Manager with these parameters.
async fn systems_manager(values: HashMap<&'static str, &'static str>) -> (String, JoinSet<()>) {
    let answer = move |body: String| {
        let asked: Value = serde_json::from_str(&body).unwrap();
        let names = asked["Names"].as_array().unwrap().iter();
        let found = names.filter_map(|name| {
            let value = values.get(name.as_str()?.strip_prefix("/mine")?)?;
            Some(json!({"Name": name, "Type": "String", "Value": value}))
        });
        let found: Vec<_> = found.collect();
        async move { Json(json!({"Parameters": found, "InvalidParameters": []})) }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/", post(answer));
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, serving)
}

/// What a server says until it listens or ends, and how it ended.
async fn said(values: &[(&'static str, &'static str)], flags: &[&str]) -> (Option<i32>, String) {
    let (endpoint, _serving) = systems_manager(values.iter().copied().collect()).await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_touchline-server"))
        .env_clear()
        .args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"])
        .args([
            "--dynamodb-endpoint",
            "http://127.0.0.1:1",
            "--recommender",
            "personalize",
        ])
        .args(["--ssm-prefix", "/mine/", "--ssm-endpoint", &endpoint])
        .args(flags)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    soon(async {
        let mut said = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            said.push_str(&line);
            if line.contains("gRPC listens") {
                return (None, said);
            }
        }
        (child.wait().await.unwrap().code(), said)
    })
    .await
}

const CAMPAIGN: (&str, &str) = (
    "/aws_personalize/campaign_arn",
    "arn:aws:personalize:eu-west-1:123456789012:campaign/fans",
);

#[tokio::test]
async fn a_campaign_comes_from_its_parameter_and_a_missing_one_is_an_error_only_if_needed() {
    let (code, said) = self::said(&[CAMPAIGN], &[]).await;
    assert_eq!(code, None, "{said}");
    for missing in [vec![], vec![("/aws_personalize/campaign_arn", "none")]] {
        let (code, said) = self::said(&missing, &[]).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("--campaign-arn"), "{said}");
        let (code, said) = self::said(&missing, &["--campaign-arn", CAMPAIGN.1]).await;
        assert_eq!(code, None, "{said}");
    }
}

#[tokio::test]
async fn num_results_come_from_their_parameter_unless_a_flag_says_otherwise() {
    let values = [CAMPAIGN, ("/aws_personalize/num_results", "many")];
    let (code, said) = self::said(&values, &[]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("num_results many"), "{said}");
    let (code, said) = self::said(&values, &["--num-results", "25"]).await;
    assert_eq!(code, None, "{said}");
}
