//! `touchline store` and `touchline page`: parts of the local stack as processes of their own.

use serde_json::Value;

use crate::support::{Local, Running, touchline};

/// A store over this folder, and the tables that were made in it.
async fn store(data: &str) -> (Running, Value) {
    let listen = ["store", "--json", "--listen", "127.0.0.1:0"];
    let mut store = Running::start(&[&listen[..], &["--data-dir", data]].concat());
    let endpoint = store.json().await["dynamodb"].as_str().unwrap().to_owned();
    let create = ["tables", "create", "--json", "--dynamodb-endpoint"];
    let made = touchline(&[&create[..], &[&endpoint]].concat()).await;
    let created = made.json()["created"].clone();
    (store, created)
}

#[tokio::test]
async fn a_store_alone_keeps_what_is_written_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let (first, created) = store(data).await;
    assert_eq!(created.as_array().unwrap().len(), 4, "{created}");
    assert_eq!(first.signal("TERM").await, Some(0));
    let (second, created) = store(data).await;
    assert_eq!(created, Value::Array(Vec::new()));
    assert_eq!(second.signal("INT").await, Some(0));
}

#[tokio::test]
async fn a_page_beside_an_installation_names_its_gateway() {
    let local = Local::start(None, &["--no-replay"]).await;
    let gateway = "wss://fans.example/dev";
    let mut page = Running::start(&[
        "page",
        "--listen",
        "127.0.0.1:0",
        "--server",
        &local.server,
        "--gateway",
        gateway,
    ]);
    let said = page.line().await;
    let address = said
        .split("http://")
        .nth(1)
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    let shown = crate::page::get(address, "/api/page").await;
    assert_eq!(shown["gateway"], gateway);
    assert_eq!(page.signal("TERM").await, Some(0));
}

#[tokio::test]
async fn what_knows_no_callers_listens_beyond_this_machine_only_when_told_to() {
    for command in ["store", "page"] {
        let said = touchline(&[command, "--listen", "0.0.0.0:0"]).await;
        let error = said.error();
        assert!(
            error.contains("--listen 0.0.0.0:0: this listens beyond"),
            "{error}"
        );
        assert!(error.contains("--insecure"), "{error}");
    }
}
