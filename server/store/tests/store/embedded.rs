//! The embedded DynamoDB as its user sees it: it is what is tested here, whatever
//! `TOUCHLINE_TEST_DYNAMODB` says.

use std::{
    io::{BufRead, BufReader, ErrorKind},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use touchline_store::{
    Error,
    embedded::{Embedded, Place},
};

use crate::common::{audience, dynamodb, event_id, join, prepared_embedded, reached, state, store};
use crate::sessions::expire;

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn in_folder(folder: &Path) -> Result<Embedded, Error> {
    Embedded::start(Place::Folder(folder.to_owned()), anywhere()).await
}

fn io_kind(error: &Error) -> Option<ErrorKind> {
    let source = std::error::Error::source(error)?;
    source
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind)
}

#[tokio::test]
async fn what_was_written_is_there_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made when absent");
    let embedded = in_folder(&path).await.unwrap();
    let first = store(&embedded).await;
    first.prepare().await.unwrap();
    let goal = state("1", &[("match_event", "GOAL")], &[]);
    first.put_event(&goal, false).await.unwrap();
    join(&first, "a", "ana", "final").await;
    embedded.stop().await;
    let embedded = in_folder(&path).await.unwrap();
    let second = store(&embedded).await;
    assert!(second.prepare().await.unwrap().created.is_empty());
    assert_eq!(second.event(&event_id("1")).await.unwrap(), Some(goal));
    assert_eq!(reached(&second, &["final"]).await, ["a"]);
}

#[tokio::test]
async fn a_folder_belongs_to_one_at_a_time_and_dropping_frees_it() {
    let folder = tempfile::tempdir().unwrap();
    let embedded = in_folder(folder.path()).await.unwrap();
    let error = in_folder(folder.path()).await.unwrap_err();
    assert!(
        error.to_string().contains("in use by another process"),
        "{error}"
    );
    assert!(
        error.to_string().contains(folder.path().to_str().unwrap()),
        "{error}"
    );
    assert_eq!(io_kind(&error), Some(ErrorKind::WouldBlock));
    drop(embedded);
    let deadline = Instant::now() + Duration::from_secs(10);
    while in_folder(folder.path()).await.is_err() {
        assert!(Instant::now() < deadline, "the folder is still in use");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn its_end_is_noticed_by_whoever_waits_for_it() {
    let embedded = Embedded::start(Place::Memory, anywhere()).await.unwrap();
    let mut ended = std::pin::pin!(embedded.ended());
    assert!(futures::poll!(&mut ended).is_pending());
    embedded.begin_stop();
    tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_can_be_recognised() {
    let embedded = Embedded::start(Place::Memory, anywhere()).await.unwrap();
    let error = Embedded::start(Place::Memory, embedded.address())
        .await
        .unwrap_err();
    assert_eq!(io_kind(&error), Some(ErrorKind::AddrInUse));
    assert!(
        error.to_string().contains(&embedded.address().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn two_in_memory_have_nothing_in_common() {
    let one = Embedded::start(Place::Memory, anywhere()).await.unwrap();
    let two = Embedded::start(Place::Memory, anywhere()).await.unwrap();
    store(&one).await.prepare().await.unwrap();
    let report = store(&two).await.prepare().await.unwrap();
    assert_eq!(report.created.len(), 4);
}

#[tokio::test]
async fn a_sweep_takes_what_has_expired_and_nothing_else() {
    let (embedded, store) = prepared_embedded().await;
    join(&store, "a", "ana", "final").await;
    assert_eq!(embedded.sweep_ttl().await.unwrap(), 0);
    expire(&dynamodb(&embedded).await, "a").await;
    assert_eq!(audience(&store, &["final"]).await, ([].into(), 1));
    assert_eq!(embedded.sweep_ttl().await.unwrap(), 1);
    assert_eq!(audience(&store, &["final"]).await, ([].into(), 0));
}

/// Names the folder that [`writes_until_it_is_killed`] writes to, when it is run to be killed.
const VICTIM_FOLDER: &str = "TOUCHLINE_TEST_VICTIM_FOLDER";

/// Not a test of its own: the process that the next test kills.
#[tokio::test]
async fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(VICTIM_FOLDER) else {
        return;
    };
    let embedded = in_folder(Path::new(&folder)).await.unwrap();
    let store = store(&embedded).await;
    store.prepare().await.unwrap();
    for number in 0..u32::MAX {
        let state = state("1", &[("number", &number.to_string())], &[]);
        store.put_event(&state, false).await.unwrap();
        println!("\nwritten {number}");
    }
}

#[tokio::test]
async fn a_write_that_was_answered_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "embedded::writes_until_it_is_killed",
            "--nocapture",
        ])
        .env(VICTIM_FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let mut written = lines.by_ref().filter_map(|line| {
        let number = line.unwrap().strip_prefix("written ")?.parse::<u32>();
        number.ok()
    });
    let answered = written.find(|number| *number >= 50).unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    let answered = written.last().unwrap_or(answered);
    let embedded = in_folder(folder.path()).await.unwrap();
    let state = store(&embedded).await.event(&event_id("1")).await.unwrap();
    let number: u32 = state.unwrap().attributes["number"]
        .as_text()
        .parse()
        .unwrap();
    assert!(number >= answered, "{number} is before {answered}");
}
