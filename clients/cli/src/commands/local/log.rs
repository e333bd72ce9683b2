//! The live log: a line for each moment of the match, with what became of it. Pure: it is told what
//! was written and what was pushed, and gives the lines that are due.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use touchline_push::Round;

use crate::{
    commands::replay::moment_line,
    match_file::Moment,
    output::{FAINT, LOUD, styled},
    replay::Played,
};

/// How long a line waits for its fan-out.
const WAIT: Duration = Duration::from_secs(2);
/// Lines that wait at most; one more lets the oldest go as it is.
const WAITING_MAX: usize = 32;
/// Columns of the moment, before the figures.
const MOMENT_WIDTH: usize = 84;

/// What stands above the columns.
pub(super) fn header() -> String {
    let moment = format!(
        "{:>7}  {:<5}  {:<14}  {}",
        "minute", "score", "event", "what"
    );
    format!("{moment:<MOMENT_WIDTH$}  fans  change → last fan")
}

/// A line of the log.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    /// A moment and what became of it.
    Moment(Moment, Outcome),
    /// The match is over.
    Over,
}

/// What became of a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was fanned out.
    Pushed {
        fans: usize,
        gone: usize,
        failed: usize,
        change_to_last: Duration,
    },
    /// It decides the same as the moment before it.
    Unchanged,
    /// Something newer came before its fan-out ended, or nothing was heard of one.
    Unheard,
}

/// The moments that wait for their fan-out, oldest first.
#[derive(Debug, Default)]
pub(super) struct Log {
    waiting: VecDeque<Waiting>,
    last_version: String,
}

#[derive(Debug)]
struct Waiting {
    moment: Moment,
    version: String,
    since: Instant,
}

impl Log {
    /// Something was written.
    pub(super) fn played(&mut self, played: Played, now: Instant) -> Vec<Entry> {
        let (moment, state) = match played {
            Played::Moment { moment, state, .. } => (moment, state),
            Played::Over => {
                let mut entries = self.give_up(self.waiting.len());
                entries.push(Entry::Over);
                return entries;
            }
        };
        // A state that decides the same is not pushed again.
        if state.version == self.last_version {
            let mut entries = self.give_up(self.waiting.len());
            entries.push(Entry::Moment(moment, Outcome::Unchanged));
            return entries;
        }
        self.last_version.clone_from(&state.version);
        self.waiting.push_back(Waiting {
            moment,
            version: state.version,
            since: now,
        });
        self.give_up(self.waiting.len().saturating_sub(WAITING_MAX))
    }

    /// A fan-out has finished.
    pub(super) fn round(&mut self, round: &Round) -> Vec<Entry> {
        let version = round.version.as_str();
        let found = self
            .waiting
            .iter()
            .position(|waiting| waiting.version == version);
        let Some(place) = found.filter(|_| !round.superseded) else {
            return Vec::new();
        };
        // What was written before and is still waiting was overtaken.
        let mut entries = self.give_up(place);
        entries.extend(self.waiting.pop_front().map(|waiting| {
            let outcome = Outcome::Pushed {
                fans: round.pushed,
                gone: round.gone,
                failed: round.failed,
                change_to_last: round.change_to_last,
            };
            Entry::Moment(waiting.moment, outcome)
        }));
        entries
    }

    /// When the oldest line has waited long enough.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.since + WAIT)
    }

    /// The lines that have waited long enough.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<Entry> {
        let overdue = |waiting: &&Waiting| waiting.since + WAIT <= now;
        let count = self.waiting.iter().take_while(overdue).count();
        self.give_up(count)
    }

    /// The first `count` lines, without figures.
    fn give_up(&mut self, count: usize) -> Vec<Entry> {
        self.waiting
            .drain(..count)
            .map(|waiting| Entry::Moment(waiting.moment, Outcome::Unheard))
            .collect()
    }
}

impl Entry {
    /// For people.
    pub(super) fn text(&self) -> String {
        let Self::Moment(moment, outcome) = self else {
            return styled(
                FAINT,
                "         the match is over; it starts again in a moment",
            );
        };
        let text = format!("{:<MOMENT_WIDTH$}", moment_line(moment));
        let text = match moment.match_event.as_str() {
            "GOAL" => styled(LOUD, text),
            _ => text,
        };
        format!("{text}  {}", outcome.text())
    }

    /// For machines.
    pub(super) fn json(&self) -> Value {
        let Self::Moment(moment, outcome) = self else {
            return json!({ "type": "over" });
        };
        let mut entry = json!({
            "type": "moment",
            "minute": moment.minute.to_string(),
            "score": moment.score,
            "match_event": moment.match_event,
            "text": moment.text,
        });
        match outcome {
            Outcome::Pushed {
                fans,
                gone,
                failed,
                change_to_last,
            } => {
                entry["outcome"] = "pushed".into();
                entry["fans"] = (*fans).into();
                entry["gone"] = (*gone).into();
                entry["failed"] = (*failed).into();
                entry["change_to_last_ms"] = milliseconds(*change_to_last).into();
            }
            Outcome::Unchanged => entry["outcome"] = "unchanged".into(),
            Outcome::Unheard => entry["outcome"] = "unheard".into(),
        }
        entry
    }
}

impl Outcome {
    fn text(&self) -> String {
        match self {
            Self::Pushed {
                fans,
                gone,
                failed,
                change_to_last,
            } => {
                let mut text = format!("{fans:>4}  {:>9.1} ms", milliseconds(*change_to_last));
                for (count, what) in [(gone, "gone"), (failed, "failed")] {
                    if *count > 0 {
                        text.push_str(&format!("  {count} {what}"));
                    }
                }
                text
            }
            Self::Unchanged => styled(FAINT, "   -  decides the same"),
            Self::Unheard => styled(FAINT, "   -  overtaken"),
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use touchline_client::proto::EventState;
    use touchline_store::{event::Version, ids::EventId};

    use super::*;
    use crate::demo;

    fn played(index: usize, version: &str) -> Played {
        Played::Moment {
            moment: demo::world_cup_final().moments[index].clone(),
            index,
            began: std::time::SystemTime::UNIX_EPOCH,
            state: EventState {
                version: version.to_owned(),
                ..Default::default()
            },
        }
    }

    fn round(version: &str, superseded: bool) -> Round {
        Round {
            event_id: EventId::new("1").unwrap(),
            version: Version::from_text(version),
            position: None,
            audience: 6,
            pushed: 6,
            gone: 0,
            failed: 0,
            superseded,
            change_to_last: Duration::from_micros(12_345),
        }
    }

    fn outcomes(entries: &[Entry]) -> Vec<Option<&Outcome>> {
        entries
            .iter()
            .map(|entry| match entry {
                Entry::Moment(_, outcome) => Some(outcome),
                Entry::Over => None,
            })
            .collect()
    }

    #[test]
    fn a_moment_is_shown_once_its_fan_out_is_known() {
        let mut log = Log::default();
        assert!(log.played(played(3, "a"), Instant::now()).is_empty());
        assert!(log.round(&round("another", false)).is_empty());
        assert!(log.round(&round("a", true)).is_empty());
        let entries = log.round(&round("a", false));
        let text = anstream::adapter::strip_str(&entries[0].text()).to_string();
        assert!(text.contains("Messi from the penalty spot"), "{text}");
        assert!(text.ends_with("6       12.3 ms"), "{text}");
        assert_eq!(entries[0].json()["fans"], 6);
        assert_eq!(log.overdue_at(), None);
    }

    #[test]
    fn what_was_overtaken_is_shown_before_what_overtook_it() {
        let mut log = Log::default();
        log.played(played(3, "a"), Instant::now());
        log.played(played(4, "b"), Instant::now());
        let entries = log.round(&round("b", false));
        assert!(
            matches!(
                outcomes(&entries)[..],
                [Some(Outcome::Unheard), Some(Outcome::Pushed { .. })]
            ),
            "{entries:?}"
        );
    }

    #[test]
    fn a_moment_that_decides_the_same_waits_for_nothing() {
        let mut log = Log::default();
        log.played(played(3, "a"), Instant::now());
        log.round(&round("a", false));
        let entries = log.played(played(4, "a"), Instant::now());
        assert_eq!(outcomes(&entries), [Some(&Outcome::Unchanged)]);
    }

    #[test]
    fn a_moment_of_whose_fan_out_nothing_is_heard_is_shown_in_time() {
        let mut log = Log::default();
        let begin = Instant::now();
        log.played(played(3, "a"), begin);
        assert_eq!(log.overdue_at(), Some(begin + WAIT));
        assert!(log.overdue(begin).is_empty());
        let entries = log.overdue(begin + WAIT);
        assert_eq!(outcomes(&entries), [Some(&Outcome::Unheard)]);
    }

    #[test]
    fn the_moments_that_wait_are_bounded() {
        let mut log = Log::default();
        let shown: usize = (0..100)
            .map(|number| {
                log.played(played(0, &number.to_string()), Instant::now())
                    .len()
            })
            .sum();
        assert_eq!(shown, 100 - WAITING_MAX);
    }
}
