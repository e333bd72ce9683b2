//! Playing a match into the event table, as a producer would: over gRPC, a row for each moment, the
//! clock in between. Shows nothing: whoever plays it is told what was written.

use std::{collections::BTreeMap, time::Duration};

use async_stream::try_stream;
use clap::Args;
use futures::Stream;
use tokio::time::{Instant, sleep, sleep_until};
use touchline_client::{Client, Error, backoff::Backoff, proto::EventState};

use crate::match_file::{Match, Minute, Moment};

/// Real time between the end of a match and its next beginning.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a server that cannot serve is waited for, before the replay gives up.
const PATIENCE: Duration = Duration::from_secs(30);
const SECONDS_A_MINUTE: f64 = 60.0;

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
    try_stream! {
        loop {
            let begin = Instant::now();
            let due = |elapsed_minutes: u32| {
                let seconds = f64::from(elapsed_minutes) * SECONDS_A_MINUTE / pace.speed;
                begin + Duration::from_secs_f64(seconds)
            };
            for (index, moment) in played.moments.iter().enumerate() {
                sleep_until(due(moment.elapsed_minutes)).await;
                let row = row(&event_id, &played, moment);
                let state = patiently(|| client.put_event(row.clone(), false)).await?;
                yield Played::Moment { moment: moment.clone(), index, state };
                let Some(next) = played.moments.get(index + 1) else {
                    break;
                };
                for elapsed in moment.elapsed_minutes + 1..next.elapsed_minutes {
                    // At a speed that the clock cannot follow, the clock jumps.
                    if Instant::now() > due(elapsed + 1) {
                        continue;
                    }
                    sleep_until(due(elapsed)).await;
                    let minute = minute_between(moment, next, elapsed);
                    patiently(|| tick(&client, &event_id, minute)).await?;
                }
            }
            yield Played::Over;
            if !for_ever {
                return;
            }
            sleep(PAUSE).await;
        }
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
                sleep(backoff.wait().max(error.retry_after().unwrap_or_default())).await;
            }
            answer => return answer,
        }
    }
}

fn speed(text: &str) -> Result<f64, String> {
    const RANGE: std::ops::RangeInclusive<f64> = 0.1..=100_000.0;
    match text.parse::<f64>() {
        Ok(speed) if RANGE.contains(&speed) => Ok(speed),
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
