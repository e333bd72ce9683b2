//! Newtypes for the ids that could be swapped. They hold text that was checked once, at the door;
//! they do not know where the id comes from.

use std::{fmt, sync::Arc};

/// Longest id that is accepted anywhere, in characters: Personalize's own limit for a user id
/// (API reference, GetRecommendations, `userId`).
pub const ID_CHARACTERS_MAX: usize = 256;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// There is nothing in it.
    #[error("{field} must not be empty")]
    Empty {
        /// The field as the caller knows it.
        field: &'static str,
    },
    /// It is over [`ID_CHARACTERS_MAX`].
    #[error("{field} has {characters} characters; at most {ID_CHARACTERS_MAX} are accepted")]
    TooLong {
        /// The field as the caller knows it.
        field: &'static str,
        /// Its length.
        characters: usize,
    },
}

impl InvalidId {
    /// The field that the id was given in.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Empty { field } | Self::TooLong { field, .. } => field,
        }
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name of the field or attribute that holds this id.
            pub const FIELD: &'static str = $field;

            /// Takes a text as this id: 1 to 256 characters.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
                let text = text.as_ref();
                if text.is_empty() {
                    return Err(InvalidId::Empty { field: $field });
                }
                // Bytes bound characters from above, so the count is taken only where it matters.
                if text.len() > ID_CHARACTERS_MAX {
                    let characters = text.chars().count();
                    if characters > ID_CHARACTERS_MAX {
                        return Err(InvalidId::TooLong { field: $field, characters });
                    }
                }
                Ok(Self(text.into()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// One live event, a match.
    EventId, "event_id"
);
id!(
    /// The person, as the recommender knows them (Personalize `userId`).
    ConsumerId, "consumer_id"
);
id!(
    /// One open WebSocket, as its front names it; also the key of its session.
    ConnectionId, "session_id"
);
id!(
    /// The device that a session runs on.
    DeviceId, "device_id"
);
id!(
    /// What a session is watching.
    ContentId, "content_id"
);
id!(
    /// A UI component that can be shown.
    ItemId, "item_id"
);
id!(
    /// The slot that an item fills.
    ItemType, "item_type"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_1_to_256_characters_however_many_bytes_these_take() {
        assert_eq!(
            EventId::new(""),
            Err(InvalidId::Empty { field: "event_id" })
        );
        assert!(EventId::new("é".repeat(256)).is_ok());
        let error = EventId::new("é".repeat(257)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "event_id has 257 characters; at most 256 are accepted"
        );
    }
}
