//! What slices of one server came to, and the figures of two servers beside each other.

use std::time::Duration;

use crate::figures::{Figure, Latencies};

/// What one slice came to.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    /// Answers that came.
    pub(crate) answers: u64,
    /// Processor time of the server process.
    pub(crate) cpu: Duration,
    /// From the slice's beginning to its end.
    pub(crate) wall: Duration,
    /// How long each answer, or each change, took.
    pub(crate) latencies: Vec<Duration>,
}

/// All slices of one server.
#[derive(Debug)]
pub(crate) struct Tally(Vec<Slice>);

impl Tally {
    /// None yet.
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// One more.
    pub(crate) fn add(&mut self, slice: Slice) {
        self.0.push(slice);
    }

    /// Answers for each second of the server's processor time; least and most of a slice beside it.
    pub(crate) fn a_cpu_second(
        &self,
        name: impl Into<String>,
        unit: &'static str,
        baseline: &Self,
    ) -> Figure {
        self.answers_by(|slice| slice.cpu, name.into(), unit, baseline)
    }

    /// Processor time of an answer, in microseconds; least and most of a slice beside it.
    pub(crate) fn cpu_an_answer_us(&self, name: impl Into<String>, baseline: &Self) -> Figure {
        let each = self
            .0
            .iter()
            .map(|slice| an_answer_us(slice.cpu, slice.answers));
        let each: Vec<f64> = each.collect();
        let answers = self.0.iter().map(|slice| slice.answers).sum();
        Figure::one(name, self.an_answer_us(), "µs", answers)
            .within(&each)
            .against(baseline.an_answer_us())
    }

    /// Processor time of an answer, in microseconds.
    pub(crate) fn an_answer_us(&self) -> f64 {
        let cpu = self.0.iter().map(|slice| slice.cpu).sum();
        an_answer_us(cpu, self.0.iter().map(|slice| slice.answers).sum())
    }

    /// Answers a second.
    pub(crate) fn a_second(
        &self,
        name: impl Into<String>,
        unit: &'static str,
        baseline: &Self,
    ) -> Figure {
        self.answers_by(|slice| slice.wall, name.into(), unit, baseline)
    }

    /// Half of the latencies, and all but one in a hundred.
    pub(crate) fn quantiles(&self, name: &str, baseline: &Self) -> [Figure; 2] {
        let (latencies, baseline) = (self.latencies(), baseline.latencies());
        [0.5, 0.99].map(|quantile| {
            Figure::quantile(name, &latencies, quantile).against(baseline.quantile_ms(quantile))
        })
    }

    fn answers_by(
        &self,
        time: fn(&Slice) -> Duration,
        name: String,
        unit: &'static str,
        baseline: &Self,
    ) -> Figure {
        let answers = self.0.iter().map(|slice| slice.answers).sum();
        let each = self.0.iter().map(|slice| rate(slice.answers, time(slice)));
        let each: Vec<f64> = each.collect();
        Figure::one(name, self.rate(time), unit, answers)
            .within(&each)
            .against(baseline.rate(time))
    }

    fn rate(&self, time: fn(&Slice) -> Duration) -> f64 {
        let answers = self.0.iter().map(|slice| slice.answers).sum();
        rate(answers, self.0.iter().map(time).sum())
    }

    /// How long each answer, or each change, took.
    pub(crate) fn latencies(&self) -> Latencies {
        let mut latencies = Latencies::new();
        for latency in self.0.iter().flat_map(|slice| &slice.latencies) {
            latencies.record(*latency);
        }
        latencies
    }
}

fn an_answer_us(cpu: Duration, answers: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / answers.max(1) as f64
}

fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(f64::EPSILON)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(cpu_ms: [u64; 2]) -> Tally {
        let slices = cpu_ms.map(|cpu_ms| Slice {
            answers: 1_000,
            cpu: Duration::from_millis(cpu_ms),
            wall: Duration::from_secs(1),
            latencies: Vec::new(),
        });
        Tally(slices.into())
    }

    #[test]
    fn the_ratio_is_the_baselines_time_of_an_answer_over_ones_own() {
        let baseline = tally([40, 40]);
        let figure = tally([30, 70]).a_cpu_second("calls", "calls/CPU s", &baseline);
        let figure = serde_json::to_value(figure).expect("a figure is JSON");
        assert_eq!(figure["value"], 20_000.0);
        assert_eq!(figure["ratio"], 0.8);
        assert_eq!(figure["n"], 2_000);
        let (min, max) = (&figure["min"], &figure["max"]);
        assert!(min.as_f64() < Some(20_000.0) && max.as_f64() > Some(20_000.0));
    }
}
