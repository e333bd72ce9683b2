//! Watching without a socket: mailboxes, order, and what is kept.

use std::collections::BTreeSet;

use futures::FutureExt;
use touchline_store::{
    aws::AwsArgs,
    event::Attribute,
    tables::{StoreArgs, TableNames},
};

use super::*;

/// Events over a store that nobody serves: none of these tests reads it.
async fn events() -> Arc<Events> {
    let name = || "none".to_owned();
    let args = StoreArgs {
        aws: AwsArgs {
            region: Some("eu-west-1".to_owned()),
            dynamodb_endpoint: Some("http://127.0.0.1:1".to_owned()),
        },
        names: TableNames {
            event: name(),
            session: name(),
            item: name(),
            lease: name(),
        },
    };
    Arc::new(Events::new(Store::connect(&args).await, Arc::default()))
}

fn id(event_id: &str) -> EventId {
    EventId::new(event_id).unwrap()
}

fn seen(event_id: &str, clock: u32) -> Seen {
    let clock_text = Attribute::Text(clock.to_string());
    Seen {
        position: Some(Position::new("epoch", &clock.to_string())),
        ..Seen::from_table(EventState {
            event_id: id(event_id),
            attributes: [("display_clock".to_owned(), clock_text)].into(),
            contents: BTreeSet::new(),
        })
    }
}

/// Follows a feed that has shown these.
async fn follow(events: &Events, shown: &[Seen]) {
    for seen in shown {
        events.apply(Change::State(seen.clone()));
    }
    let shown = shown.iter().map(|seen| seen.state.event_id.clone());
    events.caught_up(&shown.collect()).await;
}

#[tokio::test]
async fn a_slow_watcher_gets_the_newest_state_and_nothing_in_between() {
    let events = events().await;
    follow(&events, &[seen("a", 1)]).await;
    let mut watcher = events.watch(&id("a"));
    assert_eq!(*watcher.first().await.unwrap(), seen("a", 1));
    for clock in 2..=100 {
        events.apply(Change::State(seen("a", clock)));
    }
    assert_eq!(*watcher.next().await.unwrap(), seen("a", 100));
    events.apply(Change::Ended(id("a")));
    assert_eq!(watcher.next().await, None);
}

#[tokio::test]
async fn a_change_that_nobody_can_see_is_no_news() {
    let events = events().await;
    follow(&events, &[seen("a", 1)]).await;
    let mut watcher = events.watch(&id("a"));
    watcher.first().await.unwrap();
    let moved = Seen {
        position: Some(Position::new("epoch", "2")),
        ..seen("a", 1)
    };
    events.apply(Change::State(moved));
    events.apply(Change::State(seen("b", 9)));
    assert_eq!(watcher.next().now_or_never(), None);
    events.apply(Change::State(seen("a", 3)));
    assert_eq!(*watcher.next().await.unwrap(), seen("a", 3));
}

#[tokio::test]
async fn an_older_change_never_replaces_a_newer_one() {
    let events = events().await;
    follow(&events, &[seen("a", 2)]).await;
    events.apply(Change::State(seen("a", 1)));
    assert_eq!(*events.current(&id("a")).await.unwrap(), seen("a", 2));
    let other_epoch = Seen {
        position: Some(Position::new("another", "1")),
        ..seen("a", 1)
    };
    events.apply(Change::State(other_epoch.clone()));
    assert_eq!(*events.current(&id("a")).await.unwrap(), other_epoch);
}

#[tokio::test]
async fn the_last_watcher_to_leave_leaves_nothing_behind() {
    let events = events().await;
    let (one, two) = (events.watch(&id("a")), events.watch(&id("a")));
    drop(one);
    assert_eq!(events.watched(), 1);
    drop(two);
    assert_eq!(events.watched(), 0);
}

#[tokio::test]
async fn a_watcher_of_an_ended_event_does_not_remove_those_of_its_second_life() {
    let events = events().await;
    let of_first_life = events.watch(&id("a"));
    events.apply(Change::Ended(id("a")));
    let mut of_second_life = events.watch(&id("a"));
    drop(of_first_life);
    events.apply(Change::State(seen("a", 7)));
    assert_eq!(*of_second_life.next().await.unwrap(), seen("a", 7));
}

#[tokio::test]
async fn what_a_new_leader_does_not_show_is_forgotten() {
    let events = events().await;
    follow(&events, &[seen("a", 1), seen("b", 2)]).await;
    events.lost();
    assert!(!events.following());
    follow(&events, &[seen("a", 3)]).await;
    assert!(events.lock().newest.contains_key(&id("a")));
    assert!(!events.lock().newest.contains_key(&id("b")));
}

#[tokio::test]
async fn a_read_that_began_before_the_feed_told_comes_too_late() {
    let events = events().await;
    let mut watcher = events.watch(&id("a"));
    let before = events.lock().fillings(&id("a"));
    events.apply(Change::State(seen("a", 2)));
    events.polled(&id("a"), before, Some(seen("a", 1)));
    assert_eq!(*watcher.next().await.unwrap(), seen("a", 2));
    events.polled(&id("a"), before, None);
    assert_eq!(events.watched(), 1, "nor does it end what is on");

    let before = events.lock().fillings(&id("a"));
    events.polled(&id("a"), before, Some(seen("a", 3)));
    assert_eq!(*watcher.next().await.unwrap(), seen("a", 3));
}

#[tokio::test]
async fn own_writes_are_remembered_until_the_feed_shows_them_and_in_bounds() {
    let events = events().await;
    follow(&events, &[seen("a", 1)]).await;
    events.written(&id("a"), Some(seen("a", 3).state)).await;
    events.apply(Change::State(seen("a", 2)));
    assert!(events.lock().trusted(&id("a")).is_none());
    events.apply(Change::State(seen("a", 3)));
    assert!(events.lock().trusted(&id("a")).is_some());

    events.written(&id("a"), None).await;
    assert!(events.lock().trusted(&id("a")).is_none());
    events.apply(Change::Ended(id("a")));
    assert!(events.lock().written.is_empty());

    for event in 0..=WRITTEN_MAX {
        events.written(&id(&event.to_string()), None).await;
    }
    assert_eq!(events.lock().written.len(), WRITTEN_MAX);
}

/// A watcher for whom this state was read from the table.
fn ahead(events: &Arc<Events>, clock: u32) -> Watcher {
    let mut watcher = events.watch(&id("a"));
    watcher.begin(Arc::new(Seen {
        position: None,
        ..seen("a", clock)
    }));
    watcher
}

#[tokio::test]
async fn what_was_read_ahead_of_the_feed_is_never_followed_by_something_older() {
    let events = events().await;
    let mut watcher = ahead(&events, 3);
    events.apply(Change::State(seen("a", 2)));
    assert!(watcher.next().now_or_never().is_none());
    events.apply(Change::State(seen("a", 3)));
    assert!(watcher.next().now_or_never().is_none());
    events.apply(Change::State(seen("a", 4)));
    assert_eq!(*watcher.next().await.unwrap(), seen("a", 4));
}

/// Reads this state from the row, for all watchers.
fn poll(events: &Events, clock: u32) {
    let before = events.lock().fillings(&id("a"));
    let row = Seen {
        position: None,
        ..seen("a", clock)
    };
    events.polled(&id("a"), before, Some(row));
}

#[tokio::test]
async fn what_was_polled_while_nobody_led_is_never_followed_by_something_older() {
    let events = events().await;
    follow(&events, &[seen("a", 1)]).await;
    let mut watcher = events.watch(&id("a"));
    watcher.first().await.unwrap();
    events.lost();
    for clock in [3, 4] {
        poll(&events, clock);
        let polled = watcher.next().now_or_never().unwrap().unwrap();
        assert_eq!(polled.state, seen("a", clock).state);
    }
    // The new leader had read the row before.
    follow(&events, &[seen("a", 2)]).await;
    assert!(watcher.next().now_or_never().is_none());
    events.apply(Change::State(seen("a", 4)));
    assert!(watcher.next().now_or_never().is_none());
    events.apply(Change::State(seen("a", 5)));
    assert_eq!(*watcher.next().await.unwrap(), seen("a", 5));
}

#[tokio::test(start_paused = true)]
async fn a_state_that_the_feed_never_shows_holds_nothing_back_for_long() {
    let events = events().await;
    let mut watcher = ahead(&events, 3);
    // What was read was replaced before the feed could show it.
    events.apply(Change::State(seen("a", 5)));
    assert_eq!(*watcher.next().await.unwrap(), seen("a", 5));
}
