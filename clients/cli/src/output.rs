//! Writing to the terminal. Colour is for terminals only, and never where NO_COLOR is set; nothing
//! is said by colour alone.

use std::{
    fmt::{self, Display},
    io::{IsTerminal, Write},
};

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressState, ProgressStyle};

use crate::Error;

/// Less important than what stands beside it.
pub const FAINT: Style = Style::new().dimmed();
/// A name.
pub const STRONG: Style = Style::new().bold();
/// Something new.
pub const NEW: Style = AnsiColor::Green.on_default();
/// The moment of a goal.
pub const LOUD: Style = AnsiColor::Yellow.on_default().bold();

/// Text in a style.
pub fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// One line on standard output.
pub fn line(text: impl Display) -> Result<(), Error> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// One line on standard error, for what is not the answer: progress, warnings. That it cannot be
/// written stops nothing.
pub fn note(text: impl Display) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Whether progress bars have somebody to look at them.
pub fn has_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// A bar that counts `what`.
pub fn progress_style(what: &str) -> ProgressStyle {
    ProgressStyle::with_template(&format!("{{wide_bar}} {{pos}}/{{len}} {what}"))
        .expect("the template is a constant but for a word; a test makes it")
}

/// The same, with how fast it is and how long it still takes.
pub fn timed_progress_style(what: &str) -> ProgressStyle {
    ProgressStyle::with_template(&format!(
        "{{wide_bar}} {{human_pos}}/{{human_len}} {what}  {{rate}}  {{eta}} left"
    ))
    .expect("the template is a constant but for a word; a test makes it")
    .with_key(
        "rate",
        |state: &ProgressState, text: &mut dyn fmt::Write| {
            // A bar that cannot be written stops nothing.
            let _ = write!(text, "{:.0}/s", state.per_sec());
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_can_be_made() {
        for what in ["items", "moments"] {
            progress_style(what);
            timed_progress_style(what);
        }
    }
}
