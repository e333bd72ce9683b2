//! Help, and what is said when something is not right.

use std::net::TcpListener;

use crate::support::touchline;

#[tokio::test]
async fn help_of_every_command_has_examples() {
    for command in [
        &[][..],
        &["local"],
        &["event", "put"],
        &["event", "get"],
        &["event", "list"],
        &["event", "delete"],
        &["watch"],
        &["fan"],
        &["replay"],
        &["warm"],
        &["admin"],
        &["page"],
        &["store"],
        &["items", "load"],
        &["tables", "create"],
        &["tables", "upgrade"],
        &["completions"],
    ] {
        let said = touchline(&[command, &["--help"]].concat()).await;
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.out.contains("Examples:"), "{command:?}");
    }
}

#[tokio::test]
async fn a_wrong_command_line_ends_with_2_and_says_what_is_wrong() {
    for (arguments, named) in [
        (&["no-such-command"][..], "no-such-command"),
        (&["event", "put", "1", "GOAL"], "NAME=VALUE"),
        (&["--speed", "0"], "0.1 to 100,000"),
        (&["--grpc-port", "70000"], "70000"),
        (
            &["--num-results", "501"],
            "'501' for '--num-results <COUNT|all>': 1 to 500 is accepted, or `all`",
        ),
        (&["replay"], "FILE"),
        (&["admin", "log"], "<FILTER>"),
        (&["warm", "1"], "<--users <FILE.csv>|--consumers <FILE>>"),
        (
            &["warm", "1", "--consumers", "-", "--state", "GOAL"],
            "NAME=VALUE,…",
        ),
        (
            &["warm", "1", "--consumers", "-", "--within", "soon"],
            "1s to 24h",
        ),
        (
            &["warm", "1", "--consumers", "-", "--campaign-arn", "x"],
            "a campaign's ARN",
        ),
        (
            &[
                "warm",
                "1",
                "--consumers",
                "-",
                "--apply-min-provisioned-tps",
            ],
            "--within",
        ),
        (
            &["fan", "diego", "--protocol", "3"],
            "[possible values: 1, 2]",
        ),
        (&["--memory", "event", "list"], "--memory"),
    ] {
        let said = touchline(arguments).await;
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.err.contains(named), "{said:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let server = format!("http://{}", free_address());
    let consumers = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(consumers.path(), "diego\n").unwrap();
    let consumers = consumers.path().to_str().unwrap();
    for arguments in [
        &["event", "list"][..],
        &["event", "get", "1"],
        &["event", "put", "1", "a=b"],
        &["event", "delete", "1"],
        &["watch", "1"],
        &["replay", "--world-cup-final"],
        &["warm", "1", "--consumers", consumers],
    ] {
        let said = touchline(&[arguments, &["--server", &server]].concat()).await;
        let error = said.error();
        assert!(error.contains(&server), "{error}");
        assert!(error.contains("`touchline local`"), "{error}");
    }
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_named_with_what_to_do() {
    let gateway = format!("ws://{}/dev", free_address());
    let said = touchline(&["fan", "diego", "--gateway", &gateway]).await;
    let error = said.error();
    assert!(error.contains(&gateway), "{error}");
    assert!(error.contains("`touchline local`"), "{error}");
}

#[tokio::test]
async fn a_dynamodb_that_is_not_there_is_one_line_that_says_how_to_reach_a_local_one() {
    let endpoint = format!("http://{}", free_address());
    let said = touchline(&["tables", "create", "--dynamodb-endpoint", &endpoint]).await;
    let error = said.error();
    assert!(error.contains("--dynamodb-endpoint"), "{error}");
}

#[tokio::test]
async fn what_is_no_address_is_said_with_the_flag() {
    let said = touchline(&["event", "list", "--server", "not an address"]).await;
    assert!(said.error().contains("--server"), "{said:?}");
}

#[tokio::test]
async fn a_taken_port_is_named_with_what_is_on_it_and_the_flag_that_moves_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ports = [
        "--fans-port",
        "--management-port",
        "--grpc-port",
        "--push-grpc-port",
        "--metrics-port",
        "--push-metrics-port",
        "--dynamodb-port",
    ];
    for flag in ports {
        let mut arguments = vec!["--memory", "--no-replay"];
        for other in ports {
            arguments.extend([other, if other == flag { &port } else { "0" }]);
        }
        let said = touchline(&arguments).await;
        let error = said.error();
        assert!(error.contains(&format!("port {port} is taken")), "{error}");
        assert!(error.contains(flag), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named() {
    for arguments in [
        &["replay", "/no/such/file"][..],
        &["items", "load", "/no/such/file"],
        &["warm", "1", "--users", "/no/such/file"],
    ] {
        let said = touchline(arguments).await;
        assert!(said.error().contains("/no/such/file"), "{said:?}");
    }
}

#[tokio::test]
async fn completions_are_made_for_the_usual_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let said = touchline(&["completions", shell]).await;
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.out.contains("touchline"), "{shell}");
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_touchline"));
    let output = command
        .args(["completions", "bash"])
        .stdout(writer)
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

fn free_address() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
