//! A server, a push adapter and a gateway as processes, as an operator administers them: by
//! `touchline admin`, and by the typed client behind it.

use std::{fs, net::SocketAddr};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;
use touchline_client::{Admin, Caller, Error, proto::get_status_response::Role};
use touchline_tests::{
    dynamodb::TestDynamodb,
    eventually,
    fan::Fan,
    process::{Process, Said, Talking, free_address},
    rows,
};

struct Site {
    dynamodb: TestDynamodb,
    server: (Process, String),
    push: (Process, String),
    gateway: (Process, String),
    fans: SocketAddr,
    files: TempDir,
}

impl Site {
    async fn start() -> Result<Self> {
        let dynamodb = TestDynamodb::start().await?;
        let files = tempfile::tempdir()?;
        let policies = files.path().join("policies.toml");
        fs::write(&policies, "# nothing is ruled\n")?;
        let store = [
            "--dynamodb-endpoint",
            &dynamodb.endpoint,
            "--region",
            &dynamodb.region,
            "--metrics-listen",
            "127.0.0.1:0",
        ];
        let start = async |name, role: &[&str], listen: SocketAddr, flags: &[&str]| {
            let listen_flag = listen.to_string();
            let flags = [role, &store[..], &["--listen", &listen_flag], flags].concat();
            let mut process = Process::start(name, &flags)?;
            process.listens(listen).await?;
            anyhow::Ok((process, format!("http://{listen}")))
        };
        let policies = policies.to_str().context("it is a path of text")?;
        let flags = ["--policies", policies];
        let server = start("touchline-server", &[], free_address()?, &flags).await?;
        let fans = free_address()?;
        let (management, fans_flag) = (free_address()?.to_string(), fans.to_string());
        let nobody = free_address()?.to_string();
        let flags = ["--server", &server.1, "--fans-listen", &nobody];
        let flags = [&flags[..], &["--management-listen", &management]].concat();
        let push = start("touchline-push", &[], free_address()?, &flags).await?;
        let flags = ["--server", &server.1, "--fans-listen", &fans_flag];
        let gateway = start("touchline-push", &["gateway"], free_address()?, &flags).await?;
        Ok(Self {
            dynamodb,
            server,
            push,
            gateway,
            fans,
            files,
        })
    }
}

async fn admin(arguments: &[&str]) -> Result<Said> {
    let arguments = [&["admin"], arguments].concat();
    Talking::start("touchline", &arguments)?.ended().await
}

fn process(address: &str) -> Result<Admin> {
    Ok(Admin::connect_as(address, &Caller::default())?)
}

async fn push_status(address: &str) -> Option<touchline_client::proto::PushStatus> {
    let status = process(address).ok()?.status().await.ok()?;
    match status.role? {
        Role::Push(push) if status.not_ready.is_empty() => Some(push),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_process_says_what_it_is_doing() -> Result<()> {
    let site = Site::start().await?;
    let client = site.dynamodb.client().await;
    eventually("the push adapter leads", || async {
        push_status(&site.push.1).await.filter(|push| push.leading)
    })
    .await;
    rows::put_event(&client, "1", "GOAL", "FIRST-HALF-1", "1").await?;
    let mut fan = Fan::protocol_2(&format!("ws://{}/dev", site.fans), "diego", "final").await?;
    fan.receive().await?;

    let push = eventually("the gateway knows the event and its fan", || async {
        let push = push_status(&site.gateway.1).await?;
        (push.fans?.protocol_2 == 1).then_some(push)
    })
    .await;
    assert!(!push.leading && push.stream_age.is_none());
    assert_eq!(push.leader_address, site.push.1);
    assert_eq!((push.events.len(), push.events_known), (1, 1));
    assert_eq!(push.events[0].event_id, "1");
    let leader = push_status(&site.push.1).await.context("it is ready")?;
    assert_eq!(leader.events, push.events);
    assert!(leader.stream_age.is_some() && leader.followers >= 2);

    let all = [&*site.server.1, &site.push.1, &site.gateway.1].join(",");
    let said = admin(&["status", "--json", "--server", &all]).await?;
    assert_eq!((said.code, &*said.err), (Some(0), ""));
    let lines: Vec<Value> = said
        .out
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["ready"] == true));
    assert_eq!(lines[0]["server"]["following"], true);
    assert_eq!(lines[1]["push"]["leading"], true);
    assert_eq!(lines[2]["push"]["fans"]["protocol_2"], 1);
    let said = admin(&["--server", &all]).await?;
    for part in [
        "touchline-server",
        "leading",
        "fans 1: 1 with protocol 2",
        "event 1",
    ] {
        assert!(said.out.contains(part), "{part} in {}", said.out);
    }

    let said = admin(&["health", "--server", &all]).await?;
    assert_eq!(
        (said.code, said.out.lines().count()),
        (Some(0), 3),
        "{said:?}"
    );

    // One that is not there does not hide the others.
    let nobody = format!("http://{}", free_address()?);
    let said = admin(&["status", "--server", &format!("{nobody},{}", site.push.1)]).await?;
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("leading"), "{}", said.out);
    assert!(
        said.err
            .contains(&format!("cannot reach the server at {nobody}")),
        "{}",
        said.err
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_reloads_logs_and_drains_as_it_is_told() -> Result<()> {
    let Site {
        server,
        push,
        gateway,
        files,
        dynamodb,
        ..
    } = Site::start().await?;
    let policies = files.path().join("policies.toml");
    let address = &*server.1;
    let said = admin(&["reload", "--server", address]).await?;
    assert_eq!(
        said.out,
        format!("{address} has the same policies in force\n")
    );
    fs::write(&policies, "[types.PLAYER]\nslots = 99\n")?;
    let said = admin(&["reload", "--server", address]).await?;
    assert_eq!(said.code, Some(1));
    let named = "types.PLAYER.slots = 99: 0 to 50 is accepted; the last good policies stay";
    assert!(said.err.contains(named), "{}", said.err);
    fs::write(&policies, "[types.PLAYER]\nslots = 2\n")?;
    // They may be in force already: the file is looked at all the time.
    assert_eq!(admin(&["reload", "--server", address]).await?.code, Some(0));
    let status = process(address)?.status().await?;
    assert!(matches!(status.role, Some(Role::Server(server)) if server.policies_reloads == 1));
    let absent = process(&push.1)?.reload_policies().await.unwrap_err();
    assert!(
        absent.to_string().contains("there are no policies here"),
        "{absent}"
    );

    let said = admin(&["log", "warn,touchline_push=debug", "--server", &push.1]).await?;
    assert!(
        said.out
            .contains("logs warn,touchline_push=debug; before: info"),
        "{}",
        said.out
    );
    let logged = process(&push.1)?.status().await?.log;
    assert!(logged.contains("touchline_push=debug"), "{logged}");
    for refused in ["", "a=b=c", &"x".repeat(1_001)] {
        let error = process(&push.1)?.set_log(refused).await.unwrap_err();
        let Error::Invalid { violations, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(violations[0].field, "log");
    }

    for (process, address) in [gateway, push, server] {
        let said = admin(&["drain", "--server", &address]).await?;
        assert_eq!(said.out, format!("{address} drains\n"));
        assert_eq!(process.ended().await?, Some(0), "{address}");
    }
    dynamodb.stop().await;
    Ok(())
}
