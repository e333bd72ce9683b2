//! A match as a file: the moments at which something happens, in order. Reads and checks; does not
//! play it.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;
use touchline_store::ids::EventId;

/// Most moments that one match may have.
const MOMENTS_MAX: usize = 10_000;

/// Largest match file, in bytes.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why a file is no match.
#[derive(Debug, thiserror::Error)]
pub enum MatchFileError {
    /// It is not TOML, or a key is missing, unknown or of another type.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A value cannot be accepted.
    #[error("{place}: {reason}")]
    Value {
        /// Where in the file.
        place: String,
        /// What is wrong, and what would be accepted.
        reason: String,
    },
}

/// A match to replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The event that it is written to, unless another is asked for.
    pub event_id: EventId,
    /// What the match is called.
    pub title: String,
    /// The home side.
    pub home: String,
    /// The away side.
    pub away: String,
    /// `match_venue`.
    pub venue: String,
    /// `match_type`.
    pub match_type: String,
    /// The contents that it reaches; none: every session.
    pub content_ids: Vec<String>,
    /// In order of time; at least one.
    pub moments: Vec<Moment>,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// When.
    pub minute: Minute,
    /// Minutes since the first moment, with stoppage time laid out one after the other.
    pub elapsed_minutes: u32,
    /// `match_event`.
    pub match_event: String,
    /// `match_timing`.
    pub match_timing: String,
    /// Goals of the home and the away side.
    pub score: [u32; 2],
    /// What happened, for people.
    pub text: String,
}

/// A minute as the broadcast counts: `45+7` is the seventh minute of stoppage time after the 45th.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minute {
    /// The regular minute; before kick-off it is negative.
    pub regular: i32,
    /// Minutes of stoppage time after it.
    pub stoppage: u32,
}

impl fmt::Display for Minute {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stoppage {
            0 => write!(formatter, "{}", self.regular),
            stoppage => write!(formatter, "{}+{stoppage}", self.regular),
        }
    }
}

impl Minute {
    /// `23`, `-10` or `45+7`.
    fn parse(text: &str) -> Option<Self> {
        let (regular, stoppage) = text.split_once('+').unwrap_or((text, "0"));
        let minute = Self {
            regular: regular.parse().ok()?,
            stoppage: stoppage.parse().ok()?,
        };
        ((-600..=600).contains(&minute.regular) && minute.stoppage <= 60).then_some(minute)
    }
}

impl Match {
    /// Reads a match from a file's text.
    pub fn parse(text: &str) -> Result<Self, MatchFileError> {
        let file: File = toml::from_str(text)?;
        let event_id = EventId::new(&file.event_id).map_err(|invalid| MatchFileError::Value {
            place: "event_id".to_owned(),
            reason: invalid.to_string(),
        })?;
        Ok(Self {
            event_id,
            title: file.title,
            home: file.home,
            away: file.away,
            venue: file.venue,
            match_type: file.match_type,
            content_ids: file.content_ids,
            moments: moments(file.moments)?,
        })
    }

    /// The event row's attributes at a moment: the prototype's five, and what is only shown.
    pub fn attributes(&self, moment: &Moment) -> BTreeMap<String, String> {
        let [home, away] = moment.score;
        [
            ("match_event", moment.match_event.clone()),
            ("match_timing", moment.match_timing.clone()),
            ("score_difference", home.abs_diff(away).to_string()),
            ("match_venue", self.venue.clone()),
            ("match_type", self.match_type.clone()),
            ("display_clock", format!("{}'", moment.minute)),
            ("display_score", format!("{home}–{away}")),
            ("display_text", moment.text.clone()),
            ("display_home", self.home.clone()),
            ("display_away", self.away.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    event_id: String,
    title: String,
    home: String,
    away: String,
    venue: String,
    match_type: String,
    #[serde(default)]
    content_ids: Vec<String>,
    moments: Vec<FileMoment>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileMoment {
    minute: String,
    event: String,
    timing: String,
    score: [u32; 2],
    text: String,
}

fn moments(file: Vec<FileMoment>) -> Result<Vec<Moment>, MatchFileError> {
    let error = |index: usize, reason: String| MatchFileError::Value {
        place: format!("moments[{index}].minute"),
        reason,
    };
    if file.is_empty() || file.len() > MOMENTS_MAX {
        return Err(MatchFileError::Value {
            place: "moments".to_owned(),
            reason: format!(
                "1 to {MOMENTS_MAX} moments are accepted, not {}",
                file.len()
            ),
        });
    }
    let mut moments: Vec<Moment> = Vec::with_capacity(file.len());
    for (index, moment) in file.into_iter().enumerate() {
        let minute = Minute::parse(&moment.minute).ok_or_else(|| {
            let reason = format!(
                "{:?} is no minute; such as \"23\", \"-10\" or \"45+7\" is accepted",
                moment.minute
            );
            error(index, reason)
        })?;
        let last = moments.last();
        if last.is_some_and(|last| minute < last.minute) {
            let reason = format!("{minute} stands after a later minute; moments must be in order");
            return Err(error(index, reason));
        }
        moments.push(Moment {
            minute,
            elapsed_minutes: last.map_or(0, |last| {
                last.elapsed_minutes + minutes_between(last.minute, minute)
            }),
            match_event: moment.event,
            match_timing: moment.timing,
            score: moment.score,
            text: moment.text,
        });
    }
    Ok(moments)
}

/// Stoppage time counts on; the regular minute after it starts where the half does.
fn minutes_between(from: Minute, to: Minute) -> u32 {
    if from.regular == to.regular {
        to.stoppage - from.stoppage
    } else {
        from.regular.abs_diff(to.regular) + to.stoppage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo;

    #[test]
    fn the_final_of_2022_has_its_24_moments_in_order() {
        let game = demo::world_cup_final();
        assert_eq!(game.moments.len(), 24);
        assert!(
            game.moments
                .is_sorted_by_key(|moment| moment.elapsed_minutes)
        );
        let minutes: Vec<_> = game
            .moments
            .iter()
            .map(|moment| moment.minute.to_string())
            .collect();
        assert_eq!(minutes[0], "-10");
        assert_eq!(minutes[6], "45+7");
        let last = &game.moments[23];
        assert_eq!(
            (last.score, last.match_timing.as_str()),
            ([3, 3], "POST_MATCH")
        );
    }

    #[test]
    fn a_goal_becomes_the_prototypes_five_attributes_and_what_is_only_shown() {
        let game = demo::world_cup_final();
        let goal = &game.moments[13];
        let attributes = game.attributes(goal);
        assert_eq!(attributes["match_event"], "GOAL");
        assert_eq!(attributes["match_timing"], "SECOND-HALF-3");
        assert_eq!(attributes["score_difference"], "0");
        assert_eq!(attributes["match_type"], "FINAL");
        assert_eq!(attributes["match_venue"], "Lusail");
        assert_eq!(attributes["display_score"], "2–2");
        assert_eq!(attributes["display_clock"], "81'");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let file = include_str!("../demo/world-cup-final-2022.toml");
        let error = |from: &str, to: &str| {
            Match::parse(&file.replace(from, to))
                .unwrap_err()
                .to_string()
        };
        assert!(error("\"45+7\"", "\"soon\"").contains("moments[6].minute: \"soon\" is no minute"));
        assert!(
            error("\"23\"", "\"99\"").contains("moments[4].minute: 36 stands after a later minute")
        );
        assert!(error("venue =", "place =").contains("place"));
        assert!(
            error("event_id = \"1\"", "event_id = \"\"").contains("event_id must not be empty")
        );
        assert!(error("[1, 0]", "[-1, 0]").contains("-1"));
    }
}
