//! `@connections` that answers in every way that API Gateway can, over the real SDK: what each answer
//! leads to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

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

/// One post's time.
const TIMEOUT: Duration = Duration::from_millis(300);

/// Answers by what the connection's id begins with.
struct Endpoint {
    url: String,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

struct Shared {
    /// Requests by method and connection.
    asked: Mutex<HashMap<(String, String), u32>>,
}

impl Endpoint {
    async fn start() -> Self {
        let shared = Arc::new(Shared {
            asked: Mutex::default(),
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

    fn front(&self, posts_per_second: f64) -> ApiGateway {
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
            ("wrong" | "unsure", "POST") => (410, "GoneException"),
            ("unsure", _) => (500, "InternalServerError"),
            ("413", _) => (413, "PayloadTooLargeException"),
            ("429", _) => (429, "LimitExceededException"),
            ("500", _) => (500, "InternalServerError"),
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
    let endpoint = Endpoint::start().await;
    let front = endpoint.front(10_000.0);
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
    // Nothing is removed on a word that could not be confirmed.
    let unsure = post(&front, "unsure-", &limits).await;
    assert!(
        matches!(unsure, Err(PostError::Unavailable(_))),
        "{unsure:?}"
    );
    assert_eq!((posts("unsure-"), looks("unsure-")), (1, 1));
    // Who does not read is left for the next walk after a second attempt.
    let error = post(&front, "429-", &limits).await;
    assert_eq!((error, posts("429-")), (Err(PostError::Throttled), 2));
    let error = post(&front, "hang-", &limits).await;
    assert!(matches!(error, Err(PostError::Unavailable(_))), "{error:?}");
    assert_eq!(posts("hang-"), 2);
    // Nobody may be there any more.
    for unreachable in ["500-", "reset-"] {
        let error = post(&front, unreachable, &limits).await.unwrap_err();
        assert!(matches!(error, PostError::Unavailable(_)), "{error:?}");
        assert!(
            posts(unreachable) >= 3,
            "{unreachable}: {}",
            posts(unreachable)
        );
        assert_eq!(looks(unreachable), 0);
    }
}
