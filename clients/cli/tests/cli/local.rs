//! `touchline local`, and the other commands against it.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{DEADLINE, Local, touchline};

#[tokio::test]
async fn events_are_written_read_listed_and_deleted() {
    let local = Local::start(None, &["--no-replay"]).await;

    let put = local
        .ask(&[
            "event",
            "put",
            "1",
            "match_event=GOAL",
            "match_type=FINAL",
            "--json",
        ])
        .await
        .json();
    assert_eq!(put["event_id"], "1");
    let merged = local
        .ask(&[
            "event",
            "put",
            "1",
            "match_event=PENALTY",
            "--content-id",
            "tv",
            "--merge",
            "--json",
        ])
        .await
        .json();
    assert_eq!(
        merged["attributes"],
        json!({"match_event": "PENALTY", "match_type": "FINAL"})
    );
    assert_eq!(merged["content_ids"], json!(["tv"]));

    let got = local.ask(&["event", "get", "1", "--json"]).await.json();
    assert_eq!(got["attributes"], merged["attributes"]);
    let listed = local.ask(&["event", "list", "--json"]).await.json();
    assert_eq!(listed["event_id"], "1");
    let people = local.ask(&["event", "get", "1"]).await;
    assert!(people.out.contains("match_event"), "{people:?}");
    assert!(!people.out.contains('\u{1b}'), "colour is for terminals");

    local.ask(&["event", "delete", "1", "--json"]).await.json();
    let gone = local.ask(&["event", "get", "1"]).await;
    assert!(gone.error().contains("no such event"), "{gone:?}");
    assert_eq!(local.ask(&["event", "delete", "1"]).await.code, Some(1));
}

#[tokio::test]
async fn every_slot_of_every_demo_fan_is_filled() {
    let local = Local::start(None, &["--no-replay"]).await;
    let put = ["event", "put", "1", "match_event=GOAL"];
    local.ask(&put).await.worked();
    for consumer in touchline_cli::demo::consumers() {
        let id = consumer.consumer_id.as_str();
        let mut watch = local.follow(&["watch", "1", "--consumer", id, "--json"]);
        let shown = watch.json().await;
        let components = shown["component_set"]["components"].as_array();
        assert_eq!(components.map(Vec::len), Some(4), "{shown}");
    }
}

#[tokio::test]
async fn policies_and_what_is_known_of_fans_apply() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    // ITEM_ID_31 is the demo's bet slip.
    let policies = "pinned = [\"ITEM_ID_31\"]\n[items.ITEM_ID_31]\nmin_age = 18\n";
    let policies = file("policies.toml", policies);
    let users = file("users.csv", "USER_ID,AGE\nadult,40\nminor,17\n");
    let flags = ["--no-replay", "--policies", &policies, "--users", &users];
    let local = Local::start(None, &flags).await;
    let put = ["event", "put", "1", "match_event=GOAL"];
    local.ask(&put).await.worked();
    for (consumer, is_shown) in [("adult", true), ("minor", false), ("unknown", false)] {
        let mut watch = local.follow(&["watch", "1", "--consumer", consumer, "--json"]);
        let set = watch.json().await["component_set"].to_string();
        assert_eq!(
            set.contains("\"ITEM_ID_31\""),
            is_shown,
            "{consumer}: {set}"
        );
    }
}

#[tokio::test]
async fn the_metrics_of_both_parts_are_where_the_first_line_says() {
    let local = Local::start(None, &["--no-replay"]).await;
    for (url, prefix) in local.metrics.iter().zip(["server", "push"]) {
        let address = url
            .trim_start_matches("http://")
            .trim_end_matches("/metrics");
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        timeout(DEADLINE, read).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains(&format!("\n# HELP touchline_{prefix}_")));
    }
}

#[tokio::test]
async fn a_refused_request_names_the_field() {
    let local = Local::start(None, &["--no-replay"]).await;
    let id = "x".repeat(257);
    let said = local.ask(&["event", "put", &id, "a=b"]).await;
    assert!(said.error().contains("event_id"), "{said:?}");
}

#[tokio::test]
async fn a_watch_of_one_state_ends_with_it() {
    let local = Local::start(None, &["--no-replay"]).await;
    let put = ["event", "put", "1", "match_event=GOAL"];
    local.ask(&put).await.worked();
    let seen = local.ask(&["watch", "1", "--states", "1", "--json"]).await;
    let state = seen.json()["state"].to_string();
    assert!(state.contains("GOAL"), "{state}");
}

#[tokio::test]
async fn a_watch_sees_each_change_and_ends_with_the_event() {
    let local = Local::start(None, &["--no-replay"]).await;
    local
        .ask(&["event", "put", "1", "match_event=GOAL"])
        .await
        .worked();
    let mut watch = local.follow(&["watch", "1", "--consumer", "diego", "--json"]);
    let first = watch.json().await;
    assert_eq!(first["type"], "state");
    assert_eq!(first["state"]["attributes"]["match_event"], "GOAL");
    assert!(
        first["component_set"]["components"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    );

    local
        .ask(&["event", "put", "1", "match_event=PENALTY"])
        .await
        .worked();
    watch
        .json_where(|line| line["state"]["attributes"]["match_event"] == "PENALTY")
        .await;
    local.ask(&["event", "delete", "1"]).await.worked();
    let ended = watch.json_where(|line| line["type"] == "ended").await;
    assert_eq!(ended["event_id"], "1");
}

#[tokio::test]
async fn fans_of_both_protocols_receive_what_is_put() {
    let local = Local::start(None, &["--no-replay", "--fans", "0"]).await;
    let mut first = local.fan(&["diego", "--protocol", "1"]);
    assert_eq!(first.json().await, json!({"status": "success"}));
    local
        .ask(&["event", "put", "1", "match_event=GOAL"])
        .await
        .worked();
    let set = first.json().await;
    assert!(set["PLAYER"].is_string(), "{set}");

    // A second fan comes late and is shown what stands.
    let mut second = local.fan(&["diego"]);
    let envelope = second.json_where(|line| line["type"] == "components").await;
    let components = envelope["components"].as_array().unwrap();
    for component in components {
        let item_type = component["item_type"].as_str().unwrap();
        assert_eq!(set[item_type], component["item_id"]);
    }
    local.ask(&["event", "delete", "1"]).await.worked();
    second.json_where(|line| line["type"] == "ended").await;
}

#[tokio::test]
async fn the_built_in_replay_serves_the_demo_fans() {
    let mut local = Local::start(None, &["--speed", "600"]).await;
    let served = local
        .running
        .json_where(|line| line["fans"].as_u64().is_some_and(|fans| fans > 0))
        .await;
    assert_eq!(served["type"], "moment");
    assert!(
        served["change_to_last_ms"].as_f64().unwrap() > 0.0,
        "{served}"
    );
}

#[tokio::test]
async fn a_replay_moves_any_server() {
    let local = Local::start(None, &["--no-replay"]).await;
    let mut replay = local.follow(&[
        "replay",
        "--world-cup-final",
        "--event",
        "7",
        "--speed",
        "6000",
        "--json",
    ]);
    let moment = replay
        .json_where(|line| line["state"]["attributes"]["match_event"] == "GOAL")
        .await;
    assert_eq!(moment["state"]["event_id"], "7");
    let now = local.ask(&["event", "get", "7", "--json"]).await.json();
    assert!(now["attributes"]["display_clock"].is_string(), "{now}");
}

#[tokio::test]
async fn items_are_loaded_into_the_tables_of_a_running_stack() {
    let local = Local::start(None, &["--no-replay", "--no-demo"]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("items.csv");
    let header = "ITEM_ID,ITEM_LABEL,ITEM_TYPE,TWITTER_FOLLOWER_COUNT,INSTA_FOLLOWER_COUNT,\
        FIFA_OVR_RATE,FIFA_POT_RATE,FIFA_STATS,IS_CELEB,COUNTRY,IS_MONETIZE,IS_ENGAGE";
    std::fs::write(
        &file,
        format!("{header}\nITEM_ID_1,Poll,GENERAL,,,,,,no,,no,yes\n"),
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let load = [
        "items",
        "load",
        file,
        "--json",
        "--dynamodb-endpoint",
        &local.dynamodb,
    ];
    assert_eq!(touchline(&load).await.json(), json!({"loaded": 1}));
    for command in ["create", "upgrade"] {
        let said = touchline(&["tables", command, "--dynamodb-endpoint", &local.dynamodb]).await;
        assert_eq!(said.code, Some(0), "{said:?}");
    }
}

#[tokio::test]
async fn the_data_is_there_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let local = Local::start(Some(folder.path()), &["--no-replay"]).await;
    local
        .ask(&["event", "put", "1", "match_event=GOAL"])
        .await
        .worked();
    assert_eq!(local.running.signal("INT").await, Some(0));

    let again = Local::start(Some(folder.path()), &["--no-replay"]).await;
    let got = again.ask(&["event", "get", "1", "--json"]).await.json();
    assert_eq!(got["attributes"]["match_event"], "GOAL");
}

#[tokio::test]
async fn the_data_is_there_after_a_kill_9_in_the_middle_of_a_replay() {
    let folder = tempfile::tempdir().unwrap();
    let mut local = Local::start(Some(folder.path()), &["--speed", "600"]).await;
    local
        .ask(&["event", "put", "mine", "match_event=GOAL"])
        .await
        .worked();
    local
        .running
        .json_where(|line| line["type"] == "moment")
        .await;
    assert_eq!(local.running.signal("KILL").await, None);

    let again = Local::start(Some(folder.path()), &["--no-replay"]).await;
    for event in ["1", "mine"] {
        let got = again.ask(&["event", "get", event, "--json"]).await.json();
        assert!(got["attributes"]["match_event"].is_string(), "{got}");
    }
}

#[tokio::test]
async fn a_fan_and_a_watch_come_back_when_the_stack_does() {
    let folder = tempfile::tempdir().unwrap();
    let quiet = ["--no-replay", "--fans", "0"];
    let local = Local::start(Some(folder.path()), &quiet).await;
    let put = ["event", "put", "1", "match_event=GOAL"];
    local.ask(&put).await.worked();
    let mut fan = local.fan(&["diego"]);
    fan.json_where(|line| line["type"] == "components").await;
    let mut watch = local.follow(&["watch", "1", "--consumer", "diego", "--json"]);
    watch.json_where(|line| line["type"] == "state").await;
    let [fans_port, grpc_port] = local.ports();
    assert_eq!(local.running.signal("KILL").await, None);

    let ports = [fans_port.as_str(), &grpc_port];
    let again = Local::start_at(Some(folder.path()), ports, &quiet).await;
    let put = ["event", "put", "1", "match_event=PENALTY"];
    again.ask(&put).await.worked();
    let is_new = |line: &serde_json::Value| line["state"]["attributes"]["match_event"] == "PENALTY";
    watch.json_where(is_new).await;
    // When the fan is back is its own affair: news until it hears some.
    let begin = Instant::now();
    let mut news = 0;
    let heard = loop {
        assert!(begin.elapsed() < DEADLINE, "the fan never came back");
        news += 1;
        let attribute = format!("match_event=PENALTY-{news}");
        again.ask(&["event", "put", "1", &attribute]).await.worked();
        if let Ok(line) = timeout(Duration::from_secs(1), fan.json()).await {
            break line;
        }
    };
    assert_eq!(heard["type"], "components", "{heard}");
}

#[tokio::test]
async fn a_fan_says_when_it_is_connected_also_while_nothing_happens() {
    let folder = tempfile::tempdir().unwrap();
    let quiet = ["--no-replay", "--fans", "0"];
    let local = Local::start(Some(folder.path()), &quiet).await;
    let mut fan = local.noting_fan(&["diego"]);
    assert!(fan.line().await.starts_with("diego is connected"));
    let [fans_port, grpc_port] = local.ports();
    assert_eq!(local.running.signal("KILL").await, None);
    assert!(fan.line().await.starts_with("interrupted"));
    let _again = Local::start_at(Some(folder.path()), [&fans_port, &grpc_port], &quiet).await;
    while !fan.line().await.starts_with("diego is connected") {}
}

#[tokio::test]
async fn one_folder_belongs_to_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Local::start(Some(folder.path()), &["--no-replay"]).await;
    let path = folder.path().to_str().unwrap();
    let said = touchline(&[
        "--data-dir",
        path,
        "--no-replay",
        "--page-port",
        "0",
        "--fans-port",
        "0",
        "--management-port",
        "0",
        "--grpc-port",
        "0",
        "--push-grpc-port",
        "0",
        "--metrics-port",
        "0",
        "--push-metrics-port",
        "0",
        "--dynamodb-port",
        "0",
    ])
    .await;
    assert!(said.error().contains(path), "{said:?}");
}

#[tokio::test]
async fn where_the_server_ranks_by_itself_there_is_nothing_to_warm() {
    let local = Local::start(None, &["--no-replay"]).await;
    local
        .ask(&["event", "put", "1", "match_event=GOAL"])
        .await
        .worked();
    let users = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(users.path(), "USER_ID\ndiego\ncamille\n").unwrap();
    let users = users.path().to_str().unwrap();
    let said = local.ask(&["warm", "1", "--users", users]).await;
    said.worked();
    assert!(said.out.contains("nothing to warm"), "{said:?}");
    let said = local.ask(&["warm", "1", "--users", users, "--json"]).await;
    assert_eq!(said.json()["questions"], 0);
    assert_eq!(local.running.signal("INT").await, Some(0));
}
