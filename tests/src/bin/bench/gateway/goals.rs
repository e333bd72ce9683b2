//! The figures that have a bar and an aim, beside both. Asserts nothing: a busy machine says little.

use crate::figures::Figure;

/// Figure, what of it counts, bar and aim.
const GOALS: [(&str, &str, Of, &str, &str); 9] = [
    ("broadcast", "broadcast", Of::Ratio, "≥ 0.95", "1.20"),
    (
        "personalised_push",
        "personalised_push",
        Of::Ratio,
        "≥ 0.65",
        "0.90",
    ),
    (
        "change_to_last_ratio",
        "change_to_last, p99",
        Of::Ratio,
        "≤ 1.5",
        "1.2",
    ),
    (
        "change_to_last_ms",
        "change_to_last, p99",
        Of::Value,
        "≤ 500 ms",
        "300 ms",
    ),
    (
        "rss_idle_connection",
        "rss_idle_connection",
        Of::Value,
        "≤ 10 KB",
        "6 KB",
    ),
    (
        "idle_cpu_connection",
        "idle_cpu_connection",
        Of::Value,
        "≤ 3 µs/s",
        "1.5 µs/s",
    ),
    (
        "stalled_readers",
        "stalled_readers",
        Of::Ratio,
        "≤ 1.25",
        "1.05",
    ),
    (
        "reconnect_herd",
        "reconnect_herd",
        Of::Value,
        "≤ 10000 ms",
        "4000 ms",
    ),
    ("growth", "growth", Of::Ratio, "≤ 1.15", "1.00"),
];

/// What of a figure counts.
#[derive(Debug, Clone, Copy)]
enum Of {
    Value,
    Ratio,
}

/// A table, of those that were measured.
pub(super) fn goals(figures: &[Figure]) -> String {
    let mut table = "| figure | measured | bar | aim |\n| - | - | - | - |\n".to_owned();
    for (name, of, what, bar, aim) in GOALS {
        let Some(figure) = figures.iter().find(|figure| figure.name() == of) else {
            continue;
        };
        let measured = match what {
            Of::Value => figure.value(),
            Of::Ratio => figure.ratio().unwrap_or_default(),
        };
        table += &format!("| {name} | {measured} | {bar} | {aim} |\n");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_stands_beside_its_bar() {
        let figures = [
            Figure::one("growth", 11.0, "µs/push", 4).against(10.0),
            Figure::one("rss_idle_connection", 8.0, "KB", 9),
        ];
        assert_eq!(
            goals(&figures),
            "| figure | measured | bar | aim |\n| - | - | - | - |\n\
             | rss_idle_connection | 8.00 KB | ≤ 10 KB | 6 KB |\n\
             | growth | 1.10 | ≤ 1.15 | 1.00 |\n"
        );
    }
}
