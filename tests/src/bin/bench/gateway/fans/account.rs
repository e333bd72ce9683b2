//! What one fan was shown of the changes so far, and whether what comes next may follow it. Pure.

/// What a fan has to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    /// Every change, exactly once.
    Each,
    /// The newest change; those before it may be left out.
    Newest,
}

/// The changes that a fan was shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Account {
    /// The newest of them.
    newest: u32,
    /// Whether the registration was not answered yet.
    is_new: bool,
    /// Whether an answer to the registration may still repeat what a push brought before it.
    may_repeat: bool,
}

/// What a message is to its fan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// A newer change, so many after the last one.
    Newer {
        /// How many were left out.
        left_out: u32,
    },
    /// The first message after the registration, which is nothing new.
    Answer,
    /// The answer to the registration came after a push of the same.
    Repeat,
}

impl Account {
    /// One who registers, and was shown no change after this one.
    pub(super) fn registering(newest: u32) -> Self {
        Self {
            newest,
            is_new: true,
            may_repeat: true,
        }
    }

    /// One whose registration was answered without a set.
    pub(super) fn registered(newest: u32) -> Self {
        Self {
            newest,
            ..Self::default()
        }
    }

    /// The newest change that was shown.
    pub(super) fn newest(&self) -> u32 {
        self.newest
    }

    /// Whether no set has come since the registration.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Takes a message that answers a change.
    pub(super) fn take(&mut self, change: u32, duty: Duty) -> Result<News, &'static str> {
        let before = std::mem::replace(
            self,
            Self {
                newest: self.newest.max(change),
                is_new: false,
                // A push may come while the registration is answered.
                may_repeat: self.may_repeat && self.is_new,
            },
        );
        if change < before.newest {
            return Err("an older state followed a newer one");
        }
        if change == before.newest {
            return match before {
                Self { is_new: true, .. } => Ok(News::Answer),
                Self {
                    may_repeat: true, ..
                } => Ok(News::Repeat),
                Self { .. } => Err("a state came twice"),
            };
        }
        let left_out = change - before.newest - 1;
        if left_out > 0 && duty == Duty::Each && !before.is_new {
            return Err("a state was left out");
        }
        Ok(News::Newer { left_out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT: Result<News, &str> = Ok(News::Newer { left_out: 0 });

    #[test]
    fn each_change_comes_exactly_once() {
        let mut account = Account::registered(3);
        assert_eq!(account.take(4, Duty::Each), NEXT);
        assert_eq!(account.take(5, Duty::Each), NEXT);
        let twice = account.take(5, Duty::Each);
        assert_eq!(twice, Err("a state came twice"));
        let older = account.take(4, Duty::Newest);
        assert_eq!(older, Err("an older state followed a newer one"));
        let left_out = account.take(7, Duty::Each);
        assert_eq!(left_out, Err("a state was left out"));
    }

    #[test]
    fn changes_may_be_left_out_where_the_newest_is_enough() {
        let mut account = Account::registered(3);
        assert_eq!(
            account.take(9, Duty::Newest),
            Ok(News::Newer { left_out: 5 })
        );
        assert!(account.take(9, Duty::Newest).is_err());
    }

    #[test]
    fn a_registration_is_answered_with_what_is_shown_or_newer() {
        for change in [3, 8] {
            let mut account = Account::registering(3);
            assert!(account.take(change, Duty::Each).is_ok());
            assert_eq!(account.newest(), change);
        }
        assert!(Account::registering(3).take(2, Duty::Each).is_err());
    }

    #[test]
    fn an_answer_may_follow_a_push_of_the_same_once() {
        let mut account = Account::registering(3);
        assert_eq!(account.take(4, Duty::Each), NEXT);
        assert_eq!(account.take(4, Duty::Each), Ok(News::Repeat));
        assert!(account.take(4, Duty::Each).is_err());
        let mut account = Account::registering(3);
        assert_eq!(account.take(4, Duty::Each), NEXT);
        assert_eq!(account.take(5, Duty::Each), NEXT);
        assert!(account.take(5, Duty::Each).is_err(), "that was a push");
    }
}
