//! The process itself: flags, a taken port, signals.

use std::{
    net::TcpListener,
    process::{Output, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};
use tonic::transport::Channel;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use crate::harness::{Tables, soon};

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_touchline-server"));
    command
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

async fn run(flags: &[&str]) -> Output {
    soon(command().args(flags).output()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits for a line of the log that says this.
async fn line(lines: &mut Lines<BufReader<ChildStderr>>, wanted: &str) -> String {
    soon(async {
        let mut before = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(wanted) {
                return line;
            }
            before.push(line);
        }
        panic!("the log ended without {wanted:?}: {before:#?}");
    })
    .await
}

fn signal(child: &Child, name: &str) {
    let id = child.id().unwrap().to_string();
    let sent = std::process::Command::new("kill")
        .args([name, &id])
        .status();
    assert!(sent.unwrap().success());
}

/// A process that is ready, its log, and where it listens.
struct Serving {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    address: String,
}

impl Serving {
    async fn start(tables: &Tables, more: &[&str]) -> Self {
        let endpoint = format!("http://{}", tables.embedded.address());
        let mut child = command()
            .args(["--listen", "127.0.0.1:0", "--dynamodb-endpoint", &endpoint])
            .args(["--metrics-listen", "127.0.0.1:0"])
            .args(["--log-format", "json"])
            .args(more)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let listens = line(&mut lines, "gRPC listens").await;
        let listens: serde_json::Value = serde_json::from_str(&listens).unwrap();
        let address = listens["fields"]["address"].as_str().unwrap().to_owned();
        line(&mut lines, "ready").await;
        Self {
            child,
            lines,
            address,
        }
    }
}

#[tokio::test]
async fn help_names_every_flag_with_its_default() {
    let output = run(&["--help"]).await;
    assert!(output.status.success());
    let help = text(&output.stdout);
    for flag in [
        "--listen",
        "--insecure",
        "--metrics-listen",
        "127.0.0.1:9090",
        "--recommender",
        "--campaign-arn",
        "--personalize-endpoint",
        "--num-results",
        "--context-keys",
        "--catalog-refresh",
        "--default-deadline",
        "--dynamodb-endpoint",
        "--event-table",
        "--log-format",
        "127.0.0.1:50051",
        "rt_personalize_event_manager",
    ] {
        assert!(help.contains(flag), "{flag} is missing in {help}");
    }
}

#[tokio::test]
async fn a_bad_flag_ends_the_process_before_it_listens() {
    for (flags, named) in [
        (&["--listen", "nowhere"][..], "--listen"),
        (&["--listen", "0.0.0.0:0"], "--insecure"),
        (&["--recommender", "oracle"], "embedded, personalize"),
        (&["--recommender", "personalize"], "--campaign-arn"),
        (&["--num-results", "0"], "1 to 500"),
        (&["--interactions", "/no/such/file"], "/no/such/file"),
        (&["--log", "a=b=c"], "--log"),
    ] {
        let output = run(flags).await;
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        let error = text(&output.stderr);
        assert!(error.contains(named), "{flags:?} gave {error}");
        assert!(!error.contains("listens"), "{error}");
    }
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_flag_that_moves_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let endpoint = ["--dynamodb-endpoint", "http://127.0.0.1:1"];
    let free = ["--metrics-listen", "127.0.0.1:0"];
    let output = run(&[&["--listen", &address], &free[..], &endpoint[..]].concat()).await;
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.contains(&address) && error.contains("--listen"),
        "{error}"
    );
}

#[tokio::test]
async fn a_signal_ends_the_process_in_order() {
    let tables = Tables::start().await;
    for name in ["-TERM", "-INT"] {
        let mut serving = Serving::start(&tables, &[]).await;
        signal(&serving.child, name);
        line(&mut serving.lines, "shutting down").await;
        let status = soon(serving.child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{name}");
    }
    tables.embedded.stop().await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let tables = Tables::start().await;
    let mut serving = Serving::start(&tables, &["--drain", "10m"]).await;
    // A stream that its client never ends would let the process wait for ten minutes.
    let endpoint = format!("http://{}", serving.address);
    let channel = Channel::from_shared(endpoint).unwrap().connect_lazy();
    let mut client = ServerReflectionClient::new(channel);
    let endless = client.server_reflection_info(tokio_stream::pending());
    let endless = soon(endless).await.unwrap();
    signal(&serving.child, "-TERM");
    line(&mut serving.lines, "shutting down").await;
    signal(&serving.child, "-TERM");
    let status = soon(serving.child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(130));
    drop(endless);
    tables.embedded.stop().await;
}
