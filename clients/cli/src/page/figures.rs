//! Figures of the delivery, from the fan-outs that finished. Pure: it is told what time it is.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde::Serialize;
use touchline_push::Round;

/// The time over which pushes are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// Fan-outs that are remembered: a hundred a second for the whole window.
const ROUNDS_MAX: usize = 1_000;

/// What the page shows.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(super) struct Figures {
    /// Fans who are connected.
    pub(super) fans: usize,
    /// Messages a second over the last ten.
    pub(super) pushes_per_second: f64,
    /// From the change to the last socket, for the last change; in milliseconds.
    pub(super) change_to_last_ms: Option<f64>,
}

/// The fan-outs of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Counted {
    rounds: VecDeque<(Instant, usize)>,
    change_to_last_ms: Option<f64>,
}

impl Counted {
    /// A fan-out finished.
    pub(super) fn round(&mut self, round: &Round, now: Instant) {
        if self.rounds.len() == ROUNDS_MAX {
            self.rounds.pop_front();
        }
        self.rounds.push_back((now, round.pushed));
        if !round.superseded {
            self.change_to_last_ms = Some(round.change_to_last.as_secs_f64() * 1_000.0);
        }
    }

    /// The figures now.
    pub(super) fn figures(&mut self, fans: usize, now: Instant) -> Figures {
        while self
            .rounds
            .front()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW)
        {
            self.rounds.pop_front();
        }
        let pushed: usize = self.rounds.iter().map(|(_, pushed)| pushed).sum();
        Figures {
            pushes_per_second: pushed as f64 / WINDOW.as_secs_f64(),
            fans,
            change_to_last_ms: self.change_to_last_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use touchline_store::{event::Version, ids::EventId};

    use super::*;

    fn round(pushed: usize, superseded: bool) -> Round {
        Round {
            event_id: EventId::new("1").unwrap(),
            version: Version::from_text("a"),
            position: None,
            audience: pushed,
            pushed,
            gone: 0,
            failed: 0,
            superseded,
            change_to_last: Duration::from_millis(12),
        }
    }

    #[test]
    fn pushes_of_the_last_ten_seconds_count() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut counted = Counted::default();
        assert_eq!(counted.figures(0, at(0)), Figures::default());
        counted.round(&round(6, false), at(0));
        counted.round(&round(4, false), at(5));
        assert_eq!(counted.figures(6, at(9)).pushes_per_second, 1.0);
        assert_eq!(counted.figures(6, at(11)).pushes_per_second, 0.4);
        assert_eq!(counted.figures(6, at(60)).pushes_per_second, 0.0);
    }

    #[test]
    fn a_fan_out_that_was_overtaken_is_no_measure_of_the_last() {
        let mut counted = Counted::default();
        counted.round(&round(4, true), Instant::now());
        assert_eq!(counted.figures(0, Instant::now()).change_to_last_ms, None);
        counted.round(&round(4, false), Instant::now());
        assert_eq!(
            counted.figures(0, Instant::now()).change_to_last_ms,
            Some(12.0)
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut counted = Counted::default();
        for _ in 0..ROUNDS_MAX + 10 {
            counted.round(&round(1, false), Instant::now());
        }
        assert_eq!(counted.rounds.len(), ROUNDS_MAX);
    }
}
