//! What a benchmark found: figures as a table for people and as JSON lines for machines. It
//! measures nothing itself.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

/// One figure beside what it is compared with.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    figure: String,
    value: f64,
    unit: &'static str,
    baseline: Option<f64>,
    /// Value over baseline.
    ratio: Option<f64>,
    min: f64,
    max: f64,
    n: u64,
}

impl Figure {
    /// The figure of a single measurement.
    pub(crate) fn one(figure: impl Into<String>, value: f64, unit: &'static str, n: u64) -> Self {
        Self {
            figure: figure.into(),
            value,
            unit,
            baseline: None,
            ratio: None,
            min: value,
            max: value,
            n,
        }
    }

    /// A quantile of latencies.
    pub(crate) fn quantile(name: &str, latencies: &Latencies, quantile: f64) -> Self {
        let percent = quantile * 100.0;
        Self {
            min: latencies.quantile_ms(0.0),
            max: latencies.quantile_ms(1.0),
            ..Self::one(
                format!("{name}, p{percent}"),
                latencies.quantile_ms(quantile),
                "ms",
                latencies.count(),
            )
        }
    }

    /// How it is called.
    pub(crate) fn name(&self) -> &str {
        &self.figure
    }

    /// The value with its unit, for a person to read.
    pub(crate) fn value(&self) -> String {
        format!("{} {}", short(self.value), self.unit)
    }

    /// Value over baseline, where there is one.
    pub(crate) fn ratio(&self) -> Option<String> {
        self.ratio.map(short)
    }

    /// Under a name of its own, rather than one that says the quantile.
    pub(crate) fn called(mut self, figure: impl Into<String>) -> Self {
        self.figure = figure.into();
        self
    }

    /// With the least and the most of several measurements, of which it is the sum or the mean.
    pub(crate) fn within(mut self, each: &[f64]) -> Self {
        self.min = each.iter().copied().fold(self.value, f64::min);
        self.max = each.iter().copied().fold(self.value, f64::max);
        self
    }

    /// Puts it beside a baseline in the same unit.
    pub(crate) fn against(mut self, baseline: f64) -> Self {
        self.baseline = Some(baseline);
        self.ratio = (baseline > 0.0).then(|| self.value / baseline);
        self
    }
}

/// Latencies of 1 µs to 5 minutes, to three digits.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, 300_000_000, 3);
        Self(histogram.expect("the bounds are in order and three digits are allowed"))
    }

    /// Adds one. What is out of bounds counts as the bound.
    pub(crate) fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros.max(1));
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that a share of them, 0 to 1, does not exceed.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        let micros = match quantile {
            0.0 => self.0.min(),
            _ => self.0.value_at_quantile(quantile),
        };
        micros as f64 / 1_000.0
    }
}

/// Prints figures as JSON, one object a line.
pub(crate) fn print_json(figures: &[Figure]) -> Result<()> {
    for figure in figures {
        println!("{}", serde_json::to_string(figure)?);
    }
    Ok(())
}

/// Figures as a table that is Markdown too.
pub(crate) fn table(figures: &[Figure]) -> String {
    let head = ["figure", "value", "min … max", "n", "baseline", "ratio"].map(str::to_owned);
    let rows: Vec<[String; 6]> = figures.iter().map(row).collect();
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let cells = rows.iter().chain([&head]);
        cells
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    });
    let rule = widths.map(|width| "-".repeat(width));
    let lines = [&head, &rule].into_iter().chain(&rows);
    lines.map(|cells| line(cells, &widths)).collect()
}

fn row(figure: &Figure) -> [String; 6] {
    let with_unit = |value: f64| format!("{} {}", short(value), figure.unit);
    [
        figure.figure.clone(),
        with_unit(figure.value),
        format!("{} … {}", short(figure.min), short(figure.max)),
        figure.n.to_string(),
        figure.baseline.map(with_unit).unwrap_or_default(),
        figure.ratio.map(short).unwrap_or_default(),
    ]
}

fn line(cells: &[String; 6], widths: &[usize; 6]) -> String {
    let cells = cells.iter().zip(widths);
    let cells: Vec<String> = cells
        .map(|(cell, width)| format!("{cell:width$}"))
        .collect();
    format!("| {} |\n", cells.join(" | "))
}

/// About three digits.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 0.1 => format!("{value:.4}"),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_latencies_recorded() {
        let mut latencies = Latencies::new();
        for milliseconds in 1..=100 {
            latencies.record(Duration::from_millis(milliseconds));
        }
        let p99 = Figure::quantile("change", &latencies, 0.99);
        assert!((p99.value - 99.0).abs() < 0.1, "{p99:?}");
        assert_eq!((p99.n, p99.figure.as_str()), (100, "change, p99"));
        let ratio = p99.against(990.0).ratio;
        assert!(ratio.is_some_and(|ratio| (ratio - 0.1).abs() < 0.001));
    }

    #[test]
    fn a_table_lines_up_its_columns() {
        let figures = [
            Figure::one("CPU a push", 202.0, "µs", 4_000),
            Figure::one("short", 0.5, "ms", 1).against(5.0),
        ];
        assert_eq!(
            table(&figures),
            "\
| figure     | value   | min … max   | n    | baseline | ratio |
| ---------- | ------- | ----------- | ---- | -------- | ----- |
| CPU a push | 202 µs  | 202 … 202   | 4000 |          |       |
| short      | 0.50 ms | 0.50 … 0.50 | 1    | 5.00 ms  | 0.10  |
"
        );
    }
}
