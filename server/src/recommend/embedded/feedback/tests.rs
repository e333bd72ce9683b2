//! What a feedback file promises: what was written is read back, and nothing else is touched.

use std::{fs, path::PathBuf};

use touchline_store::{
    event::Context,
    ids::{ConsumerId, ItemId},
};

use super::*;

fn tap(interaction_id: &str, consumer_id: &str) -> Interaction {
    let context = [("MATCH_EVENT", "a \"goal\",\nat last"), ("OTHER", "1")];
    Interaction {
        interaction_id: interaction_id.to_owned(),
        consumer_id: ConsumerId::new(consumer_id).unwrap(),
        item_id: ItemId::new("ITEM_ID_1").unwrap(),
        event_type: "tap".to_owned(),
        timestamp_seconds: 1_671_375_600,
        event_id: None,
        context: context
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        recommendation_id: None,
    }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("feedback.csv");
    (folder, path)
}

const ALL: Kept = Kept {
    rows: u64::MAX / 4,
    bytes: KEPT_BYTES_MAX,
};

fn open(path: &Path) -> (FeedbackFile, Vec<Row>, u64) {
    let mut rows = Vec::new();
    let opened = FeedbackFile::open(path, ALL, |row| rows.push(row)).unwrap();
    assert_eq!(opened.passed_over, 0);
    assert_eq!(opened.file.rows, rows.len() as u64);
    (opened.file, rows, opened.cut_bytes)
}

fn refusal(path: &Path) -> InteractionsError {
    FeedbackFile::open(path, ALL, |_| {}).unwrap_err()
}

#[test]
fn what_was_written_is_read_back_whatever_is_in_it() {
    let (_folder, path) = folder();
    let (mut file, rows, _) = open(&path);
    assert!(rows.is_empty());
    let odd = "two\nlines, \"quoted\" é";
    file.write(&[&tap("a", "7"), &tap("", odd)]).unwrap();
    drop(file);
    let (_, rows, cut) = open(&path);
    assert_eq!((rows.len(), cut), (2, 0));
    assert_eq!(rows[0].interaction_id, "a");
    assert_eq!(rows[1].consumer_id.as_str(), odd);
    assert_eq!(rows[1].context, tap("", odd).context);
}

#[test]
fn a_row_torn_anywhere_is_cut_off_and_the_others_stay() {
    let (_folder, path) = folder();
    let (mut file, ..) = open(&path);
    file.write(&[&tap("a", "7")]).unwrap();
    let whole = fs::read(&path).unwrap().len();
    file.write(&[&tap("b", "two\nlines\né")]).unwrap();
    drop(file);
    let content = fs::read(&path).unwrap();
    for end in 0..content.len() {
        fs::write(&path, &content[..end]).unwrap();
        let (mut file, rows, cut) = open(&path);
        let expected = usize::from(end >= whole);
        assert_eq!(rows.len(), expected, "torn after {end} bytes");
        let kept = [0, HEADER.len(), whole]
            .into_iter()
            .rfind(|kept| *kept <= end);
        assert_eq!(cut, (end - kept.unwrap()) as u64, "torn after {end} bytes");
        file.write(&[&tap("c", "8")]).unwrap();
        drop(file);
        assert_eq!(open(&path).1.len(), expected + 1, "torn after {end} bytes");
    }
}

#[test]
fn a_file_that_is_something_else_is_refused_and_left_alone() {
    let (_folder, path) = folder();
    for content in ["a key without an end", "USER_ID,ITEM_ID\n1,2\n", "\n\n"] {
        fs::write(&path, content).unwrap();
        let error = refusal(&path).to_string();
        assert!(
            error.contains("line 1: is no feedback file's header"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn a_bad_row_in_the_middle_is_refused_and_nothing_is_cut() {
    let (_folder, path) = folder();
    for bad in ["a,7,I,soon,tap,{}\n", "a,7\na,7,I,1,tap,{}\n"] {
        let content = HEADER.to_owned() + bad;
        fs::write(&path, &content).unwrap();
        let error = refusal(&path).to_string();
        assert!(error.contains("line 2"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn two_cannot_keep_feedback_in_one_file() {
    let (_folder, path) = folder();
    let _first = open(&path);
    let error = refusal(&path);
    assert!(error.to_string().contains("cannot be locked"), "{error}");
}

#[test]
fn one_file_that_has_two_names_is_kept_once_and_stays_behind_its_link() {
    let (folder, path) = folder();
    let link = folder.path().join("link.csv");
    let (file, ..) = open(&path);
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let error = refusal(&link);
    assert!(error.to_string().contains("cannot be locked"), "{error}");
    drop(file);
    let (file, ..) = open(&link);
    assert_eq!(file.path, path.canonicalize().unwrap());
}

#[test]
fn a_row_that_could_not_be_read_again_is_not_written_nor_is_any_beside_it() {
    let (_folder, path) = folder();
    let (mut file, ..) = open(&path);
    let mut long = tap("a", "7");
    long.context
        .insert("LONG".to_owned(), "\"".repeat(ROW_BYTES_MAX / 3));
    let error = file.write(&[&tap("b", "7"), &long]).unwrap_err();
    assert!(matches!(error, WriteError::TooLong { .. }), "{error}");
    long.context
        .insert("LONG".to_owned(), "x".repeat(ROW_BYTES_MAX - 200));
    file.write(&[&long]).unwrap();
    drop(file);
    assert_eq!(open(&path).1.len(), 1);
}

#[test]
fn only_the_newest_are_handed_out_and_the_older_ones_are_counted() {
    let (_folder, path) = folder();
    let (mut file, ..) = open(&path);
    for id in ["a", "b", "c"] {
        file.write(&[&tap(id, "two\nlines")]).unwrap();
    }
    let row_bytes = (file.length - HEADER.len() as u64) / 3;
    drop(file);
    let by_rows = Kept { rows: 2, ..ALL };
    let by_bytes = Kept {
        bytes: 2 * row_bytes,
        ..ALL
    };
    for kept in [by_rows, by_bytes] {
        let mut ids = Vec::new();
        let learn = |row: Row| ids.push(row.interaction_id);
        let opened = FeedbackFile::open(&path, kept, learn).unwrap();
        assert_eq!(
            (opened.passed_over, ids),
            (1, vec!["b".to_owned(), "c".to_owned()])
        );
    }
}

#[test]
fn a_full_file_takes_nothing_more_and_stays_whole() {
    let (_folder, path) = folder();
    let (mut file, ..) = open(&path);
    file.fill_up();
    let before = fs::read(&path).unwrap();
    let error = file.write(&[&tap("a", "7")]).unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_context_survives_as_it_was() {
    let context: Context = tap("a", "7").context;
    let text = serde_json::to_string(&context).unwrap();
    assert!(!text.contains('\n'), "the last column holds no line break");
}
