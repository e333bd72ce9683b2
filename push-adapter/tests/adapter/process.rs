//! The real binary: flags, errors, signals.

use std::{net::TcpListener, process::Output};

use crate::support::{
    DEADLINE,
    process::{Process, push},
};

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
        (["--log", "="], "--log ="),
    ] {
        let output = output(&args).await;
        assert!(!output.status.success());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(wanted), "{error}");
    }
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_flag_that_moves_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    for flag in ["--listen", "--fans-listen", "--management-listen"] {
        let mut args = vec![
            "--listen",
            free,
            "--fans-listen",
            free,
            "--management-listen",
            free,
        ];
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

#[tokio::test]
async fn sigterm_and_sigint_end_it_in_order() {
    let (embedded, _store) = crate::support::store().await;
    let endpoint = format!("http://{}", embedded.address());
    for which in ["-TERM", "-INT"] {
        let mut process =
            Process::start(&["--dynamodb-endpoint", &endpoint, "--sole-leader"]).await;
        process.signal(which).await;
        assert_eq!(process.ended().await, Some(0), "{which}");
    }
}

#[tokio::test]
async fn it_starts_before_its_tables_and_ends_while_it_waits_for_them() {
    // Nothing listens on port 1.
    let mut process = Process::start(&[
        "--dynamodb-endpoint",
        "http://127.0.0.1:1",
        "--log-format",
        "json",
    ])
    .await;
    process.signal("-TERM").await;
    assert_eq!(process.ended().await, Some(0));
}
