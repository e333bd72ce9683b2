//! Mends dynoxide's stream: each write looks up the newest sequence number and each read the records
//! after one, both without an index, and nothing trims what was read. Touches no other table.
//!
//! Indexes and a trigger, made through a connection of our own before anybody is served, live in
//! dynoxide's private schema. The trigger trims inside the very write that adds a record, so no
//! second writer ever meets a lock.

use rusqlite::Connection;

/// How much of each table's stream is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retention {
    /// Newest records that are kept.
    pub(super) records_max: u32,
    /// Records older than this go as well; AWS keeps 24 hours.
    pub(super) age_seconds_max: u32,
}

/// 24 hours as on AWS, and no more than some 50 MB.
pub(super) const RETENTION: Retention = Retention {
    records_max: 50_000,
    age_seconds_max: 24 * 60 * 60,
};

/// Makes indexes and trigger in the database of this name, where they are not there yet.
///
/// Of each table the newest record always stays: its sequence number is what the next one follows.
pub(super) fn stream_records(name: &str, retention: Retention) -> rusqlite::Result<()> {
    let Retention {
        records_max,
        age_seconds_max,
    } = retention;
    Connection::open(name)?.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         CREATE INDEX IF NOT EXISTS touchline_stream_newest
             ON _stream_records (table_name, CAST(sequence_number AS INTEGER));
         CREATE INDEX IF NOT EXISTS touchline_stream_after
             ON _stream_records (table_name, shard_id, CAST(sequence_number AS INTEGER));
         CREATE INDEX IF NOT EXISTS touchline_stream_age
             ON _stream_records (table_name, id, created_at);
         DROP TRIGGER IF EXISTS touchline_stream_trim;
         CREATE TRIGGER touchline_stream_trim AFTER INSERT ON _stream_records
         BEGIN
             DELETE FROM _stream_records
             WHERE table_name = NEW.table_name AND id <= NEW.id - {records_max};
             DELETE FROM _stream_records
             WHERE table_name = NEW.table_name AND id < NEW.id
               AND id < (SELECT MIN(id) FROM _stream_records
                         WHERE table_name = NEW.table_name
                           AND created_at >= NEW.created_at - {age_seconds_max});
         END;
         COMMIT;"
    ))
}

#[cfg(test)]
mod tests;
