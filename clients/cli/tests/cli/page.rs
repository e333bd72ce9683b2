//! The page's server: what it tells, what it does, whom it refuses. The page itself is looked at in
//! a browser by tests/real/page.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::support::{DEADLINE, Local};

/// An answer: its status, its head in lower case, its body.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The field that a refusal names.
    fn field(&self) -> String {
        assert_eq!(self.status, 400, "{self:?}");
        self.json()["error"]["field"].as_str().unwrap().to_owned()
    }
}

/// The page of a local stack.
struct Page {
    host: String,
}

/// What a page at this address answers, which has to be JSON.
pub(crate) async fn get(host: &str, path: &str) -> Value {
    let host = host.to_owned();
    let answer = Page { host }.get(path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

impl Page {
    fn of(local: &Local) -> Self {
        let host = local.page.strip_prefix("http://").unwrap().to_owned();
        Self { host }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &self.host, "", "").await
    }

    /// Posts as the page does.
    async fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = format!(
            "origin: http://{}\r\ncontent-type: application/json\r\n",
            self.host
        );
        self.ask(
            &format!("POST {path}"),
            &self.host,
            &headers,
            &body.to_string(),
        )
        .await
    }

    async fn ask(&self, what: &str, host: &str, headers: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.host).await.unwrap();
        let request = format!(
            "{what} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        let read = timeout(DEADLINE, stream.read_to_string(&mut text));
        read.await.expect("an answer comes in time").unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Answer {
            status: head[9..12].parse().unwrap(),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    /// What is told as it happens.
    async fn live(&self) -> Live {
        let mut stream = TcpStream::connect(&self.host).await.unwrap();
        let request = format!("GET /api/live HTTP/1.1\r\nhost: {}\r\n\r\n", self.host);
        stream.write_all(request.as_bytes()).await.unwrap();
        Live {
            lines: BufReader::new(stream).lines(),
        }
    }
}

struct Live {
    lines: tokio::io::Lines<BufReader<TcpStream>>,
}

impl Live {
    /// The next line, or `None` when the stream has ended.
    async fn line(&mut self) -> Option<String> {
        let line = timeout(DEADLINE, self.lines.next_line()).await;
        line.expect("a line comes in time").unwrap()
    }

    /// The next event of this name that `wanted` accepts.
    async fn until(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = timeout(DEADLINE, self.find(name, wanted));
        found
            .await
            .unwrap_or_else(|_| panic!("no such {name} comes in time"))
    }

    async fn find(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut is_named = false;
        loop {
            let line = self.line().await.expect("the stream has not ended");
            if let Some(event) = line.strip_prefix("event: ") {
                is_named = event == name;
            }
            let data = line.strip_prefix("data: ").filter(|_| is_named);
            if let Some(value) = data.map(|data| serde_json::from_str(data).unwrap())
                && wanted(&value)
            {
                return value;
            }
        }
    }

    async fn state(&mut self, name: &str, value: &str) -> Value {
        self.until("state", |state| state["attributes"][name] == value)
            .await
    }
}

#[tokio::test]
async fn an_event_fired_by_hand_pauses_the_match_and_stays() {
    let local = Local::start(None, &["--speed", "600"]).await;
    let page = Page::of(&local);
    let mut live = page.live().await;
    live.until("replay", |replay| replay["moment"].is_number())
        .await;
    let fired = json!({"match_event": "INJURY", "text": "by hand"});
    assert_eq!(page.post("/api/fire", &fired).await.status, 204);
    let paused = live
        .until("replay", |replay| replay["playing"] == false)
        .await;
    assert_eq!(paused["by_hand"], true);
    let state = live.state("match_event", "INJURY").await;
    assert_eq!(state["attributes"]["display_text"], "by hand");
    assert!(state["changed_at_ms"].as_u64().unwrap() > 0);

    // What the replay was about to write must not come after it.
    let now = local.ask(&["event", "get", "1", "--json"]).await.json();
    assert_eq!(now["attributes"]["match_event"], "INJURY");
    // Going on, the match is taken up where it was left.
    assert_eq!(
        page.post("/api/replay", &json!({"playing": true}))
            .await
            .status,
        204
    );
    live.until("state", |state| {
        state["attributes"]["match_event"] != "INJURY"
    })
    .await;
}

#[tokio::test]
async fn the_match_is_moved_to_any_moment_also_while_it_is_paused() {
    let local = Local::start(None, &["--no-replay"]).await;
    let page = Page::of(&local);
    let moments = page.get("/api/page").await.json()["match"]["moments"].clone();
    let mut live = page.live().await;
    for moment in [18, 3] {
        assert_eq!(
            page.post("/api/replay", &json!({"moment": moment}))
                .await
                .status,
            204
        );
        let text = moments[moment]["text"].as_str().unwrap();
        let state = live.state("display_text", text).await;
        assert_eq!(
            state["attributes"]["match_timing"],
            moments[moment]["match_timing"]
        );
    }
    let mut live = page.live().await;
    let replay = live.until("replay", |replay| replay["moment"] == 3).await;
    assert_eq!(replay["playing"], false);
    // From there it plays on, as fast as asked.
    let on = json!({"playing": true, "speed": 600});
    assert_eq!(page.post("/api/replay", &on).await.status, 204);
    live.state("display_text", moments[4]["text"].as_str().unwrap())
        .await;
}

#[tokio::test]
async fn a_goal_fired_for_a_side_raises_its_score() {
    let local = Local::start(None, &["--no-replay"]).await;
    let page = Page::of(&local);
    let mut live = page.live().await;
    let goal = |side| json!({"match_event": "GOAL", "scorer": side});
    for (side, score, difference) in [
        ("home", "1–0", "1"),
        ("home", "2–0", "2"),
        ("away", "2–1", "1"),
    ] {
        assert_eq!(page.post("/api/fire", &goal(side)).await.status, 204);
        let state = live.state("display_score", score).await;
        assert_eq!(state["attributes"]["score_difference"], difference);
    }
    let set = json!({"match_event": "THROW", "home_goals": 4, "away_goals": 4, "match_timing": "OVER-TIME"});
    assert_eq!(page.post("/api/fire", &set).await.status, 204);
    let state = live.state("display_score", "4–4").await;
    assert_eq!(state["attributes"]["match_timing"], "OVER-TIME");
}

#[tokio::test]
async fn figures_tell_how_many_fans_there_are_and_what_is_pushed_to_them() {
    let local = Local::start(None, &["--no-replay", "--fans", "3"]).await;
    let page = Page::of(&local);
    let mut live = page.live().await;
    live.until("figures", |figures| figures["fans"] == 3).await;
    let fired = json!({"match_event": "THROW"});
    assert_eq!(page.post("/api/fire", &fired).await.status, 204);
    let pushed = |figures: &Value| figures["pushes_per_second"].as_f64() > Some(0.0);
    let figures = live.until("figures", pushed).await;
    assert!(
        figures["change_to_last_ms"].as_f64() > Some(0.0),
        "{figures}"
    );
}

#[tokio::test]
async fn a_tap_is_recorded_and_one_that_cannot_be_is_refused_by_field() {
    let local = Local::start(None, &["--no-replay"]).await;
    let page = Page::of(&local);
    let tap =
        |item: &str| json!({"consumer_id": "diego", "item_id": item, "recommendation_id": "r"});
    // A server that has only just started may still be looking for its change feed.
    let recorded = async { while page.post("/api/tap", &tap("ITEM_ID_1")).await.status == 503 {} };
    timeout(DEADLINE, recorded)
        .await
        .expect("the server serves in time");
    assert_eq!(page.post("/api/tap", &tap("ITEM_ID_1")).await.status, 204);
    assert_eq!(
        page.post("/api/tap", &tap("no-such-item")).await.field(),
        "item_id"
    );
    assert_eq!(page.post("/api/tap", &tap("")).await.field(), "item_id");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_named() {
    let local = Local::start(None, &["--no-replay"]).await;
    let page = Page::of(&local);
    for (path, body, field) in [
        ("/api/fire", json!({}), "match_event"),
        (
            "/api/fire",
            json!({"match_event": "x".repeat(121)}),
            "match_event",
        ),
        (
            "/api/fire",
            json!({"match_event": "GOAL", "scorer": "both"}),
            "scorer",
        ),
        (
            "/api/fire",
            json!({"match_event": "GOAL", "home_goals": 1}),
            "away_goals",
        ),
        (
            "/api/fire",
            json!({"match_event": "GOAL", "goals": 1}),
            "goals",
        ),
        ("/api/replay", json!({"moment": 1_000}), "moment"),
        ("/api/replay", json!({"speed": 0}), "speed"),
        ("/api/replay", json!({"playing": "yes"}), "playing"),
        ("/api/tap", json!({"item_id": "a"}), "consumer_id"),
    ] {
        assert_eq!(page.post(path, &body).await.field(), field, "{path} {body}");
    }
    let long = json!({"match_event": "x".repeat(5_000)});
    assert_eq!(page.post("/api/fire", &long).await.status, 413);
    assert_eq!(page.get("/api/fire").await.status, 405);
    assert_eq!(page.get("/nothing.html").await.status, 404);
}

#[tokio::test]
async fn every_answer_has_the_headers_that_keep_a_page_to_itself() {
    let local = Local::start(None, &["--no-replay"]).await;
    let page = Page::of(&local);
    let gateway = local.gateway.trim_end_matches("/dev");
    for path in ["/", "/page.js", "/page.css", "/api/page", "/nothing.html"] {
        let answer = page.get(path).await;
        for header in [
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "content-security-policy: default-src 'none'",
            &format!("connect-src 'self' {gateway};"),
        ] {
            assert!(answer.head.contains(header), "{header}: {path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn other_sites_and_other_names_are_refused() {
    let local = Local::start(None, &["--no-replay"]).await;
    let page = Page::of(&local);
    let rebound = page.ask("GET /api/page", "evil.example", "", "").await;
    assert_eq!(rebound.status, 421, "{rebound:?}");
    let fired = json!({"match_event": "GOAL"}).to_string();
    for headers in [
        "content-type: application/json\r\n".to_owned(),
        "content-type: application/json\r\norigin: http://evil.example\r\n".to_owned(),
        format!(
            "content-type: text/plain\r\norigin: http://{}\r\n",
            page.host
        ),
    ] {
        let answer = page
            .ask("POST /api/fire", &page.host, &headers, &fired)
            .await;
        assert!([403, 415].contains(&answer.status), "{answer:?}");
    }
    // None of them wrote anything.
    let said = local.ask(&["event", "get", "1"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
}

#[tokio::test]
async fn open_pages_are_bounded_and_end_at_shutdown() {
    let local = Local::start(None, &["--no-replay"]).await;
    let page = Page::of(&local);
    let mut open = Vec::new();
    for _ in 0..32 {
        let mut live = page.live().await;
        live.until("figures", |_| true).await;
        open.push(live);
    }
    assert_eq!(page.get("/api/live").await.status, 503);
    assert_eq!(local.running.signal("INT").await, Some(0));
    let mut last = open.pop().unwrap();
    while last.line().await.is_some() {}
}
