//! What a caller may do. Pure.

use std::fmt;

/// One thing that a caller may do, as a token's scope claim names it after the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `components`: the components of oneself.
    Components,
    /// `components:any`: the components of anyone; for the push adapter and internal applications.
    ComponentsAny,
    /// `events:read`: events and their changes, without anybody's components.
    EventsRead,
    /// `events:write`: write and delete events.
    EventsWrite,
    /// `feedback`: record interactions of oneself.
    Feedback,
    /// `feedback:any`: record interactions of anyone.
    FeedbackAny,
    /// `admin`: what has no scope of its own.
    Admin,
}

impl Scope {
    /// All of them, in the order in which they are documented.
    pub const ALL: [Self; 7] = [
        Self::Components,
        Self::ComponentsAny,
        Self::EventsRead,
        Self::EventsWrite,
        Self::Feedback,
        Self::FeedbackAny,
        Self::Admin,
    ];

    /// Its name, without the prefix.
    pub fn name(self) -> &'static str {
        match self {
            Self::Components => "components",
            Self::ComponentsAny => "components:any",
            Self::EventsRead => "events:read",
            Self::EventsWrite => "events:write",
            Self::Feedback => "feedback",
            Self::FeedbackAny => "feedback:any",
            Self::Admin => "admin",
        }
    }

    /// The scopes that come with it: who may ask for anyone may ask for oneself.
    fn with_implied(self) -> Scopes {
        match self {
            Self::ComponentsAny => {
                Scopes::of(&[Self::ComponentsAny, Self::Components, Self::EventsRead])
            }
            Self::Components => Scopes::of(&[Self::Components, Self::EventsRead]),
            Self::EventsWrite => Scopes::of(&[Self::EventsWrite, Self::EventsRead]),
            Self::FeedbackAny => Scopes::of(&[Self::FeedbackAny, Self::Feedback]),
            Self::EventsRead | Self::Feedback | Self::Admin => Scopes::of(&[self]),
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scope| scope.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no scope is called so; there are {names}")
        })
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// Nothing at all.
    pub const NONE: Self = Self(0);

    /// Exactly these.
    pub fn of(scopes: &[Scope]) -> Self {
        Self(scopes.iter().fold(0, |bits, scope| bits | scope.bit()))
    }

    /// Whether this one is among them.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// These and what comes with each scope that is named.
    #[must_use]
    pub fn granting(self, scopes: impl IntoIterator<Item = Scope>) -> Self {
        scopes
            .into_iter()
            .fold(self, |all, scope| Self(all.0 | scope.with_implied().0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_for_anyone_is_one_for_oneself_too_and_nothing_else_comes_along() {
        let granted = |scope: Scope| {
            let scopes = Scopes::NONE.granting([scope]);
            Scope::ALL.map(|scope| scopes.has(scope))
        };
        assert_eq!(
            granted(Scope::Components),
            [true, false, true, false, false, false, false]
        );
        assert_eq!(
            granted(Scope::ComponentsAny),
            [true, true, true, false, false, false, false]
        );
        assert_eq!(
            granted(Scope::EventsRead),
            [false, false, true, false, false, false, false]
        );
        assert_eq!(
            granted(Scope::EventsWrite),
            [false, false, true, true, false, false, false]
        );
        assert_eq!(
            granted(Scope::Feedback),
            [false, false, false, false, true, false, false]
        );
        assert_eq!(
            granted(Scope::FeedbackAny),
            [false, false, false, false, true, true, false]
        );
        assert_eq!(
            granted(Scope::Admin),
            [false, false, false, false, false, false, true]
        );
    }

    #[test]
    fn an_unknown_scope_is_refused_with_those_that_there_are() {
        for scope in Scope::ALL {
            assert_eq!(scope.name().parse(), Ok(scope));
        }
        let error = "everything".parse::<Scope>().unwrap_err();
        assert!(error.contains("components:any"), "{error}");
    }
}
