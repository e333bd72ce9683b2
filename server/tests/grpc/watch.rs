//! WatchEvent, with and without a change feed; the feed here is a test's own.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::stream::BoxStream;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_stream::{StreamExt, wrappers::TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming, transport};
use touchline_proto::v1::{
    CaughtUp, EventEnded, EventState, FollowRequest, FollowResponse, GetEventRequest, Position,
    WatchEventRequest, WatchEventResponse,
    change_feed_server::{ChangeFeed, ChangeFeedServer},
    follow_response::Message,
};
use touchline_server::ServerArgs;
use touchline_store::{
    event::{Attribute, EventState as Row},
    ids::EventId,
    lease::LeaseRow,
};

use crate::{
    harness::{Server, asking, event, reason, refused_fields, says_when_to_retry, soon, until},
    standin::{Answer, Standin},
};

fn watch(event_id: &str, consumer_id: &str, set_id: &str) -> WatchEventRequest {
    WatchEventRequest {
        event_id: event_id.to_owned(),
        consumer_id: consumer_id.to_owned(),
        set_id: set_id.to_owned(),
    }
}

async fn open(server: &Server, request: WatchEventRequest) -> Streaming<WatchEventResponse> {
    let answer = server.components().watch_event(request).await;
    answer.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<WatchEventResponse>) -> WatchEventResponse {
    let message = soon(stream.message()).await.unwrap();
    message.expect("the stream ended")
}

fn clock(response: &WatchEventResponse) -> &str {
    &response.state.as_ref().unwrap().attributes["display_clock"]
}

fn at(clock: &str) -> EventState {
    event("1", &[("match_event", "GOAL"), ("display_clock", clock)])
}

/// Writes the row behind the server's back, as any DynamoDB client may.
async fn write_elsewhere(server: &Server, clock: &str) {
    let state = Row {
        event_id: EventId::new("1").unwrap(),
        attributes: [("match_event", "GOAL"), ("display_clock", clock)]
            .map(|(name, text)| (name.to_owned(), Attribute::Text(text.to_owned())))
            .into(),
        contents: std::collections::BTreeSet::new(),
    };
    server.tables.store.put_event(&state, false).await.unwrap();
}

/// A leader's change feed for one follower, fed by a test.
struct Feed {
    leader: LeaseRow,
    news: mpsc::Sender<Message>,
    followed: mpsc::Receiver<()>,
    _serving: JoinSet<()>,
}

struct FeedService {
    news: Arc<tokio::sync::Mutex<mpsc::Receiver<Message>>>,
    followed: mpsc::Sender<()>,
}

#[tonic::async_trait]
impl ChangeFeed for FeedService {
    type FollowStream = BoxStream<'static, Result<FollowResponse, Status>>;

    async fn follow(
        &self,
        _: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        self.followed.send(()).await.unwrap();
        let news = self.news.clone();
        let relay = async_stream::stream! {
            let mut news = news.lock().await;
            while let Some(message) = news.recv().await {
                let message = Some(message);
                yield Ok(FollowResponse { message, ..FollowResponse::default() });
            }
        };
        Ok(Response::new(Box::pin(relay)))
    }
}

impl Feed {
    /// Serves a feed and takes the lease for it.
    async fn lead(server: &Server, owner: &str, seen: Option<&LeaseRow>) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (news, receiver) = mpsc::channel(1_000);
        let (followed_sender, followed) = mpsc::channel(16);
        let service = FeedService {
            news: Arc::new(tokio::sync::Mutex::new(receiver)),
            followed: followed_sender,
        };
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            transport::Server::builder()
                .add_service(ChangeFeedServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        let store = &server.tables.store;
        let leader = store
            .take_lease(owner, &address, LASTS, seen)
            .await
            .unwrap();
        Self {
            leader,
            news,
            followed,
            _serving: serving,
        }
    }

    async fn say(&self, message: Message) {
        self.news.send(message).await.unwrap();
    }

    async fn state(&self, clock: &str, sequence: u32) {
        let position = Position {
            epoch: "epoch".to_owned(),
            sequence: format!("{sequence:0>40}"),
        };
        let state = EventState {
            position: Some(position),
            ..at(clock)
        };
        self.say(Message::State(state)).await;
    }

    async fn caught_up(&mut self, server: &Server) {
        soon(self.followed.recv()).await.unwrap();
        self.say(Message::CaughtUp(CaughtUp {})).await;
        until(|| async { server.running.events.following() }).await;
    }
}

/// How long leases last here.
const LASTS: Duration = Duration::from_secs(2);

#[tokio::test]
async fn without_a_feed_the_watched_row_is_polled_until_it_is_deleted() {
    let standin = Standin::with_items(&["a1", "b1"]).await;
    let server = Server::personalize(&standin).await;
    server.put(at("1'")).await;
    let mut alone = open(&server, watch("1", "", "")).await;
    let mut personal = open(&server, watch("1", "fan", "")).await;
    let first = next(&mut alone).await;
    assert_eq!(clock(&first), "1'");
    assert!(first.component_set.is_none());
    let set = next(&mut personal).await.component_set.unwrap();
    assert_eq!(set.components.len(), 2);

    // A change of display attributes alone is a change too, and comes with the set.
    write_elsewhere(&server, "2'").await;
    assert_eq!(clock(&next(&mut alone).await), "2'");
    let changed = next(&mut personal).await;
    assert_eq!(clock(&changed), "2'");
    assert_eq!(changed.component_set.unwrap().set_id, set.set_id);

    let event_id = EventId::new("1").unwrap();
    server.tables.store.delete_event(&event_id).await.unwrap();
    for stream in [&mut alone, &mut personal] {
        assert!(
            soon(stream.message()).await.unwrap().is_none(),
            "ends with OK"
        );
    }
    until(|| async { server.running.events.watched() == 0 }).await;
    server.stop().await;
}

#[tokio::test]
async fn a_set_that_still_stands_is_not_sent_again_and_the_next_change_is() {
    let standin = Standin::with_items(&["a1"]).await;
    let server = Server::personalize(&standin).await;
    server.put(at("1'")).await;
    let set = next(&mut open(&server, watch("1", "fan", "")).await)
        .await
        .component_set
        .unwrap();
    let mut stands = open(&server, watch("1", "fan", &set.set_id)).await;
    let mut outdated = open(&server, watch("1", "fan", "0123456789abcdef")).await;
    assert_eq!(clock(&next(&mut outdated).await), "1'");
    server.put(at("2'")).await;
    assert_eq!(
        clock(&next(&mut stands).await),
        "2'",
        "the first message is the change"
    );
    server.stop().await;
}

#[tokio::test]
async fn every_bad_field_is_named_and_an_event_without_a_row_is_not_found() {
    let server = Server::embedded().await;
    let long = "x".repeat(257);
    for (request, fields) in [
        (watch("", "", ""), vec!["event_id"]),
        (watch(&long, &long, ""), vec!["event_id", "consumer_id"]),
        (watch("1", "fan", "nonsense"), vec!["set_id"]),
        (watch("1", "", "0123456789abcdef"), vec!["consumer_id"]),
    ] {
        let refused = server.components().watch_event(request).await;
        assert_eq!(refused_fields(&refused.map(|_| ()).unwrap_err()), fields);
    }
    let missing = server.components().watch_event(watch("1", "", "")).await;
    let status = missing.map(|_| ()).unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    until(|| async { server.running.events.watched() == 0 }).await;
    server.stop().await;
}

#[tokio::test]
async fn shutdown_ends_watchers_with_a_word_on_when_to_come_back() {
    let server = Server::embedded().await;
    server.put(at("1'")).await;
    let mut stream = open(&server, watch("1", "", "")).await;
    next(&mut stream).await;
    server.shutdown.cancel();
    let status = soon(stream.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status), "DRAINING");
    assert!(says_when_to_retry(&status));
    server.stop().await;
}

#[tokio::test]
async fn a_stream_of_its_greatest_age_ends_and_the_next_one_is_on_a_new_connection() {
    let server = Server::with(ServerArgs {
        max_connection_age: Duration::from_secs(1),
        ..ServerArgs::default()
    })
    .await;
    server.put(at("1'")).await;
    let mut stream = open(&server, watch("1", "", "")).await;
    next(&mut stream).await;
    let status = soon(stream.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status), "CONNECTION_AGE");
    assert!(says_when_to_retry(&status));
    let mut again = open(&server, watch("1", "", "")).await;
    next(&mut again).await;
    server.stop().await;
}

#[tokio::test]
async fn a_callers_deadline_ends_its_stream_and_the_servers_default_does_not() {
    let server = Server::with(ServerArgs {
        default_deadline: std::time::Duration::from_millis(100),
        ..ServerArgs::default()
    })
    .await;
    server.put(at("1'")).await;
    let mut patient = open(&server, watch("1", "", "")).await;
    next(&mut patient).await;
    let mut request = Request::new(watch("1", "", ""));
    request
        .metadata_mut()
        .insert("grpc-timeout", "300m".parse().unwrap());
    let mut hasty = server
        .components()
        .watch_event(request)
        .await
        .unwrap()
        .into_inner();
    next(&mut hasty).await;
    let status = soon(hasty.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    // By now the server's default is over three times.
    server.put(at("2'")).await;
    assert_eq!(clock(&next(&mut patient).await), "2'");
    server.stop().await;
}

#[tokio::test]
async fn watchers_have_a_limit_and_leaving_makes_room() {
    let server = Server::with(ServerArgs {
        max_watches: 1,
        ..ServerArgs::default()
    })
    .await;
    server.put(at("1'")).await;
    let mut stream = open(&server, watch("1", "", "")).await;
    next(&mut stream).await;
    let refused = server.components().watch_event(watch("1", "", "")).await;
    let status = refused.map(|_| ()).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(says_when_to_retry(&status));
    drop(stream);
    until(|| async {
        server
            .components()
            .watch_event(watch("1", "", ""))
            .await
            .is_ok()
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn a_recommender_that_fails_for_a_moment_does_not_end_a_stream() {
    let failing = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let standin = {
        let failing = failing.clone();
        Standin::start(
            move |_| match failing.load(std::sync::atomic::Ordering::SeqCst) {
                true => Answer::Error(400, "ThrottlingException"),
                false => Answer::Items(&["a1"]),
            },
        )
        .await
    };
    let server = Server::with(ServerArgs {
        ranking_ttl: std::time::Duration::ZERO,
        ..asking(&standin)
    })
    .await;
    server.put(at("1'")).await;
    let mut stream = open(&server, watch("1", "fan", "")).await;
    next(&mut stream).await;
    failing.store(true, std::sync::atomic::Ordering::SeqCst);
    let questions = standin.questions();
    server
        .put(event(
            "1",
            &[("match_event", "INJURY"), ("display_clock", "2'")],
        ))
        .await;
    until(|| async { standin.questions() > questions }).await;
    failing.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(clock(&next(&mut stream).await), "2'");
    server.stop().await;
}

#[tokio::test]
async fn with_a_feed_states_come_from_it_with_their_position() {
    let server = Server::embedded().await;
    write_elsewhere(&server, "1'").await;
    let mut feed = Feed::lead(&server, "one", None).await;
    feed.state("1'", 1).await;
    feed.caught_up(&server).await;
    let mut stream = open(&server, watch("1", "fan", "")).await;
    let first = next(&mut stream).await;
    let position = first.component_set.unwrap().position.unwrap();
    assert_eq!(position.sequence, format!("{:0>40}", 1));
    feed.state("2'", 2).await;
    assert_eq!(clock(&next(&mut stream).await), "2'");
    // What is older than what is known is ignored.
    feed.state("1'", 1).await;
    feed.state("3'", 3).await;
    assert_eq!(clock(&next(&mut stream).await), "3'");
    let ended = EventEnded {
        event_id: "1".to_owned(),
        position: None,
    };
    feed.say(Message::Ended(ended)).await;
    assert!(soon(stream.message()).await.unwrap().is_none());
    server.stop().await;
}

#[tokio::test]
async fn a_caller_reads_its_own_write_although_the_feed_lags() {
    let server = Server::embedded().await;
    server.put(at("1'")).await;
    let mut feed = Feed::lead(&server, "one", None).await;
    feed.state("1'", 1).await;
    feed.caught_up(&server).await;
    let get = || async {
        let request = GetEventRequest {
            event_id: "1".to_owned(),
        };
        let answer = server.events().get_event(request).await.unwrap();
        answer.into_inner().state.unwrap()
    };
    server.put(at("2'")).await;
    server.put(at("3'")).await;
    // The feed shows the first write only now: it is still not the newest.
    let mut stream = open(&server, watch("1", "", "")).await;
    next(&mut stream).await;
    feed.state("2'", 2).await;
    assert_eq!(clock(&next(&mut stream).await), "2'");
    assert_eq!(get().await.attributes["display_clock"], "3'");
    feed.state("3'", 3).await;
    assert_eq!(clock(&next(&mut stream).await), "3'");
    // Now the feed is trusted again, and knows the position.
    assert!(get().await.position.is_some());
    server.stop().await;
}

#[tokio::test]
async fn when_the_leader_moves_the_new_one_is_followed_and_what_ended_meanwhile_ends() {
    let server = Server::embedded().await;
    server.put(at("1'")).await;
    let mut old = Feed::lead(&server, "old", None).await;
    old.state("1'", 1).await;
    old.caught_up(&server).await;
    let mut stream = open(&server, watch("1", "", "")).await;
    next(&mut stream).await;

    let row = old.leader.clone();
    drop(old);
    let mut new = Feed::lead(&server, "new", Some(&row)).await;
    new.state("2'", 2).await;
    assert_eq!(clock(&next(&mut stream).await), "2'");
    new.caught_up(&server).await;

    let row = new.leader.clone();
    let event_id = EventId::new("1").unwrap();
    drop(new);
    server.tables.store.delete_event(&event_id).await.unwrap();
    let mut newest = Feed::lead(&server, "newest", Some(&row)).await;
    soon(newest.followed.recv()).await.unwrap();
    newest.say(Message::CaughtUp(CaughtUp {})).await;
    assert!(soon(stream.next()).await.is_none(), "ends with OK");
    server.stop().await;
}
