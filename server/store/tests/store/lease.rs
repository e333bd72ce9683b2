//! The lease and the checkpoint behind it.

use std::time::Duration;

use touchline_store::{
    Error,
    event::Version,
    ids::EventId,
    lease::{Applied, Progress},
    position::Position,
    stream::{Checkpoint, ShardProgress},
};

use crate::common::prepared;

/// How long leases last here.
const LASTS: Duration = Duration::from_secs(2);

fn checkpoint(sequence: &str) -> Checkpoint {
    Checkpoint {
        epoch: "epoch".to_owned(),
        shards: [
            ("a".to_owned(), ShardProgress::After(sequence.to_owned())),
            ("b".to_owned(), ShardProgress::Finished),
        ]
        .into(),
    }
}

fn applied(event: usize, sequence: &str) -> (EventId, Applied) {
    let applied = Applied {
        position: Some(Position::new("epoch", sequence)),
        version: (event > 0).then(|| Version::from_text("0123456789abcdef")),
    };
    (EventId::new(event.to_string()).unwrap(), applied)
}

#[track_caller]
fn assert_conflict<T: std::fmt::Debug>(result: &Result<T, Error>) {
    assert!(matches!(result, Err(Error::Conflict(_))), "{result:?}");
}

#[tokio::test]
async fn a_lease_is_taken_once_renewed_by_its_owner_and_given_back() {
    let (_embedded, store) = prepared().await;
    assert_eq!(store.lease().await.unwrap(), None);
    let held = store
        .take_lease("one", "http://one", LASTS, None)
        .await
        .unwrap();
    assert_eq!(store.lease().await.unwrap(), Some(held.clone()));
    assert_conflict(&store.take_lease("two", "http://two", LASTS, None).await);
    let renewed = store.renew_lease(&held).await.unwrap();
    assert!(renewed.counter > held.counter);
    // Whoever saw the lease before its renewal sees that the owner lives.
    assert_conflict(
        &store
            .take_lease("two", "http://two", LASTS, Some(&held))
            .await,
    );
    // The same renewal again, as when its answer was lost.
    assert_eq!(store.renew_lease(&held).await.unwrap(), renewed);
    let taken = store
        .take_lease("two", "http://two", LASTS, Some(&renewed))
        .await
        .unwrap();
    assert_eq!(taken.address, "http://two");
    assert_conflict(&store.renew_lease(&renewed).await);
    assert_conflict(&store.release_lease(&renewed).await);
    store.release_lease(&taken).await.unwrap();
    let free = store.lease().await.unwrap().unwrap();
    assert_eq!((free.owner.as_str(), free.address.as_str()), ("", ""));
    store
        .take_lease("one", "http://one", LASTS, Some(&free))
        .await
        .unwrap();
}

#[tokio::test]
async fn progress_is_recorded_whole_and_read_back() {
    let (_embedded, store) = prepared().await;
    assert_eq!(store.progress().await.unwrap(), Progress::default());
    store.take_lease("one", "", LASTS, None).await.unwrap();
    let all: Vec<_> = (0..200).map(|event| applied(event, "7")).collect();
    store
        .record_progress("one", Some(&checkpoint("7")), &all)
        .await
        .unwrap();
    let twice = [applied(1, "8"), applied(1, "9")];
    store
        .record_progress("one", Some(&checkpoint("9")), &twice)
        .await
        .unwrap();
    let progress = store.progress().await.unwrap();
    assert_eq!(progress.checkpoint, Some(checkpoint("9")));
    let mut expected: std::collections::HashMap<_, _> = all.into_iter().collect();
    expected.extend([applied(1, "9")]);
    assert_eq!(progress.applied, expected);
}

#[tokio::test]
async fn a_checkpoint_is_conditional_on_the_lease() {
    let (_embedded, store) = prepared().await;
    assert_conflict(
        &store
            .record_progress("one", Some(&checkpoint("1")), &[])
            .await,
    );
    let held = store.take_lease("one", "", LASTS, None).await.unwrap();
    store
        .record_progress("one", Some(&checkpoint("1")), &[])
        .await
        .unwrap();
    store
        .take_lease("two", "", LASTS, Some(&held))
        .await
        .unwrap();
    assert_conflict(
        &store
            .record_progress("one", Some(&checkpoint("2")), &[applied(1, "2")])
            .await,
    );
    let progress = store.progress().await.unwrap();
    assert_eq!(progress.checkpoint, Some(checkpoint("1")));
    assert!(progress.applied.is_empty());
}

#[tokio::test]
async fn of_many_that_want_the_lease_one_gets_it() {
    let (_embedded, store) = prepared().await;
    let takers = (0..10).map(|owner| {
        let store = store.clone();
        async move {
            store
                .take_lease(&owner.to_string(), "", LASTS, None)
                .await
                .is_ok()
        }
    });
    let taken = futures::future::join_all(takers).await;
    assert_eq!(taken.into_iter().filter(|is_taken| *is_taken).count(), 1);
}
