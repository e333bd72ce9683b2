//! What the page knows, and what it can do: fire an event, steer the replay, count a tap. Writes to
//! the event table as any producer does, over the server.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use touchline_client::{
    Client, Error,
    proto::{EventState, Interaction},
};

use super::{Refused, fields::Fields, figures::Figures, live::STREAMS_MAX};
use crate::{
    demo,
    match_file::Match,
    replay::{Played, Remote, SPEEDS},
};

/// Phones on the page: the demo's named consumers.
const PHONES: usize = 6;
/// What an attribute may hold, of what the desk writes.
const TEXT_CHARACTERS_MAX: usize = 120;
const ID_CHARACTERS_MAX: usize = 256;
const GOALS_MAX: u32 = 99;

/// The match as the page sees it. Every value is the newest one.
#[derive(Debug)]
pub struct Desk {
    pub(super) client: Client,
    pub(super) event_id: String,
    gateway: String,
    game: Match,
    remote: Remote,
    pub(super) state: watch::Sender<Option<Shown>>,
    pub(super) replay: watch::Sender<Replay>,
    pub(super) figures: watch::Sender<Figures>,
    fans: AtomicUsize,
    pub(super) streams: Arc<Semaphore>,
    /// Somebody here wrote the event.
    pub(super) written: Notify,
    pub(super) shutdown: CancellationToken,
}

/// The event's state.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Shown {
    version: String,
    epoch: String,
    sequence: String,
    /// When the version came about, by this machine's clock: when its write began, if it was
    /// written here, otherwise when it was heard of.
    changed_at_ms: u64,
    attributes: BTreeMap<String, String>,
}

/// Where the replay stands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Replay {
    playing: bool,
    speed: f64,
    /// The last moment that was written, from 0; `None` before one.
    moment: Option<usize>,
    /// It is paused because somebody fired an event.
    by_hand: bool,
}

impl Desk {
    pub(super) fn new(
        client: Client,
        gateway: String,
        game: Match,
        remote: Remote,
        shutdown: CancellationToken,
    ) -> Self {
        let wanted = remote.wanted();
        Self {
            client,
            event_id: game.event_id.to_string(),
            gateway,
            game,
            remote,
            state: watch::Sender::new(None),
            replay: watch::Sender::new(Replay {
                playing: wanted.playing,
                speed: wanted.speed,
                moment: None,
                by_hand: false,
            }),
            figures: watch::Sender::new(Figures::default()),
            fans: AtomicUsize::new(0),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            written: Notify::new(),
            shutdown,
        }
    }

    /// So many fans are connected.
    pub fn connected(&self, fans: usize) {
        self.fans.store(fans, Ordering::Relaxed);
    }

    pub(super) fn fans(&self) -> usize {
        self.fans.load(Ordering::Relaxed)
    }

    pub(super) fn gateway(&self) -> &str {
        &self.gateway
    }

    /// The replay wrote something.
    pub fn played(&self, played: &Played) {
        if let Played::Moment {
            index,
            state,
            began,
            ..
        } = played
        {
            self.replay
                .send_modify(|replay| replay.moment = Some(*index));
            self.wrote(&state.version, *began);
        }
    }

    /// The event has this state, heard of at `now`.
    pub(super) fn show(&self, state: EventState, now: SystemTime) {
        let position = state.position.unwrap_or_default();
        self.state.send_modify(|shown| {
            let same = shown
                .as_ref()
                .filter(|shown| shown.version == state.version);
            *shown = Some(Shown {
                changed_at_ms: same.map_or(milliseconds(now), |same| same.changed_at_ms),
                version: state.version,
                epoch: position.epoch,
                sequence: position.sequence,
                attributes: state.attributes,
            });
        });
    }

    pub(super) fn show_nothing(&self) {
        self.state.send_if_modified(|shown| shown.take().is_some());
    }

    /// A write that began at `began` gave this version: it may be heard of already, and then came
    /// about a little earlier than it was heard of.
    fn wrote(&self, version: &str, began: SystemTime) {
        const HEARD_AFTER_MS_MAX: u64 = 5_000;
        let began_ms = milliseconds(began);
        self.written.notify_one();
        self.state.send_if_modified(|shown| match shown {
            Some(shown) if shown.version == version => {
                let after = shown.changed_at_ms.saturating_sub(began_ms);
                let is_this = (1..HEARD_AFTER_MS_MAX).contains(&after);
                if is_this {
                    shown.changed_at_ms = began_ms;
                }
                is_this
            }
            _ => false,
        });
    }

    /// What stays the same while the page is open.
    pub(super) fn page(&self) -> Value {
        let fans: Vec<_> = demo::consumers()
            .into_iter()
            .take(PHONES)
            .map(|fan| json!({ "consumer_id": fan.consumer_id, "name": fan.name, "taste": fan.taste }))
            .collect();
        let moments: Vec<_> = self
            .game
            .moments
            .iter()
            .map(|moment| {
                json!({
                    "minute": moment.minute.to_string(),
                    "elapsed_minutes": moment.elapsed_minutes,
                    "match_event": moment.match_event,
                    "match_timing": moment.match_timing,
                    "score": moment.score,
                    "text": moment.text,
                })
            })
            .collect();
        json!({
            "gateway": self.gateway,
            "event_id": self.event_id,
            "content_id": demo::CONTENT_ID,
            "fans": fans,
            "match": {
                "title": self.game.title,
                "home": self.game.home,
                "away": self.game.away,
                "moments": moments,
            },
            "speeds": { "min": SPEEDS.start(), "max": SPEEDS.end() },
        })
    }

    /// The attributes of the event as it is now; before it is there, those of its match's beginning.
    async fn attributes(&self) -> Result<BTreeMap<String, String>, Refused> {
        match self.client.get_event(&self.event_id).await {
            Ok(state) => Ok(state.attributes),
            Err(Error::NotFound(_)) => Ok(self
                .game
                .moments
                .first()
                .map(|moment| self.game.attributes(moment))
                .unwrap_or_default()),
            Err(error) => Err(refused(&error)),
        }
    }
}

/// An event, fired by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fired {
    match_event: String,
    match_timing: Option<String>,
    scorer: Option<Side>,
    score: Option<[u32; 2]>,
    text: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Home,
    Away,
}

impl Fired {
    fn read(body: &[u8]) -> Result<Self, Refused> {
        let mut fields = Fields::read(body)?;
        let match_event = fields.required_text("match_event", TEXT_CHARACTERS_MAX)?;
        let match_timing = fields.text("match_timing", TEXT_CHARACTERS_MAX)?;
        let scorer = match fields.text("scorer", TEXT_CHARACTERS_MAX)?.as_deref() {
            None => None,
            Some("home") => Some(Side::Home),
            Some("away") => Some(Side::Away),
            Some(_) => return Err(Refused::field("scorer", "must be home or away")),
        };
        let home = fields.whole("home_goals", GOALS_MAX)?;
        let away = fields.whole("away_goals", GOALS_MAX)?;
        let score = match (home, away) {
            (Some(home), Some(away)) => Some([home, away]),
            (None, None) => None,
            (Some(_), None) => return Err(Refused::field("away_goals", "goes with home_goals")),
            (None, Some(_)) => return Err(Refused::field("home_goals", "goes with away_goals")),
        };
        let text = fields.text("text", TEXT_CHARACTERS_MAX)?;
        fields.finish()?;
        Ok(Self {
            match_event,
            match_timing: match_timing.filter(|timing| !timing.is_empty()),
            scorer,
            score,
            text,
        })
    }

    /// The event's attributes after it.
    fn apply(self, mut attributes: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut set = |name: &str, value: String| attributes.insert(name.to_owned(), value);
        set("display_text", self.text.unwrap_or_default());
        set("match_event", self.match_event);
        if let Some(timing) = self.match_timing {
            set("match_timing", timing);
        }
        let mut score = self
            .score
            .or_else(|| attributes.get("display_score").and_then(|text| score(text)));
        if let Some(side) = self.scorer {
            let [home, away] = score.get_or_insert_default();
            let goals = match side {
                Side::Home => home,
                Side::Away => away,
            };
            *goals = GOALS_MAX.min(*goals + 1);
        }
        if let Some([home, away]) = score {
            attributes.insert("display_score".to_owned(), format!("{home}–{away}"));
            attributes.insert(
                "score_difference".to_owned(),
                home.abs_diff(away).to_string(),
            );
        }
        attributes
    }
}

/// `2–1`, as it is displayed.
fn score(text: &str) -> Option<[u32; 2]> {
    let (home, away) = text.split_once('–')?;
    Some([home.parse().ok()?, away.parse().ok()?])
}

/// Writes an event and pauses the replay, which would write over it.
pub(super) async fn fire(
    State(desk): State<Arc<Desk>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Refused> {
    let fired = Fired::read(&received(body)?)?;
    let pen = desk.remote.take_over().await;
    desk.replay.send_modify(|replay| {
        replay.by_hand |= replay.playing;
        replay.playing = false;
    });
    let event = EventState {
        event_id: desk.event_id.clone(),
        attributes: fired.apply(desk.attributes().await?),
        content_ids: desk.game.content_ids.clone(),
        ..Default::default()
    };
    let began = SystemTime::now();
    let state = desk
        .client
        .put_event(event, false)
        .await
        .map_err(|error| refused(&error))?;
    drop(pen);
    desk.wrote(&state.version, began);
    Ok(StatusCode::NO_CONTENT)
}

/// Steers the replay: whether it goes on, how fast, and from where.
pub(super) async fn replay(
    State(desk): State<Arc<Desk>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Refused> {
    let mut fields = Fields::read(&received(body)?)?;
    let playing = fields.flag("playing")?;
    let speed = fields.number("speed", SPEEDS)?;
    let last = u32::try_from(desk.game.moments.len() - 1).unwrap_or(u32::MAX);
    let jump = fields.whole("moment", last)?.map(|moment| moment as usize);
    fields.finish()?;

    let before = *desk.replay.borrow();
    // After an event that was fired by hand the match goes on from where it was left.
    let back = before
        .moment
        .filter(|_| playing == Some(true) && before.by_hand);
    let jump = jump.or(back);
    desk.remote.want(|wanted| {
        wanted.playing = playing.unwrap_or(wanted.playing);
        wanted.speed = speed.unwrap_or(wanted.speed);
        if let Some(moment) = jump {
            wanted.jump(moment);
        }
    });
    let wanted = desk.remote.wanted();
    desk.replay.send_modify(|replay| {
        *replay = Replay {
            playing: wanted.playing,
            speed: wanted.speed,
            moment: jump.or(replay.moment),
            by_hand: replay.by_hand && !wanted.playing && jump.is_none(),
        };
    });
    Ok(StatusCode::NO_CONTENT)
}

/// Records a tap as an interaction, in the context of the match as it is.
pub(super) async fn tap(
    State(desk): State<Arc<Desk>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Refused> {
    let mut fields = Fields::read(&received(body)?)?;
    let interaction = Interaction {
        consumer_id: fields.required_text("consumer_id", ID_CHARACTERS_MAX)?,
        item_id: fields.required_text("item_id", ID_CHARACTERS_MAX)?,
        recommendation_id: fields
            .text("recommendation_id", ID_CHARACTERS_MAX)?
            .unwrap_or_default(),
        event_type: "tap".to_owned(),
        event_id: desk.event_id.clone(),
        ..Default::default()
    };
    fields.finish()?;
    desk.client
        .record_interactions(vec![interaction])
        .await
        .map_err(|error| refused(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

fn received(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Refused> {
    body.map_err(|rejection| Refused::new(rejection.status(), "the body is too long or incomplete"))
}

fn refused(error: &Error) -> Refused {
    match error {
        Error::Invalid { violations, .. } => match violations.first() {
            // The server's name of it begins with where the page put it.
            Some(violation) => Refused::field(
                violation.field.rsplit('.').next().unwrap_or_default(),
                &violation.description,
            ),
            None => Refused::new(StatusCode::BAD_REQUEST, error.to_string()),
        },
        Error::Throttled { .. } | Error::Unavailable { .. } | Error::TimedOut(_) => {
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
        _ => Refused::new(StatusCode::BAD_GATEWAY, error.to_string()),
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
