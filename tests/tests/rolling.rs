//! A rolling restart of the servers under load: no unary call is lost, and who watches ends on the
//! newest state. What fans notice when gateways restart is `bench -- restart`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use futures::{FutureExt, StreamExt, future::join_all};
use touchline_client::{Client, Situation, Watched, replicas::Resolve};
use touchline_tests::{
    dynamodb::TestDynamodb,
    eventually,
    process::{Process, free_address},
    rows,
};

const CALLERS: usize = 16;

struct Servers {
    dynamodb: TestDynamodb,
    addresses: [SocketAddr; 2],
}

impl Servers {
    async fn start(&self, which: usize) -> Result<Process> {
        let address = self.addresses[which];
        let listen = address.to_string();
        let mut process = Process::start(
            "touchline-server",
            &[
                "--dynamodb-endpoint",
                &self.dynamodb.endpoint,
                "--region",
                &self.dynamodb.region,
                "--listen",
                &listen,
                "--metrics-listen",
                "127.0.0.1:0",
                "--drain",
                "5s",
            ],
        )?;
        process.listens(address).await?;
        self.answers(which).await?;
        Ok(process)
    }

    /// Waits until a server is ready by itself.
    async fn answers(&self, which: usize) -> Result<()> {
        let alone = Client::connect(&format!("http://{}", self.addresses[which]))?;
        eventually("the server answers", || async {
            let anywhere = Situation::Context([].into());
            alone.get_components("diego", anywhere).await.ok()
        })
        .await;
        Ok(())
    }

    fn client(&self) -> Result<Client> {
        let addresses = self.addresses.to_vec();
        let resolve: Resolve = Arc::new(move || {
            let addresses = addresses.clone();
            async move { Ok(addresses) }.boxed()
        });
        Ok(Client::connect_resolving(
            "http://touchline-server:50051",
            resolve,
        )?)
    }
}

/// Asks for one consumer after the other until it is over; gives the errors.
async fn ask(
    client: Client,
    caller: usize,
    over: &AtomicBool,
    answered: &AtomicUsize,
) -> Vec<String> {
    let mut errors = Vec::new();
    let mut asked = 0;
    while !over.load(Ordering::Relaxed) {
        let consumer = format!("consumer-{caller}-{}", asked % 20);
        let event = Situation::Event("1".to_owned());
        match client.get_components(&consumer, event).await {
            Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
            Err(error) => errors.push(error.to_string()),
        }
        asked += 1;
    }
    errors
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_restart_one_after_the_other_lose_no_call_and_leave_no_watcher_behind()
-> Result<()> {
    let servers = Servers {
        dynamodb: TestDynamodb::start().await?,
        addresses: [free_address()?, free_address()?],
    };
    let mut processes = [servers.start(0).await?, servers.start(1).await?].map(Some);
    let table = servers.dynamodb.client().await;
    rows::put_event(&table, "1", "GOAL", "FIRST-HALF-1", "1").await?;
    let client = servers.client()?;
    let mut watch = client.watch("1", Some("diego"));
    watch.next().await.context("the first state")??;

    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = (0..CALLERS).map(|caller| ask(client.clone(), caller, &over, &answered));
    let restarting = async {
        for (which, process) in processes.iter_mut().enumerate() {
            let before = answered.load(Ordering::Relaxed);
            eventually("calls are answered meanwhile", || async {
                (answered.load(Ordering::Relaxed) > before + 200).then_some(())
            })
            .await;
            let ended = process.take().context("it runs")?.terminate().await?;
            anyhow::ensure!(ended == Some(0), "a server ended with {ended:?}");
            *process = Some(servers.start(which).await?);
        }
        rows::put_event(&table, "1", "FULL-TIME", "SECOND-HALF", "1").await?;
        over.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    let (errors, restarted) = tokio::join!(join_all(load), restarting);
    restarted?;
    assert_eq!(errors.concat(), Vec::<String>::new());
    assert!(answered.load(Ordering::Relaxed) > 400);

    let newest = async {
        while let Some(watched) = watch.next().await {
            if let Watched::State {
                state,
                component_set,
            } = watched?
                && state
                    .attributes
                    .get("match_event")
                    .is_some_and(|event| event == "FULL-TIME")
            {
                return Ok(component_set);
            }
        }
        anyhow::bail!("the watch ended")
    };
    let set = tokio::time::timeout(touchline_tests::DEADLINE, newest).await??;
    assert!(set.is_some());
    for process in processes.into_iter().flatten() {
        assert_eq!(process.terminate().await?, Some(0));
    }
    Ok(())
}
