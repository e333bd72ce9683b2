//! From the text of a policies file to policies. Every refusal names the file, the line or key, the
//! value, and what would be accepted; `docs/policies.md` describes the format for operators.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Display,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::Deserialize;
use toml::value::{Datetime, Offset, Time};
use touchline_store::ids::{ItemId, ItemType};

use crate::components::policies::{Daily, Policies, Rule, Window};

/// Largest file.
const FILE_BYTES_MAX: u64 = 1 << 20;
const SLOTS_MAX: i64 = 50;
const PINNED_MAX: usize = 50;
const AGE_YEARS_MAX: i64 = 150;
/// What was shown is remembered for each consumer, so this bounds memory too.
const CAP_MAX: i64 = 1_000;
const WINDOWS_MAX: usize = 100;

/// Why a policies file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The system refuses.
    #[error("{path}: cannot be read")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file as a whole is none, or a line of it is not understood.
    #[error("{path}: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Where, and what is accepted.
        problem: String,
    },
    /// A value cannot be accepted.
    #[error("{path}: {key} = {value}: {accepted}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Such as `types.MONETIZE.slots`.
        key: String,
        /// As it was understood.
        value: String,
        /// What would be accepted.
        accepted: String,
    },
}

/// A value that cannot be accepted.
struct Refused {
    key: String,
    value: String,
    accepted: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    blocked: Vec<String>,
    #[serde(default)]
    pinned: Vec<String>,
    #[serde(default)]
    types: BTreeMap<String, TypeTable>,
    #[serde(default)]
    items: BTreeMap<String, ItemTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypeTable {
    slots: Option<i64>,
    min_age: Option<i64>,
    countries: Option<Vec<String>>,
    cap: Option<i64>,
    schedule: Option<Vec<WindowTable>>,
    only_when: Option<BTreeMap<String, Vec<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemTable {
    min_age: Option<i64>,
    countries: Option<Vec<String>>,
    cap: Option<i64>,
    schedule: Option<Vec<WindowTable>>,
    only_when: Option<BTreeMap<String, Vec<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowTable {
    from: Option<Datetime>,
    until: Option<Datetime>,
    daily_from: Option<Datetime>,
    daily_until: Option<Datetime>,
    utc_offset: Option<String>,
}

/// The content of a file, at most as long as is accepted.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, PolicyError> {
    let failed = |source| PolicyError::Io {
        path: path.to_owned(),
        source,
    };
    let mut content = Vec::new();
    let file = File::open(path).map_err(failed)?;
    let mut limited = file.take(FILE_BYTES_MAX + 1);
    limited.read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}

/// The policies that a file's content gives.
pub(super) fn parse(
    path: &Path,
    content: &[u8],
    context_keys: &[String],
) -> Result<Policies, PolicyError> {
    let wrong = |problem: String| PolicyError::Content {
        path: path.to_owned(),
        problem,
    };
    if content.is_empty() {
        let problem = "is empty, as a file that is being written; where nothing is to be ruled, a \
                       comment is accepted";
        return Err(wrong(problem.to_owned()));
    }
    if content.len() as u64 > FILE_BYTES_MAX {
        let problem = format!("is too long; at most {FILE_BYTES_MAX} bytes are accepted");
        return Err(wrong(problem));
    }
    let text = str::from_utf8(content)
        .map_err(|error| wrong(format!("is no text at byte {}", error.valid_up_to())))?;
    let document: Document =
        toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
    document.policies(context_keys).map_err(|refused| {
        let path = path.to_owned();
        let Refused {
            key,
            value,
            accepted,
        } = refused;
        PolicyError::Value {
            path,
            key,
            value,
            accepted,
        }
    })
}

impl Document {
    fn policies(self, context_keys: &[String]) -> Result<Policies, Refused> {
        let mut policies = Policies {
            blocked: ids("blocked", &self.blocked)?.into_iter().collect(),
            pinned: ids("pinned", &self.pinned)?,
            ..Policies::default()
        };
        let pinned = &policies.pinned;
        if pinned.len() > PINNED_MAX {
            let accepted = format!("at most {PINNED_MAX} items are accepted");
            return Err(refused(
                "pinned",
                format!("[{} items]", pinned.len()),
                accepted,
            ));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = pinned.iter().find(|item_id| !seen.insert(*item_id)) {
            return Err(refused("pinned", twice, "each item once is accepted"));
        }
        for (name, table) in self.types {
            let key = format!("types.{name}");
            let item_type =
                ItemType::new(&name).map_err(|invalid| refused(&key, "{…}", invalid))?;
            if let Some(slots) = whole(&key, "slots", table.slots, 0, SLOTS_MAX)? {
                policies.slots.insert(item_type.clone(), slots as usize);
            }
            let rule = table.rule().check(&key, context_keys)?;
            policies.types.insert(item_type, rule);
        }
        for (name, table) in self.items {
            let key = format!("items.{name}");
            let item_id = ItemId::new(&name).map_err(|invalid| refused(&key, "{…}", invalid))?;
            let rule = table.check(&key, context_keys)?;
            policies.items.insert(item_id, rule);
        }
        Ok(policies)
    }
}

impl TypeTable {
    /// What it shares with an item's.
    fn rule(self) -> ItemTable {
        ItemTable {
            min_age: self.min_age,
            countries: self.countries,
            cap: self.cap,
            schedule: self.schedule,
            only_when: self.only_when,
        }
    }
}

impl ItemTable {
    fn check(self, key: &str, context_keys: &[String]) -> Result<Rule, Refused> {
        let countries = match self.countries {
            None => None,
            Some(countries) => Some(words(&format!("{key}.countries"), countries)?),
        };
        let windows = self.schedule.unwrap_or_default();
        if windows.len() > WINDOWS_MAX {
            let value = format!("[{} times]", windows.len());
            let accepted = format!("at most {WINDOWS_MAX} are accepted");
            return Err(refused(format!("{key}.schedule"), value, accepted));
        }
        let schedule = windows.into_iter().enumerate();
        let schedule = schedule
            .map(|(place, window)| window.check(&format!("{key}.schedule[{place}]")))
            .collect::<Result<_, _>>()?;
        let mut only_when = BTreeMap::new();
        for (name, values) in self.only_when.unwrap_or_default() {
            let key = format!("{key}.only_when.{name}");
            let upper = name.to_uppercase();
            if !context_keys.contains(&upper) {
                let accepted = format!("a key of --context-keys: {}", context_keys.join(", "));
                return Err(refused(key, format!("{values:?}"), accepted));
            }
            only_when.insert(upper, words(&key, values)?);
        }
        Ok(Rule {
            min_age: whole(key, "min_age", self.min_age, 1, AGE_YEARS_MAX)?
                .and_then(|years| u32::try_from(years).ok()),
            countries,
            cap: whole(key, "cap", self.cap, 1, CAP_MAX)?.map(|cap| cap as usize),
            schedule,
            only_when,
        })
    }
}

impl WindowTable {
    fn check(self, key: &str) -> Result<Window, Refused> {
        let daily = match (self.daily_from, self.daily_until, self.utc_offset) {
            (None, None, None) => None,
            (Some(from), Some(until), Some(offset)) => {
                let daily = Daily {
                    from: time_of_day(&format!("{key}.daily_from"), from)?,
                    until: time_of_day(&format!("{key}.daily_until"), until)?,
                    utc_offset: utc_offset(&format!("{key}.utc_offset"), &offset)?,
                };
                if daily.from == daily.until {
                    let accepted = "another time than daily_from";
                    return Err(refused(format!("{key}.daily_until"), until, accepted));
                }
                Some(daily)
            }
            _ => {
                let accepted = "daily_from, daily_until and utc_offset stand together";
                return Err(refused(key, "{…}", accepted));
            }
        };
        let from = instant(&format!("{key}.from"), self.from)?;
        let until = instant(&format!("{key}.until"), self.until)?;
        if let (Some(first), Some(end), Some(text)) = (from, until, self.until)
            && first >= end
        {
            return Err(refused(format!("{key}.until"), text, "a time after from"));
        }
        let window = Window { from, until, daily };
        if window == Window::default() {
            let accepted = "from, until, or daily_from with daily_until and utc_offset";
            return Err(refused(key, "{}", accepted));
        }
        Ok(window)
    }
}

fn refused(key: impl Into<String>, value: impl Display, accepted: impl Display) -> Refused {
    Refused {
        key: key.into(),
        value: value.to_string(),
        accepted: accepted.to_string(),
    }
}

fn ids(key: &str, texts: &[String]) -> Result<Vec<ItemId>, Refused> {
    let ids = texts.iter().map(|text| {
        ItemId::new(text).map_err(|invalid| refused(key, format!("{text:?}"), invalid))
    });
    ids.collect()
}

fn words(key: &str, words: Vec<String>) -> Result<BTreeSet<String>, Refused> {
    if words.is_empty() || words.iter().any(String::is_empty) {
        let accepted = "at least one word, none of them empty; without the key all are allowed";
        return Err(refused(key, format!("{words:?}"), accepted));
    }
    Ok(words.into_iter().collect())
}

fn whole(
    key: &str,
    name: &str,
    value: Option<i64>,
    min: i64,
    max: i64,
) -> Result<Option<u64>, Refused> {
    let Some(value) = value else { return Ok(None) };
    if !(min..=max).contains(&value) {
        let accepted = format!("{min} to {max} is accepted");
        return Err(refused(format!("{key}.{name}"), value, accepted));
    }
    Ok(Some(value.unsigned_abs()))
}

/// Seconds since 1970 of a time that names its date and its offset.
fn instant(key: &str, given: Option<Datetime>) -> Result<Option<i64>, Refused> {
    let Some(given) = given else { return Ok(None) };
    let accepted = "a date and a time with an offset, such as 2022-12-18T18:00:00+03:00";
    let refuse = || refused(key, given, accepted);
    let (Some(date), Some(time), Some(offset)) = (given.date, given.time, given.offset) else {
        return Err(refuse());
    };
    // What was a date to TOML is one here too; only the arithmetic of the calendar is wanted.
    let utc = format!("{date}T00:00:00Z");
    let day = humantime::parse_rfc3339(&utc).map_err(|_| refuse())?;
    let day = day
        .duration_since(UNIX_EPOCH)
        .map_err(|_| refuse())?
        .as_secs();
    let day = i64::try_from(day).map_err(|_| refuse())?;
    let offset = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes) * 60,
    };
    Ok(Some(day + seconds(time) - offset))
}

fn time_of_day(key: &str, given: Datetime) -> Result<i64, Refused> {
    match (given.date, given.time, given.offset) {
        (None, Some(time), None) => Ok(seconds(time)),
        _ => Err(refused(key, given, "a time of day, such as 18:00:00")),
    }
}

fn seconds(time: Time) -> i64 {
    let second = i64::from(time.second.unwrap_or_default());
    i64::from(time.hour) * 3_600 + i64::from(time.minute) * 60 + second
}

/// Seconds ahead of UTC, from `+03:00`, `-05:30` or `Z`.
fn utc_offset(key: &str, text: &str) -> Result<i64, Refused> {
    // TOML has read such offsets already where they end a date and a time.
    let dated: Option<Datetime> = format!("2000-01-01T00:00:00{text}").parse().ok();
    match dated.and_then(|dated| dated.offset) {
        Some(Offset::Z) => Ok(0),
        Some(Offset::Custom { minutes }) => Ok(i64::from(minutes) * 60),
        None => Err(refused(
            key,
            format!("{text:?}"),
            "an offset such as +03:00, -05:30 or Z",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Policies, String> {
        let keys = ["MATCH_TIMING".to_owned()];
        parse(Path::new("p.toml"), text.as_bytes(), &keys).map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_is_accepted_and_says_what_its_comments_say() {
        let text = include_str!("../../policies.example.toml");
        let policies = parsed(text).unwrap();
        let monetize = ItemType::new("MONETIZE").unwrap();
        let bet = &policies.items[&ItemId::new("ITEM_ID_31").unwrap()];
        assert_eq!(policies.slots(&monetize), 2);
        assert_eq!(policies.types[&monetize].cap, Some(20));
        assert_eq!(bet.min_age, Some(18));
        assert!(bet.countries.as_ref().unwrap().contains("FR"));
        assert_eq!(policies.pinned.len(), 1);
        assert_eq!(policies.blocked.len(), 1);
        let window = bet.schedule[0];
        // 2022-12-18, 18:00 in Doha.
        assert!(window.holds(1_671_375_600) && !window.holds(1_671_375_599));
    }

    #[test]
    fn a_comment_alone_rules_nothing() {
        assert_eq!(parsed("# nothing\n"), Ok(Policies::default()));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_what_is_accepted() {
        for (text, named) in [
            ("", &["p.toml: is empty"][..]),
            ("types = 3", &["p.toml: ", "line 1", "integer `3`"]),
            (
                "\n[types.A]\nslot = 2",
                &["line 3", "unknown field `slot`", "`slots`"],
            ),
            ("[items.a]\nslots = 2", &["line 2", "unknown field `slots`"]),
            (
                "[types.A]\nslots = \"two\"",
                &["line 2", "string \"two\"", "expected i64"],
            ),
            (
                "[types.A]\nslots = 51",
                &["p.toml: types.A.slots = 51: 0 to 50 is accepted"],
            ),
            ("[types.A]\nmin_age = 0", &["types.A.min_age = 0: 1 to 150"]),
            ("[items.a]\ncap = -1", &["items.a.cap = -1: 1 to 1000"]),
            (
                "[items.a]\ncountries = []",
                &["items.a.countries = []: at least one"],
            ),
            ("blocked = [\"\"]", &["blocked = \"\": item_id must not"]),
            ("pinned = [\"a\", \"a\"]", &["pinned = a: each item once"]),
            (
                "[items.a.only_when]\nMATCH_TIMNG = [\"x\"]",
                &[
                    "items.a.only_when.MATCH_TIMNG = [\"x\"]",
                    "--context-keys: MATCH_TIMING",
                ],
            ),
            (
                "[[items.a.schedule]]\nfrom = 2022-12-18",
                &["items.a.schedule[0].from = 2022-12-18: a date and a time with"],
            ),
            (
                "[[items.a.schedule]]\nfrom = 2022-12-18T18:00:00Z\nuntil = 2022-12-18T19:00:00+03:00",
                &["items.a.schedule[0].until = 2022-12-18T19:00:00+03:00: a time after"],
            ),
            (
                "[[items.a.schedule]]\ndaily_from = 18:00:00",
                &["items.a.schedule[0] = {…}: daily_from, daily_until and utc_offset"],
            ),
            (
                "[[items.a.schedule]]\ndaily_from = 18:00:00\ndaily_until = 18:00:00\nutc_offset = \"Z\"",
                &["items.a.schedule[0].daily_until = 18:00:00: another"],
            ),
            (
                "[[items.a.schedule]]\ndaily_from = 18:00:00\ndaily_until = 19:00:00\nutc_offset = \"Doha\"",
                &["items.a.schedule[0].utc_offset = \"Doha\": an offset such as +03:00"],
            ),
            ("[[items.a.schedule]]", &["items.a.schedule[0] = {}: from"]),
        ] {
            let error = parsed(text).unwrap_err();
            for part in named {
                assert!(error.contains(part), "{text:?} gave {error}");
            }
        }
    }
}
