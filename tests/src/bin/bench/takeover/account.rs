//! What one fan has been shown, and whether what comes next may follow it. Pure.

use std::fmt;

/// One set that a fan received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    /// Number of the state that it answers.
    pub(super) number: u32,
    /// Where that stands, as protocol 2 says it: epoch and sequence.
    pub(super) position: Option<(String, String)>,
    /// What protocol 2 calls the state and the set: version and set id.
    pub(super) names: Option<(String, String)>,
    /// The message.
    pub(super) text: String,
    /// When it was received, in nanoseconds since 1970.
    pub(super) unix_ns: u64,
}

/// What a set is to its fan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// A newer state than before.
    Newer,
    /// The state that is shown already, received then.
    Again {
        /// When it was received the last time, in nanoseconds since 1970.
        last_unix_ns: u64,
    },
}

/// Two sets of which the second must not follow the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    what: &'static str,
    first: String,
    second: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            first,
            second,
        } = self;
        write!(formatter, "{what}\n  first: {first}\n  then:  {second}")
    }
}

/// The newest set of one fan.
#[derive(Debug, Default)]
pub(super) struct Account(Option<Shown>);

impl Account {
    /// Takes the next set.
    pub(super) fn take(&mut self, next: Shown) -> Result<News, Violation> {
        let Some(last) = &self.0 else {
            self.0 = Some(next);
            return Ok(News::Newer);
        };
        if let Some(what) = fault(last, &next) {
            return Err(Violation {
                what,
                first: last.text.clone(),
                second: next.text,
            });
        }
        let news = match next.number > last.number {
            true => News::Newer,
            false => News::Again {
                last_unix_ns: last.unix_ns,
            },
        };
        self.0 = Some(next);
        Ok(news)
    }
}

/// What is wrong with a set that follows another.
fn fault(last: &Shown, next: &Shown) -> Option<&'static str> {
    if next.number < last.number {
        return Some("an older state followed a newer one");
    }
    let is_same = next.number == last.number;
    if is_same != (next.names == last.names) && next.names.is_some() {
        return Some("a state and its set do not go together");
    }
    let (Some((epoch, sequence)), Some((last_epoch, last_sequence))) =
        (&next.position, &last.position)
    else {
        return None;
    };
    if epoch != last_epoch {
        return None;
    }
    if sequence < last_sequence {
        return Some("a position went back");
    }
    (sequence == last_sequence && !is_same).then_some("two states have one position")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol_1(number: u32) -> Shown {
        Shown {
            number,
            position: None,
            names: None,
            text: number.to_string(),
            unix_ns: u64::from(number),
        }
    }

    fn protocol_2(number: u32, epoch: &str, sequence: &str) -> Shown {
        Shown {
            position: Some((epoch.to_owned(), sequence.to_owned())),
            names: Some((format!("version {number}"), format!("set {number}"))),
            ..protocol_1(number)
        }
    }

    fn after(first: Shown, second: Shown) -> Result<News, &'static str> {
        let mut account = Account::default();
        assert_eq!(account.take(first), Ok(News::Newer));
        account.take(second).map_err(|violation| violation.what)
    }

    #[test]
    fn newer_states_and_repeats_may_follow() {
        let again = Ok(News::Again { last_unix_ns: 5 });
        assert_eq!(after(protocol_1(5), protocol_1(9)), Ok(News::Newer));
        assert_eq!(after(protocol_1(5), protocol_1(5)), again);
        let five = protocol_2(5, "e", "05");
        assert_eq!(
            after(five.clone(), protocol_2(9, "e", "09")),
            Ok(News::Newer)
        );
        assert_eq!(after(five.clone(), five.clone()), again);
        // Shown from its row first, and then from its record.
        assert_eq!(after(protocol_2(5, "e", "04~1"), five.clone()), again);
        assert_eq!(after(five, protocol_2(9, "another", "01")), Ok(News::Newer));
    }

    #[test]
    fn nothing_older_may_follow() {
        let older = "an older state followed a newer one";
        assert_eq!(after(protocol_1(5), protocol_1(4)), Err(older));
        let five = protocol_2(5, "e", "05");
        assert_eq!(after(five.clone(), protocol_2(4, "e", "04")), Err(older));
        assert_eq!(after(five.clone(), protocol_2(4, "f", "09")), Err(older));
        let back = "a position went back";
        assert_eq!(after(five.clone(), protocol_2(9, "e", "04~1")), Err(back));
        assert_eq!(after(five, protocol_2(5, "e", "04~1")), Err(back));
    }

    #[test]
    fn a_repeat_has_the_same_set_and_another_state_another_place() {
        let five = protocol_2(5, "e", "05");
        let other = Shown {
            names: protocol_2(6, "e", "06").names,
            ..five.clone()
        };
        let apart = "a state and its set do not go together";
        assert_eq!(after(five.clone(), other), Err(apart));
        let place = "two states have one position";
        assert_eq!(after(five, protocol_2(6, "e", "05")), Err(place));
    }

    #[test]
    fn a_violation_names_both_messages() {
        let mut account = Account::default();
        account.take(protocol_1(5)).unwrap();
        let violation = account.take(protocol_1(4)).unwrap_err().to_string();
        let wanted = "an older state followed a newer one\n  first: 5\n  then:  4";
        assert_eq!(violation, wanted);
    }
}
