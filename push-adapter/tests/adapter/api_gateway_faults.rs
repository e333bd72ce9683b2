//! `@connections` that answers in every way that API Gateway can, over the real SDK: what each answer
//! leads to, and what one fan's trouble costs the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use touchline_push::{
    connections::{
        Connections, Frame, Limits, PostError,
        api_gateway::{ApiGateway, ApiGatewayOptions},
    },
    leader::lease::Tenure,
};
use touchline_store::ids::ConnectionId;

use crate::support::{DEADLINE, loopback};

/// These measure, so they run one after another.
static MEASURING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// One post's time.
const TIMEOUT: Duration = Duration::from_millis(300);

/// Answers by what the connection's id begins with; what asks more often than the account may is
/// answered 429.
struct Endpoint {
    url: String,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

struct Shared {
    /// Requests by method and connection.
    asked: Mutex<HashMap<(String, String), u32>>,
    account: Mutex<Account>,
}

struct Account {
    per_second: f64,
    tokens: f64,
    filled_at: Instant,
    taken_at: Vec<Instant>,
}

impl Account {
    /// As API Gateway's own token bucket, with a burst of a twentieth of a second.
    fn takes(&mut self) -> bool {
        let (now, burst) = (Instant::now(), self.per_second / 20.0);
        let filled = now.duration_since(self.filled_at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + filled).min(burst);
        self.filled_at = now;
        let takes = self.tokens >= 1.0;
        if takes {
            self.tokens -= 1.0;
            self.taken_at.push(now);
        }
        takes
    }
}

impl Endpoint {
    async fn start(per_second: f64) -> Self {
        let shared = Arc::new(Shared {
            asked: Mutex::default(),
            account: Mutex::new(Account {
                per_second,
                tokens: 0.0,
                filled_at: Instant::now(),
                taken_at: Vec::new(),
            }),
        });
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let url = format!("http://{}/dev", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        let accepting = shared.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(accepting.clone(), stream));
            }
        });
        Self {
            url,
            shared,
            _serving: serving,
        }
    }

    fn front(&self, posts_per_second: u32) -> ApiGateway {
        ApiGateway::new(ApiGatewayOptions {
            endpoint: Some(self.url.clone()),
            timeout: TIMEOUT,
            posts_at_once: 64,
            posts_per_second,
        })
    }

    fn asked(&self, method: &str, connection: &str) -> u32 {
        let asked = self.shared.asked.lock().unwrap();
        let key = (method.to_owned(), connection.to_owned());
        asked.get(&key).copied().unwrap_or(0)
    }
}

async fn serve(shared: Arc<Shared>, mut stream: TcpStream) {
    let mut buffer = Vec::new();
    loop {
        let Some((method, connection)) = request(&mut stream, &mut buffer).await else {
            return;
        };
        let count = {
            let mut asked = shared.asked.lock().unwrap();
            let count = asked
                .entry((method.clone(), connection.clone()))
                .or_default();
            *count += 1;
            *count
        };
        let kind = connection.split('-').next().unwrap_or_default();
        let (status, error) = match (kind, method.as_str()) {
            ("hang", _) => std::future::pending().await,
            ("reset", _) => {
                stream.set_zero_linger().unwrap();
                return;
            }
            ("403", _) => (403, "ForbiddenException"),
            ("410", _) => (410, "GoneException"),
            ("opening", "POST") if count == 1 => (410, "GoneException"),
            ("wrong", "POST") => (410, "GoneException"),
            ("413", _) => (413, "PayloadTooLargeException"),
            ("429", _) => (429, "LimitExceededException"),
            ("500", _) => (500, "InternalServerError"),
            _ if method == "POST" && !shared.account.lock().unwrap().takes() => {
                (429, "LimitExceededException")
            }
            _ => (200, ""),
        };
        let answer = format!(
            "HTTP/1.1 {status} x\r\nx-amzn-errortype: {error}\r\ncontent-type: application/json\r\n\
             content-length: 2\r\n\r\n{{}}"
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The method and the connection of the next request.
async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, String)> {
    let head = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break String::from_utf8(buffer.drain(..end + 4).collect()).ok()?;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    let length: usize = length.unwrap_or(0);
    while buffer.len() < length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    buffer.drain(..length);
    let mut words = head.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    Some((method.to_owned(), path.rsplit('/').next()?.to_owned()))
}

fn limits(time: Duration) -> Limits {
    let tenure = Tenure::ended();
    tenure.extend(Instant::now() + DEADLINE);
    Limits {
        deadline: Instant::now() + time,
        superseded: CancellationToken::new(),
        tenure,
    }
}

async fn post(front: &ApiGateway, connection: &str, limits: &Limits) -> Result<(), PostError> {
    let id = ConnectionId::new(connection).unwrap();
    front.post(&id, None, Frame::reply("GOAL"), limits).await
}

#[tokio::test]
async fn every_answer_leads_to_what_can_be_done_about_it() {
    let endpoint = Endpoint::start(1e9).await;
    let front = endpoint.front(10_000);
    let limits = limits(Duration::from_secs(2));
    let (posts, looks) = (
        |id: &str| endpoint.asked("POST", id),
        |id: &str| endpoint.asked("GET", id),
    );
    assert_eq!(post(&front, "200-", &limits).await, Ok(()));
    assert_eq!((posts("200-"), looks("200-")), (1, 0));
    for refused in ["403-", "413-"] {
        let error = post(&front, refused, &limits).await.unwrap_err();
        assert!(matches!(error, PostError::Refused(_)), "{error:?}");
        assert_eq!((posts(refused), looks(refused)), (1, 0), "{refused}");
    }
    // Gone is believed after one look.
    assert_eq!(post(&front, "410-", &limits).await, Err(PostError::Gone));
    assert_eq!((posts("410-"), looks("410-")), (1, 1));
    assert_eq!(post(&front, "opening-", &limits).await, Ok(()));
    assert_eq!((posts("opening-"), looks("opening-")), (2, 1));
    assert_eq!(post(&front, "wrong-", &limits).await, Err(PostError::Gone));
    assert_eq!((posts("wrong-"), looks("wrong-")), (2, 1));
    // These end at the deadline, or after three attempts where nobody may be there any more.
    assert_eq!(
        post(&front, "429-", &limits).await,
        Err(PostError::Throttled)
    );
    assert!((3..20).contains(&posts("429-")), "{}", posts("429-"));
    let limits = self::limits(Duration::from_secs(10));
    for unreachable in ["500-", "hang-", "reset-"] {
        let error = post(&front, unreachable, &limits).await.unwrap_err();
        assert!(
            matches!(error, PostError::Unavailable(_)),
            "{unreachable}: {error:?}"
        );
        assert!(
            posts(unreachable) >= 3,
            "{unreachable}: {}",
            posts(unreachable)
        );
        assert_eq!(looks(unreachable), 0);
    }
}

/// How long the slowest of the good posts took, with these beside them.
async fn slowest(endpoint: &Endpoint, troubled: &[&str]) -> Duration {
    const GOOD: usize = 600;
    let front = endpoint.front(10_000);
    let limits = limits(Duration::from_secs(5));
    let good = (0..GOOD).map(|number| format!("200-{number}"));
    let troubled: Vec<_> = (0..20)
        .flat_map(|number| troubled.iter().map(move |kind| format!("{kind}-{number}")))
        .collect();
    // The troubled ones first and amid the others, as an audience comes.
    let mut all: Vec<String> = troubled;
    for (place, good) in good.enumerate() {
        all.insert((place * 2).min(all.len()), good);
    }
    let began = Instant::now();
    let slowest = stream::iter(all)
        .map(|id| {
            let (front, limits) = (&front, &limits);
            async move {
                let posted = post(front, &id, limits).await;
                if id.starts_with("200") {
                    posted.unwrap();
                    return began.elapsed();
                }
                posted.unwrap_err();
                Duration::ZERO
            }
        })
        // As the fan-out does: the lanes are the front's.
        .buffer_unordered(1_000)
        .fold(
            Duration::ZERO,
            |slowest, took| async move { slowest.max(took) },
        );
    slowest.await
}

#[tokio::test]
async fn nobody_waits_for_a_fan_in_trouble_longer_than_one_post_may_take() {
    let _alone = MEASURING.lock().await;
    let endpoint = Endpoint::start(1e9).await;
    let alone = slowest(&endpoint, &[]).await;
    let kinds = ["403", "410", "413", "429", "500", "hang", "reset"];
    let beside = slowest(&endpoint, &kinds).await;
    println!(
        "figure: the last of 600 fans is served after {alone:?} alone, {beside:?} beside 140 in trouble"
    );
    // Twenty that hang hold a third of the lane once, for one time-out; a busy machine adds to it.
    assert!(
        beside < alone * 3 + TIMEOUT * 2,
        "{beside:?}, {alone:?} alone"
    );
}

#[tokio::test]
async fn at_a_limited_account_nine_tenths_of_the_limit_come_through() {
    let _alone = MEASURING.lock().await;
    const PER_SECOND: f64 = 100.0;
    let endpoint = Endpoint::start(PER_SECOND).await;
    let front = endpoint.front(10_000);
    let began = Instant::now();
    let (warm, end) = (Duration::from_secs(2), Duration::from_secs(7));
    let limits = limits(end);
    stream::iter(0..20_000)
        .take_while(|_| std::future::ready(began.elapsed() < end))
        .map(|number| {
            let (front, limits) = (&front, &limits);
            async move { post(front, &format!("200-{number}"), limits).await }
        })
        .buffer_unordered(256)
        .for_each(|_| std::future::ready(()))
        .await;
    let taken_at = endpoint.shared.account.lock().unwrap().taken_at.clone();
    let counted = taken_at.iter().filter(|at| {
        let since = at.duration_since(began);
        since >= warm && since < end
    });
    let goodput = counted.count() as f64 / ((end - warm).as_secs_f64() * PER_SECOND);
    println!("figure: goodput is {goodput:.2} of a limit of {PER_SECOND} posts a second");
    assert!(goodput >= 0.9, "{goodput}");
}

#[tokio::test]
async fn two_slow_connections_slow_nobody_down() {
    let _alone = MEASURING.lock().await;
    let endpoint = Endpoint::start(1e9).await;
    let front = endpoint.front(1_000);
    let limits = limits(Duration::from_secs(3));
    let slow = async {
        let both = ["429-1", "429-2"].map(|id| post(&front, id, &limits));
        futures::future::join_all(both).await
    };
    let others = async || {
        let began = Instant::now();
        stream::iter(0..200)
            .map(|number| {
                let (front, limits) = (&front, &limits);
                async move { post(front, &format!("200-{number}"), limits).await.unwrap() }
            })
            .buffer_unordered(64)
            .for_each(|()| std::future::ready(()))
            .await;
        began.elapsed()
    };
    let alone = others().await;
    let (slow, beside) = tokio::join!(slow, others());
    assert!(
        slow.iter()
            .all(|posted| *posted == Err(PostError::Throttled)),
        "{slow:?}"
    );
    println!("figure: 200 fans are served in {alone:?} alone, {beside:?} beside two slow ones");
    assert!(beside < alone * 2 + TIMEOUT, "{beside:?}, {alone:?} alone");
}

#[tokio::test]
async fn attempts_after_the_first_leave_the_way_to_others_free() {
    let _alone = MEASURING.lock().await;
    let endpoint = Endpoint::start(1e9).await;
    let timeout = Duration::from_secs(2);
    let front = ApiGateway::new(ApiGatewayOptions {
        endpoint: Some(endpoint.url.clone()),
        timeout,
        posts_at_once: 64,
        posts_per_second: 10_000,
    });
    let limits = limits(DEADLINE);
    let hanging = (0..64).map(|number| format!("hang-{number}"));
    let hanging = hanging.map(|id| {
        let (front, limits) = (&front, &limits);
        async move { post(front, &id, limits).await }
    });
    let hanging = futures::future::join_all(hanging);
    let good = async {
        // As many as there are places hang, and by now have tried again.
        tokio::time::sleep(timeout + Duration::from_millis(300)).await;
        let began = Instant::now();
        post(&front, "200-", &limits).await.unwrap();
        began.elapsed()
    };
    let took = tokio::select! {
        _ = hanging => unreachable!("they hang for longer"),
        took = good => took,
    };
    println!("figure: a fan beside 64 that hang and are tried again is served in {took:?}");
    assert!(took < timeout / 2, "{took:?}");
}
