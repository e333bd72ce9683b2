//! docs/metrics.md says what the processes show, since it is made from what they register.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, Result};
use touchline_runtime::metrics::{Description, Registry};

/// The prose above this line is written by hand.
const MARK: &str = "<!-- What follows is made from the code: \
    TOUCHLINE_WRITE_DOCS=1 cargo test -p touchline-tests --test metrics_doc -->";

#[test]
fn the_document_says_what_the_processes_show() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let written = fs::read_to_string(&path)?;
    let (prose, _) = written
        .split_once(MARK)
        .with_context(|| format!("{} has no line {MARK}", path.display()))?;
    let (_, server) = touchline_server::metrics::Metrics::new();
    let (_, push) = touchline_push::metrics::Metrics::new();
    let mut document = format!("{prose}{MARK}\n");
    for (title, registry) in [
        ("The server, port 9090", server),
        ("The push adapter, port 9091", push),
    ] {
        section(&mut document, title, &registry)?;
    }
    if std::env::var_os("TOUCHLINE_WRITE_DOCS").is_some() {
        fs::write(&path, document)?;
        return Ok(());
    }
    // A difference is shown whole: the command to mend it stands in the document.
    assert_eq!(written, document);
    Ok(())
}

fn section(document: &mut String, title: &str, registry: &Registry) -> Result<()> {
    write!(document, "\n## {title}\n\n")?;
    document.push_str("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for Description {
        name,
        kind,
        help,
        labels,
    } in registry.described()
    {
        let labels: Vec<_> = labels
            .iter()
            .map(|label| match label.values.is_empty() {
                true => format!("`{}`", label.name),
                false => format!("`{}`: {}", label.name, label.values.join(", ")),
            })
            .collect();
        let labels = labels.join("; ");
        writeln!(document, "| `{name}` | {kind} | {labels} | {help} |")?;
    }
    Ok(())
}

#[test]
fn no_label_names_a_person_a_connection_or_an_event() {
    let (_, server) = touchline_server::metrics::Metrics::new();
    let (_, push) = touchline_push::metrics::Metrics::new();
    let allowed = [
        "code",
        "freshness",
        "method",
        "origin",
        "outcome",
        "priority",
        "protocol",
        "reason",
        "result",
        "route",
    ];
    for described in [server, push].iter().flat_map(Registry::described) {
        for label in &described.labels {
            assert!(allowed.contains(&label.name), "{described:?}");
        }
    }
}
