//! What a process counts and measures, by name. Each metric is made once and handed to the part that
//! moves it, each value of a label with it: nothing is looked up while work is done. Serves nothing;
//! that is [`observe`](crate::observe)'s.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

pub use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, prometheus_text, text},
    metrics::{MetricType, TypedMetric, family::Family},
    registry::{Metric, Unit},
};

/// A gauge that holds seconds.
pub type Seconds = Gauge<f64, AtomicU64>;

/// Labels and their values.
type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];

/// The metrics of one process. Names are given without the process's prefix, without their unit and
/// without `_total`: these are added. Help is a sentence without its full stop.
#[derive(Debug)]
pub struct Registry {
    prefix: &'static str,
    registered: prometheus_client::registry::Registry,
    described: Vec<Description>,
}

/// What is said of a metric, for whoever reads of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its whole name.
    pub name: String,
    /// Counter, gauge or histogram.
    pub kind: String,
    /// What it says.
    pub help: String,
    /// What it is told apart by.
    pub labels: Vec<Label>,
}

/// A label of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its values, if all are known from the beginning.
    pub values: Vec<Cow<'static, str>>,
}

impl Registry {
    /// Without metrics. All names will begin with `prefix` and an underscore.
    pub fn new(prefix: &'static str) -> Self {
        Self {
            prefix,
            registered: prometheus_client::registry::Registry::with_prefix(prefix),
            described: Vec::new(),
        }
    }

    /// Something that is counted.
    pub fn counter(&mut self, name: &str, help: &str) -> Counter {
        self.keep(name, help, [], Counter::default())
    }

    /// Something that is counted apart by the values of a label.
    pub fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: [&'static str; N],
    ) -> [Counter; N] {
        self.family(name, help, label, values)
    }

    /// Something that is counted apart by two labels, whose pairs of values are not all known.
    pub fn pairs(&mut self, name: &str, help: &str, labels: [&'static str; 2]) -> Pairs {
        let described = labels.map(|name| Label {
            name,
            values: Vec::new(),
        });
        let family = self.keep(name, help, described, Family::default());
        Pairs { family, labels }
    }

    /// Something that is counted apart by two labels, each pair of whose values is known.
    pub fn table<const N: usize, const M: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: (&'static str, [&'static str; N]),
        columns: (&'static str, [&'static str; M]),
    ) -> [[Counter; M]; N] {
        let described = [(rows.0, &rows.1[..]), (columns.0, &columns.1[..])];
        let described = described.map(|(name, values)| Label {
            name,
            values: values.iter().copied().map(Cow::from).collect(),
        });
        let family = self.keep(
            name,
            help,
            described,
            Family::<Labels<2>, Counter>::default(),
        );
        rows.1.map(|row| {
            columns.1.map(|column| {
                family.get_or_create_owned(&[(rows.0, row.into()), (columns.0, column.into())])
            })
        })
    }

    /// A number that rises and falls.
    pub fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        self.keep(name, help, [], Gauge::default())
    }

    /// A number for each value of a label.
    pub fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: [&'static str; N],
    ) -> [Gauge; N] {
        self.family(name, help, label, values)
    }

    /// A time that rises and falls, in seconds.
    pub fn seconds(&mut self, name: &str, help: &str) -> Seconds {
        self.keep_seconds(name, help, [], Seconds::default())
    }

    /// The time since something last happened, in seconds.
    pub fn age(&mut self, name: &str, help: &str) -> Age {
        self.keep_seconds(name, help, [], Age::default())
    }

    /// How long something takes, in seconds: counted by the upper bounds of its buckets.
    pub fn histogram(&mut self, name: &str, help: &str, bounds: &'static [f64]) -> Histogram {
        let histogram = Histogram::new(bounds.iter().copied());
        self.keep_seconds(name, help, [], histogram)
    }

    /// The same, apart by the values of a label.
    pub fn histograms<V: Into<Cow<'static, str>>>(
        &mut self,
        name: &str,
        help: &str,
        bounds: &'static [f64],
        label: &'static str,
        values: impl IntoIterator<Item = V>,
    ) -> Vec<Histogram> {
        let made = move || Histogram::new(bounds.iter().copied());
        let family = Family::<Labels<1>, Histogram, _>::new_with_constructor(made);
        let values: Vec<Cow<'static, str>> = values.into_iter().map(Into::into).collect();
        let histograms = values
            .iter()
            .map(|value| family.get_or_create_owned(&[(label, value.clone())]))
            .collect();
        let label = Label {
            name: label,
            values,
        };
        self.keep_seconds(name, help, [label], family);
        histograms
    }

    /// As OpenMetrics text, version 1.0.0.
    pub fn open_metrics(&self) -> String {
        encoded(|text| text::encode(text, &self.registered))
    }

    /// As Prometheus's text format, version 0.0.4.
    pub fn prometheus_text(&self) -> String {
        encoded(|text| prometheus_text::encode(text, &self.registered))
    }

    /// What can be shown, in the order in which it was registered.
    pub fn described(&self) -> &[Description] {
        &self.described
    }

    fn family<M, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: [&'static str; N],
    ) -> [M; N]
    where
        M: Metric + TypedMetric + Clone + Default,
    {
        let described = Label {
            name: label,
            values: values.map(Cow::from).to_vec(),
        };
        let family = self.keep(name, help, [described], Family::<Labels<1>, M>::default());
        values.map(|value| family.get_or_create_owned(&[(label, value.into())]))
    }

    fn keep<M: Metric + Clone, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [Label; N],
        metric: M,
    ) -> M {
        self.registered.register(name, help, metric.clone());
        self.describe(name, help, labels, &metric);
        metric
    }

    fn keep_seconds<M: Metric + Clone, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [Label; N],
        metric: M,
    ) -> M {
        let (unit, kept) = (Unit::Seconds, metric.clone());
        self.registered.register_with_unit(name, help, unit, kept);
        self.describe(&format!("{name}_seconds"), help, labels, &metric);
        metric
    }

    fn describe<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [Label; N],
        metric: &impl EncodeMetric,
    ) {
        let kind = metric.metric_type();
        let total = if kind == MetricType::Counter {
            "_total"
        } else {
            ""
        };
        self.described.push(Description {
            name: format!("{}_{name}{total}", self.prefix),
            kind: kind.as_str().to_owned(),
            help: help.to_owned(),
            labels: labels.into(),
        });
    }
}

fn encoded(encode: impl FnOnce(&mut String) -> fmt::Result) -> String {
    let mut text = String::new();
    encode(&mut text).expect("writing to a string cannot fail");
    text
}

/// Counters by two labels.
#[derive(Debug, Clone)]
pub struct Pairs {
    family: Family<Labels<2>, Counter>,
    labels: [&'static str; 2],
}

impl Pairs {
    /// The counter of two values; to be kept rather than asked for again. The values come from what
    /// is known at compile time, never from a caller, or there is no end to them.
    pub fn of(&self, first: Cow<'static, str>, second: &'static str) -> Counter {
        let labels = [(self.labels[0], first), (self.labels[1], second.into())];
        self.family.get_or_create_owned(&labels)
    }
}

/// The time since something last happened, as it is when it is looked at. Not shown before it first
/// happens.
#[derive(Debug, Clone, Default)]
pub struct Age(Arc<Mutex<Option<Instant>>>);

impl Age {
    /// It happens now.
    pub fn begin(&self) {
        self.set(Some(Instant::now()));
    }

    /// It does not happen here any more: there is nothing to show.
    pub fn end(&self) {
        self.set(None);
    }

    /// How long ago it last happened; `None` where it has not.
    pub fn elapsed(&self) -> Option<Duration> {
        self.since().map(|since| since.elapsed())
    }

    fn set(&self, at: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EncodeMetric for Age {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self.elapsed() {
            Some(elapsed) => encoder.encode_gauge(&elapsed.as_secs_f64()),
            None => Ok(()),
        }
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        self.since().is_none()
    }
}

/// Counts in a gauge for as long as it is held.
#[derive(Debug)]
pub struct Held(Gauge);

impl Held {
    /// One more from now on.
    pub fn in_gauge(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }

    /// Counts there instead.
    pub fn move_to(&mut self, gauge: &Gauge) {
        *self = Self::in_gauge(gauge);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_a_label_is_shown_from_the_beginning() {
        let mut registry = Registry::new("touchline_test");
        let [tea, coffee] = registry.counters("cups", "Cups", "drink", ["tea", "coffee"]);
        tea.inc();
        coffee.inc_by(2);
        registry.counters("plates", "Plates", "dish", ["soup"]);
        let text = registry.open_metrics();
        for line in [
            "# TYPE touchline_test_cups counter",
            "touchline_test_cups_total{drink=\"tea\"} 1",
            "touchline_test_cups_total{drink=\"coffee\"} 2",
            "touchline_test_plates_total{dish=\"soup\"} 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line} in {text}");
        }
    }

    #[test]
    fn what_is_said_of_a_metric_is_what_is_shown_of_it() {
        let mut registry = Registry::new("touchline_test");
        registry.counters("cups", "Cups", "drink", ["tea", "coffee"]);
        registry.histograms("brew", "Brewing", &[1.0], "drink", ["tea"]);
        registry.gauge("guests", "Guests");
        let text = registry.prometheus_text();
        let said: Vec<_> = registry
            .described()
            .iter()
            .map(|said| format!("# TYPE {} {}", said.name, said.kind))
            .collect();
        let shown: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("# TYPE"))
            .collect();
        assert_eq!(shown, said);
        let drinks = &registry.described()[0].labels[0];
        assert_eq!((drinks.name, drinks.values.len()), ("drink", 2));
    }

    #[test]
    fn an_age_is_shown_from_when_it_begins_until_it_ends() {
        let mut registry = Registry::new("touchline_test");
        let age = registry.age("last_tea", "Time since the last tea");
        let shown = |registry: &Registry| registry.prometheus_text().contains("last_tea_seconds ");
        assert!(!shown(&registry));
        age.begin();
        assert!(shown(&registry));
        age.end();
        assert!(!shown(&registry));
    }

    #[test]
    fn what_is_held_counts_until_it_is_dropped() {
        let gauge = Registry::new("touchline_test").gauge("guests", "Guests");
        let (first, second) = (Held::in_gauge(&gauge), Held::in_gauge(&gauge));
        assert_eq!(gauge.get(), 2);
        drop((first, second));
        assert_eq!(gauge.get(), 0);
    }
}
