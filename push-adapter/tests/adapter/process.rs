//! The real binary: flags, errors, signals.

use std::{
    net::TcpListener,
    process::{Output, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::support::DEADLINE;

fn push(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_touchline-push"));
    command
        .args(args)
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn output(args: &[&str]) -> Output {
    let output = push(args).output();
    tokio::time::timeout(DEADLINE, output)
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn help_is_the_reference_of_the_flags() {
    let output = output(&["--help"]).await;
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for flag in [
        "--listen",
        "--fans-listen",
        "--server",
        "--sole-leader",
        "--insecure",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
}

#[tokio::test]
async fn a_bad_flag_is_named_with_its_value_and_what_would_be_accepted() {
    for (args, wanted) in [
        (
            ["--fans-listen", "0.0.0.0:0"],
            "--fans-listen 0.0.0.0:0: this listens beyond this machine",
        ),
        (
            ["--server", "localhost:50051"],
            "--server localhost:50051: an http:// or https:// URL is accepted",
        ),
        (
            ["--lease-duration", "1h"],
            "--lease-duration 1h: 500ms to 5m are accepted",
        ),
        (
            ["--connections", "pigeon"],
            "[possible values: local, api-gateway]",
        ),
        (["--log", "a=b=c"], "'a=b=c' for '--log <FILTER>'"),
    ] {
        let output = output(&args).await;
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(wanted), "{error}");
    }
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_flag_that_moves_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    let flags = [
        "--listen",
        "--fans-listen",
        "--management-listen",
        "--metrics-listen",
    ];
    for flag in flags {
        let mut args: Vec<_> = flags.into_iter().flat_map(|flag| [flag, free]).collect();
        let place = args.iter().position(|arg| *arg == flag).unwrap() + 1;
        args[place] = &taken;
        let output = output(&args).await;
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.contains(&format!("{flag} {taken} cannot be bound")),
            "{error}"
        );
    }
}

/// Starts the binary and waits until it says that it started.
async fn started(args: &[&str]) -> Child {
    let free = "127.0.0.1:0";
    let mut all = vec![
        "--listen",
        free,
        "--fans-listen",
        free,
        "--management-listen",
        free,
        "--metrics-listen",
        free,
    ];
    all.extend(args);
    let mut child = push(&all).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let wait = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("started") {
                return;
            }
        }
        panic!("it ended");
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap();
    // Read on, so that its log never blocks it.
    child.stderr = Some(lines.into_inner().into_inner());
    child
}

async fn signal(child: &Child, signal: &str) {
    let id = child.id().unwrap().to_string();
    let status = Command::new("kill").args([signal, &id]).status().await;
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn sigterm_and_sigint_end_it_in_order() {
    let (embedded, _store) = crate::support::store().await;
    let endpoint = format!("http://{}", embedded.address());
    for which in ["-TERM", "-INT"] {
        let mut child = started(&["--dynamodb-endpoint", &endpoint, "--sole-leader"]).await;
        signal(&child, which).await;
        let status = tokio::time::timeout(DEADLINE, child.wait()).await.unwrap();
        assert_eq!(status.unwrap().code(), Some(0), "{which}");
    }
}

#[tokio::test]
async fn it_starts_before_its_tables_and_ends_while_it_waits_for_them() {
    // Nothing listens on port 1.
    let mut child = started(&[
        "--dynamodb-endpoint",
        "http://127.0.0.1:1",
        "--log-format",
        "json",
    ])
    .await;
    signal(&child, "-TERM").await;
    let status = tokio::time::timeout(DEADLINE, child.wait()).await.unwrap();
    assert_eq!(status.unwrap().code(), Some(0));
}
