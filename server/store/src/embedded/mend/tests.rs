//! Notices when dynoxide's private schema changes, and that what mends it is used.

use dynoxide::Database;
use rusqlite::{Connection, params};
use serde_json::json;

use super::*;

const SMALL: Retention = Retention {
    records_max: 10,
    age_seconds_max: 60,
};

/// A database with a table that has a stream, and a connection of our own to it.
fn database(name: &str, retention: Option<Retention>) -> (Database, Connection) {
    let name = format!("file:mend-{name}?mode=memory&cache=shared");
    let database = Database::new(&name).unwrap();
    if let Some(retention) = retention {
        stream_records(&name, retention).unwrap();
    }
    for table in ["events", "others"] {
        let request = json!({
            "TableName": table,
            "BillingMode": "PAY_PER_REQUEST",
            "KeySchema": [{ "AttributeName": "id", "KeyType": "HASH" }],
            "AttributeDefinitions": [{ "AttributeName": "id", "AttributeType": "S" }],
            "StreamSpecification": { "StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES" },
        });
        let request = serde_json::from_value(request).unwrap();
        database.create_table(request).unwrap();
    }
    (database, Connection::open(name).unwrap())
}

fn put(database: &Database, table: &str, number: usize) {
    let item = json!({ "id": { "S": "1" }, "number": { "N": number.to_string() } });
    let request = serde_json::from_value(json!({ "TableName": table, "Item": item })).unwrap();
    database.put_item(request).unwrap();
}

fn count(connection: &Connection, table: &str) -> usize {
    let sql = "SELECT COUNT(*) FROM _stream_records WHERE table_name = ?1";
    connection
        .query_row(sql, params![table], |row| row.get(0))
        .unwrap()
}

fn plan(connection: &Connection, sql: &str) -> String {
    let mut statement = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
        .unwrap();
    let rows = statement
        .query_map([], |row| row.get::<_, String>(3))
        .unwrap();
    rows.map(Result::unwrap).collect::<Vec<_>>().join("; ")
}

#[test]
fn the_private_schema_is_the_one_that_is_mended() {
    let (_database, connection) = database("schema", Some(SMALL));
    let mut columns = connection
        .prepare("SELECT name || ' ' || type FROM pragma_table_info('_stream_records')")
        .unwrap();
    let columns: Vec<String> = columns
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        columns,
        [
            "id INTEGER",
            "table_name TEXT",
            "event_name TEXT",
            "keys_json TEXT",
            "new_image TEXT",
            "old_image TEXT",
            "sequence_number TEXT",
            "shard_id TEXT",
            "created_at INTEGER",
            "user_identity TEXT",
            "event_id TEXT",
        ]
    );
}

/// What dynoxide asks on each write and on each read of the stream: the newest sequence number, a
/// shard's range, the records after one.
const NEWEST: &str =
    "SELECT MAX(CAST(sequence_number AS INTEGER)) FROM _stream_records WHERE table_name = 't'";
const AFTER: &str = "SELECT * FROM _stream_records
     WHERE table_name = 't' AND shard_id = 's' AND CAST(sequence_number AS INTEGER) > 7
     ORDER BY CAST(sequence_number AS INTEGER) ASC LIMIT 1000";

#[test]
fn writes_and_reads_of_the_stream_find_their_place_by_an_index() {
    let (_database, connection) = database("plan", Some(SMALL));
    let newest = plan(&connection, NEWEST);
    assert!(
        newest.contains("touchline_stream_newest (table_name=?)"),
        "{newest}"
    );
    let after = plan(&connection, AFTER);
    let place = "touchline_stream_after (table_name=? AND shard_id=? AND <expr>>?)";
    assert!(after.contains(place), "{after}");
    assert!(!after.contains("TEMP B-TREE"), "{after}");
    let trimmed = "DELETE FROM _stream_records WHERE table_name = 't' AND id <= 7";
    let trimmed = plan(&connection, trimmed);
    assert!(trimmed.contains("(table_name=? AND id<?)"), "{trimmed}");
    let (_database, connection) = database("unmended", None);
    let newest = plan(&connection, NEWEST);
    assert!(
        !newest.contains("INDEX"),
        "dynoxide has an index now: {newest}"
    );
}

#[test]
fn a_table_keeps_its_newest_records_and_leaves_the_others_theirs() {
    let (database, connection) = database("count", Some(SMALL));
    put(&database, "others", 0);
    for number in 0..100 {
        put(&database, "events", number);
    }
    assert_eq!(count(&connection, "events"), 10);
    assert_eq!(count(&connection, "others"), 1);
    let newest: String = connection
        .query_row(
            "SELECT new_image FROM _stream_records ORDER BY id DESC LIMIT 1",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert!(newest.contains(r#""99""#), "{newest}");
}

#[test]
fn records_past_their_age_go_with_the_next_write() {
    let (database, connection) = database("age", Some(SMALL));
    for number in 0..5 {
        put(&database, "events", number);
    }
    let sql = "UPDATE _stream_records SET created_at = created_at - 61 WHERE id <= 3";
    connection.execute(sql, []).unwrap();
    put(&database, "events", 5);
    assert_eq!(count(&connection, "events"), 3);
}

#[test]
fn mending_again_replaces_the_retention() {
    let (database, connection) = database("again", Some(SMALL));
    let larger = Retention {
        records_max: 20,
        ..SMALL
    };
    stream_records("file:mend-again?mode=memory&cache=shared", larger).unwrap();
    for number in 0..100 {
        put(&database, "events", number);
    }
    assert_eq!(count(&connection, "events"), 20);
}
