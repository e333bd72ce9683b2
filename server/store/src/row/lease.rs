//! Rows of the lease table. Knows their layout, not who may write them.
//!
//! | `lease_key` | attributes |
//! |---|---|
//! | `leader` | `owner` S, empty when released; `address` S; `counter` N; `lasts_ms` N; `lasts_until` S, for people; `epoch` S, made with the row |
//! | `checkpoint` | `epoch` S; `shards` M: shard id → `start`, `finished` or `after:SEQUENCE` |
//! | `applied#EVENT` | `epoch` S and `sequence` S of the position, where it is known; `version` S, or `expires_at` N once the event ended |

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use aws_sdk_dynamodb::types::AttributeValue;

use super::{EXPIRES_AT, LEASE_KEY, Row, Unreadable, as_text, number, required, text};
use crate::{
    event::Version,
    ids::EventId,
    lease::{Applied, LeaseRow},
    position::Position,
    sessions::since_epoch,
    stream::{Checkpoint, ShardProgress},
};

/// Key of the lease itself.
pub(crate) const LEADER: &str = "leader";
/// Key of the checkpoint.
pub(crate) const CHECKPOINT: &str = "checkpoint";
/// What the keys of applied rows start with.
const APPLIED: &str = "applied#";

/// Who holds the lease.
pub(crate) const OWNER: &str = "owner";
/// The owner's change feed.
pub(crate) const ADDRESS: &str = "address";
/// Raised by each write of the lease.
pub(crate) const COUNTER: &str = "counter";
/// How long the lease stands while its counter does not move, in milliseconds.
pub(crate) const LASTS_MS: &str = "lasts_ms";
/// When that ends by the owner's clock, for people.
pub(crate) const UNTIL: &str = "lasts_until";
pub(crate) const EPOCH: &str = "epoch";
const SHARDS: &str = "shards";
const SEQUENCE: &str = "sequence";
const VERSION: &str = "version";

const START: &str = "start";
const FINISHED: &str = "finished";
const AFTER: &str = "after:";

/// How long an ended event is remembered: twice as long as AWS keeps a stream's records, which are
/// what could bring it back.
const ENDED_LIFETIME: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// What a row of the lease table is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Leader(LeaseRow),
    Checkpoint(Checkpoint),
    Applied(EventId, Applied),
}

/// Reads a row.
pub(crate) fn from_row(row: &Row) -> Result<Entry, Unreadable> {
    match required(row, LEASE_KEY)? {
        LEADER => Ok(Entry::Leader(leader(row)?)),
        CHECKPOINT => Ok(Entry::Checkpoint(checkpoint(row)?)),
        key => {
            let event_id = key
                .strip_prefix(APPLIED)
                .ok_or_else(|| Unreadable(format!("{LEASE_KEY} {key:?} is not known")))?;
            Ok(Entry::Applied(EventId::new(event_id)?, applied(row)?))
        }
    }
}

fn leader(row: &Row) -> Result<LeaseRow, Unreadable> {
    let number = |name: &str| row.get(name).and_then(as_text)?.parse::<u64>().ok();
    Ok(LeaseRow {
        owner: required(row, OWNER)?.to_owned(),
        address: required(row, ADDRESS)?.to_owned(),
        counter: number(COUNTER).ok_or_else(|| Unreadable(format!("{COUNTER} is no number")))?,
        lasts: Duration::from_millis(number(LASTS_MS).unwrap_or(0)),
        epoch: row
            .get(EPOCH)
            .and_then(as_text)
            .unwrap_or_default()
            .to_owned(),
    })
}

fn checkpoint(row: &Row) -> Result<Checkpoint, Unreadable> {
    let Some(AttributeValue::M(shards)) = row.get(SHARDS) else {
        return Err(Unreadable(format!("{SHARDS} is no map")));
    };
    let shards = shards
        .iter()
        .map(|(shard, value)| {
            let progress = as_text(value)
                .and_then(progress)
                .ok_or_else(|| Unreadable(format!("the progress of shard {shard} is not known")))?;
            Ok((shard.clone(), progress))
        })
        .collect::<Result<BTreeMap<_, _>, Unreadable>>()?;
    Ok(Checkpoint {
        epoch: required(row, EPOCH)?.to_owned(),
        shards,
    })
}

fn progress(text: &str) -> Option<ShardProgress> {
    match text {
        START => Some(ShardProgress::Start),
        FINISHED => Some(ShardProgress::Finished),
        text => {
            let sequence = text.strip_prefix(AFTER)?;
            Some(ShardProgress::After(sequence.to_owned()))
        }
    }
}

fn applied(row: &Row) -> Result<Applied, Unreadable> {
    let position = match row.get(EPOCH) {
        Some(_) => Some(Position::new(
            required(row, EPOCH)?,
            required(row, SEQUENCE)?,
        )),
        None => None,
    };
    Ok(Applied {
        position,
        version: row.get(VERSION).and_then(as_text).map(Version::from_text),
    })
}

/// The checkpoint's row.
pub(crate) fn checkpoint_row(checkpoint: &Checkpoint) -> Row {
    let shards = checkpoint.shards.iter().map(|(shard, progress)| {
        let value = match progress {
            ShardProgress::Start => text(START),
            ShardProgress::Finished => text(FINISHED),
            ShardProgress::After(sequence) => text(format!("{AFTER}{sequence}")),
        };
        (shard.clone(), value)
    });
    Row::from([
        (LEASE_KEY.to_owned(), text(CHECKPOINT)),
        (EPOCH.to_owned(), text(&checkpoint.epoch)),
        (SHARDS.to_owned(), AttributeValue::M(shards.collect())),
    ])
}

/// The row of what was applied of an event.
pub(crate) fn applied_row(event_id: &EventId, applied: &Applied) -> Row {
    let mut row = Row::from([(LEASE_KEY.to_owned(), text(format!("{APPLIED}{event_id}")))]);
    if let Some(position) = &applied.position {
        row.insert(EPOCH.to_owned(), text(position.epoch()));
        row.insert(SEQUENCE.to_owned(), text(position.sequence()));
    }
    match &applied.version {
        Some(version) => row.insert(VERSION.to_owned(), text(version.as_str())),
        None => {
            let forgotten_at = since_epoch(SystemTime::now()) + ENDED_LIFETIME;
            row.insert(EXPIRES_AT.to_owned(), number(&forgotten_at.as_secs()))
        }
    };
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_and_what_was_applied_survive_being_written_and_read() {
        let checkpoint = Checkpoint {
            epoch: "2022-12-18T15:00:00".to_owned(),
            shards: [
                ("a", ShardProgress::Start),
                ("b", ShardProgress::After("123".to_owned())),
                ("c", ShardProgress::Finished),
            ]
            .map(|(shard, progress)| (shard.to_owned(), progress))
            .into(),
        };
        assert_eq!(
            from_row(&checkpoint_row(&checkpoint)),
            Ok(Entry::Checkpoint(checkpoint))
        );
        let event_id = EventId::new("final#1").unwrap();
        let version = Some(Version::from_text("0123456789abcdef"));
        let position = Some(Position::new("epoch", "17"));
        for (position, version) in [
            (position.clone(), None),
            (position, version.clone()),
            (None, version),
        ] {
            let applied = Applied { position, version };
            assert_eq!(
                from_row(&applied_row(&event_id, &applied)),
                Ok(Entry::Applied(event_id.clone(), applied))
            );
        }
    }

    #[test]
    fn what_somebody_else_wrote_into_the_table_is_unreadable() {
        let mut row = Row::from([(LEASE_KEY.to_owned(), text("other"))]);
        assert!(from_row(&row).is_err());
        row.insert(LEASE_KEY.to_owned(), text(LEADER));
        row.insert(OWNER.to_owned(), text("me"));
        row.insert(ADDRESS.to_owned(), text(""));
        assert!(from_row(&row).is_err());
        row.insert(COUNTER.to_owned(), number(&3));
        assert!(from_row(&row).is_ok());
        row.insert(LEASE_KEY.to_owned(), text(CHECKPOINT));
        row.insert(EPOCH.to_owned(), text("epoch"));
        let shards = AttributeValue::M([("a".to_owned(), text("sideways"))].into());
        row.insert(SHARDS.to_owned(), shards);
        assert!(from_row(&row).is_err());
    }
}
