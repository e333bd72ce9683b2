//! Playing a match into the event table, as a producer would: over gRPC, a row for each moment, the
//! clock in between; somebody may steer it meanwhile. Shows nothing: whoever plays it is told what
//! was written.

mod clock;
mod control;

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    time::{Duration, SystemTime},
};

use async_stream::try_stream;
use clap::Args;
use futures::Stream;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use touchline_client::{Client, Error, proto::EventState};
use touchline_runtime::backoff::Backoff;

use self::clock::Clock;
pub use self::control::{Jump, Receiver, Remote, Wanted};
use crate::match_file::{Match, Minute, Moment};

/// Real time between the end of a match and its next beginning.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a server that cannot serve is waited for, before the replay gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many times faster than the real match a replay may be.
pub const SPEEDS: RangeInclusive<f64> = 0.1..=100_000.0;

/// How a match is played.
#[derive(Debug, Clone, Copy, Args)]
pub struct Pace {
    /// How many times faster than the real match: at 60 a match minute takes a second, at the
    /// default the whole match about two minutes; 0.1 to 100,000
    #[arg(long, env = "TOUCHLINE_SPEED", default_value = "75", value_parser = speed, value_name = "TIMES")]
    pub speed: f64,
}

/// What was written.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are moments, and one is held at a time"
)]
pub enum Played {
    /// A moment of the match: the event's row was replaced.
    Moment {
        /// The moment.
        moment: Moment,
        /// Its place in the match, from 0.
        index: usize,
        /// The state after the write.
        state: EventState,
        /// When the write began.
        began: SystemTime,
    },
    /// The match is over; it starts again if it is played in a loop.
    Over,
}

/// Plays a match, once or for ever, in real time. Each moment replaces the event's row; the minutes
/// in between change its `display_clock` alone. A server that cannot serve is waited for, and a
/// moment that this makes late is played late, not left out.
pub fn play(
    client: Client,
    played: Match,
    event_id: String,
    pace: Pace,
    for_ever: bool,
) -> impl Stream<Item = Result<Played, Error>> + Send {
    let (_, nobody) = Remote::new(pace, true);
    play_steered(client, played, event_id, for_ever, nobody)
}

/// Like [`play`], with somebody's hand on it.
pub fn play_steered(
    client: Client,
    played: Match,
    event_id: String,
    for_ever: bool,
    steering: Receiver,
) -> impl Stream<Item = Result<Played, Error>> + Send {
    let Receiver { mut wanted, pen } = steering;
    try_stream! {
        let steps = steps(&played);
        // What was asked for before the first look is still to be done.
        wanted.mark_changed();
        let mut seen = Wanted { jump: None, ..*wanted.borrow() };
        let mut clock = Clock::new(Instant::now(), seen.playing, seen.speed);
        let mut next = 0;
        // A moment that was jumped to is written whether or not the match goes on.
        let mut at_once = false;
        loop {
            let step = steps[next];
            let due = match at_once {
                true => Some(Instant::now()),
                false => clock.due(step.elapsed_minutes),
            };
            tokio::select! {
                () = steered(&mut wanted) => {
                    let now = Instant::now();
                    let before = std::mem::replace(&mut seen, *wanted.borrow_and_update());
                    clock.pace(now, seen.playing, seen.speed);
                    if let Some(jump) = seen.jump.filter(|_| seen.jump != before.jump) {
                        next = place_of(&steps, jump.moment);
                        clock.set(now, steps[next].elapsed_minutes, Duration::ZERO);
                        at_once = true;
                    }
                    continue;
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            let held = pen.lock().await;
            // Whoever had the pen may have asked for something else meanwhile.
            if wanted.has_changed().unwrap_or(false) {
                continue;
            }
            at_once = false;
            next += 1;
            let began = SystemTime::now();
            let written = match step.what {
                What::Moment(index) => {
                    let moment = &played.moments[index];
                    let row = row(&event_id, &played, moment);
                    let state = patiently(|| client.put_event(row.clone(), false)).await?;
                    Some(Played::Moment { moment: moment.clone(), index, state, began })
                }
                What::Minute(minute) => {
                    // At a speed that the clock cannot follow, the clock jumps.
                    if clock.minutes(Instant::now()) <= f64::from(step.elapsed_minutes + 1) {
                        patiently(|| tick(&client, &event_id, minute)).await?;
                    }
                    None
                }
            };
            drop(held);
            if let Some(written) = written {
                yield written;
            }
            if next == steps.len() {
                yield Played::Over;
                if !for_ever {
                    return;
                }
                next = 0;
                clock.set(Instant::now(), 0, PAUSE);
            }
        }
    }
}

/// What is written next, and when.
#[derive(Debug, Clone, Copy)]
struct Step {
    elapsed_minutes: u32,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// The moment at this place.
    Moment(usize),
    /// The clock alone.
    Minute(Minute),
}

/// The moments, and each minute in between.
fn steps(played: &Match) -> Vec<Step> {
    let mut steps = Vec::new();
    for (index, moment) in played.moments.iter().enumerate() {
        steps.push(Step {
            elapsed_minutes: moment.elapsed_minutes,
            what: What::Moment(index),
        });
        let Some(next) = played.moments.get(index + 1) else {
            break;
        };
        let between = moment.elapsed_minutes + 1..next.elapsed_minutes;
        steps.extend(between.map(|elapsed_minutes| Step {
            elapsed_minutes,
            what: What::Minute(minute_between(moment, next, elapsed_minutes)),
        }));
    }
    steps
}

/// Where a moment stands among the steps; the last one's for a place beyond the end.
fn place_of(steps: &[Step], moment: usize) -> usize {
    let is_it = |step: &Step| matches!(step.what, What::Moment(index) if index >= moment);
    steps.iter().position(is_it).unwrap_or(steps.len() - 1)
}

/// Something else is wanted. Never, once nobody can want anything.
async fn steered(wanted: &mut watch::Receiver<Wanted>) {
    if wanted.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn row(event_id: &str, played: &Match, moment: &Moment) -> EventState {
    EventState {
        event_id: event_id.to_owned(),
        attributes: played.attributes(moment),
        content_ids: played.content_ids.clone(),
        ..Default::default()
    }
}

/// What the clock shows between two moments: it runs on, and where the half has its regular end it
/// counts stoppage time.
fn minute_between(from: &Moment, to: &Moment, elapsed_minutes: u32) -> Minute {
    let after = elapsed_minutes - from.elapsed_minutes;
    let (from, to) = (from.minute, to.minute);
    if from.regular == to.regular {
        let stoppage = from.stoppage + after;
        return Minute { stoppage, ..from };
    }
    let regular = from.regular.saturating_add_unsigned(after);
    Minute {
        regular: regular.min(to.regular),
        stoppage: u32::try_from(regular - to.regular).unwrap_or(0),
    }
}

/// Moves the clock of an event that is there. One that somebody deleted in the middle of the match
/// stays deleted until its next moment: a row that holds nothing but a clock is no state.
async fn tick(client: &Client, event_id: &str, minute: Minute) -> Result<(), Error> {
    match client.get_event(event_id).await {
        Err(Error::NotFound(_)) => return Ok(()),
        other => other?,
    };
    let clock = EventState {
        event_id: event_id.to_owned(),
        attributes: BTreeMap::from([("display_clock".to_owned(), format!("{minute}'"))]),
        ..Default::default()
    };
    client.put_event(clock, true).await.map(drop)
}

/// Asks until there is an answer that stands, as long as [`PATIENCE`] lasts. Writing the same state
/// twice does no harm, so a call whose outcome is not known is repeated too.
async fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let end = Instant::now() + PATIENCE;
    let mut backoff = Backoff::default();
    loop {
        match ask().await {
            Err(error) if error.is_transient() && Instant::now() < end => {
                sleep(backoff.pause().max(error.retry_after().unwrap_or_default())).await;
            }
            answer => return answer,
        }
    }
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if SPEEDS.contains(&speed) => Ok(speed),
        _ => Err("a number from 0.1 to 100,000 is accepted, such as 60".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo;

    #[test]
    fn a_speed_is_a_number_that_makes_sense() {
        assert_eq!(speed("120"), Ok(120.0));
        for bad in ["0", "-1", "NaN", "inf", "fast", "1e9"] {
            assert!(speed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn between_two_moments_the_clock_runs_as_the_broadcasts_does() {
        let played = demo::world_cup_final();
        let clocks = |index: usize| {
            let [from, to] = &played.moments[index..index + 2] else {
                panic!("there are two moments");
            };
            (from.elapsed_minutes + 1..to.elapsed_minutes)
                .map(|elapsed| minute_between(from, to, elapsed).to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(clocks(0)[..2], ["-9", "-8"]);
        // From 41 to 45+7.
        assert_eq!(
            clocks(5),
            [
                "42", "43", "44", "45", "45+1", "45+2", "45+3", "45+4", "45+5", "45+6"
            ]
        );
        // From 90+8 to 90+10.
        assert_eq!(clocks(15), ["90+9"]);
    }
}
