//! How warming looks: how far it is, and what became of it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::ProgressBar;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    Error, output, show,
    warm::{End, Tally},
};

/// Without a terminal, how often a line says how far it is.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// What became of it.
pub(super) fn summary(
    is_json: bool,
    questions: u64,
    tally: &Tally,
    end: &End,
    took: Duration,
) -> Result<(), Error> {
    let not_asked = questions - tally.warmed() - tally.failed();
    if is_json {
        return output::line(json!({
            "type": "warmed",
            "questions": questions,
            "asked": tally.asked,
            "cached": tally.cached,
            "failed": tally.failed,
            "not_asked": not_asked,
            "took_seconds": took.as_secs_f64(),
            "end": match end {
                End::Done => "done",
                End::Interrupted => "interrupted",
                End::TimeOver => "time_over",
                End::GaveUp(_) => "gave_up",
            },
        }));
    }
    output::line(format_args!(
        "{} of {} warmed in {}: {} asked for, {} cached already",
        count(tally.warmed()),
        count(questions),
        time(took),
        count(tally.asked),
        count(tally.cached)
    ))?;
    for (reason, failed) in &tally.failed {
        let reason = show::printable(reason);
        output::line(format_args!("  {} not warmed: {reason}", count(*failed)))?;
    }
    if not_asked > 0 {
        output::line(format_args!("  {} left", count(not_asked)))?;
    }
    Ok(())
}

/// How far it is: a bar, or where nobody looks at bars a line from time to time.
pub(super) struct Shown {
    pub(super) bar: ProgressBar,
    questions: u64,
    began: Instant,
    /// When a line is due; `None` with a bar.
    due: Option<Mutex<Instant>>,
}

impl Shown {
    pub(super) fn new(questions: u64) -> Self {
        let began = Instant::now();
        let (bar, due) = match output::has_terminal() {
            true => {
                let bar = ProgressBar::new(questions);
                (
                    bar.with_style(output::timed_progress_style("rankings")),
                    None,
                )
            }
            false => (ProgressBar::hidden(), Some(Mutex::new(began + LINE_PAUSE))),
        };
        Self {
            bar,
            questions,
            began,
            due,
        }
    }

    pub(super) fn show(&self, tally: &Tally) {
        let done = tally.warmed() + tally.failed();
        self.bar.set_position(done);
        let Some(due) = &self.due else {
            return;
        };
        let now = Instant::now();
        let mut due = due.lock().unwrap_or_else(PoisonError::into_inner);
        if now < *due {
            return;
        }
        *due = now + LINE_PAUSE;
        let seconds = (now - self.began).as_secs_f64();
        let rate = done as f64 / seconds;
        let left = Duration::try_from_secs_f64((self.questions - done) as f64 / rate);
        let left = left.map_or_else(|_| "no telling how long".to_owned(), time);
        output::note(format_args!(
            "{} of {} rankings, {} a second, {left} left, {} not warmed",
            count(done),
            count(self.questions),
            count(rate.round() as u64),
            count(tally.failed())
        ));
    }
}

/// A number as people read it.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things.
pub(super) fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", count(number as u64))
}

/// A time as people say it: whole seconds, and nothing below one.
pub(super) fn time(time: Duration) -> String {
    match time.as_secs() {
        0 => "a second".to_owned(),
        seconds => humantime::format_duration(Duration::from_secs(seconds)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_read_as_people_write_them() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(time(Duration::from_millis(61_900)), "1m 1s");
        assert_eq!(time(Duration::from_millis(20)), "a second");
        assert_eq!(counted(1, "replica"), "1 replica");
    }
}
