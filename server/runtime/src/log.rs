//! The log of a process: what is in it, which can be changed while it runs, and how it looks. It goes to
//! standard error and nowhere else, since standard output is for answers.

use std::{io::IsTerminal, sync::OnceLock};

use clap::ValueEnum;
pub use tracing_subscriber::EnvFilter;
use tracing_subscriber::{
    Layer, Registry, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

/// The filter of this process's log. A process has one log, whoever asks.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// What is logged, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// What is logged to standard error: a level, or a list such as info,touchline_store=debug
    #[arg(
        long,
        env = "TOUCHLINE_LOG",
        default_value = "info",
        value_parser = filter,
        value_name = "FILTER"
    )]
    pub log: EnvFilter,
    /// How it is logged
    #[arg(
        long,
        env = "TOUCHLINE_LOG_FORMAT",
        default_value = "text",
        value_enum,
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// A JSON object a line
    Json,
}

impl LogArgs {
    /// Begins the log. Once a process.
    pub fn begin(self) {
        begin(self.log, self.log_format);
    }
}

/// Begins the log. Once a process.
pub fn begin(filter: EnvFilter, format: LogFormat) {
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Json => lines.json().boxed(),
        // In colour, unless NO_COLOR is set.
        LogFormat::Text if std::io::stderr().is_terminal() => lines.boxed(),
        LogFormat::Text => lines.with_ansi(false).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    // A second log is refused by the line above.
    let _ = FILTER.set(handle);
}

/// What is logged at the moment; empty where no log was begun.
pub fn current() -> String {
    let shown = FILTER
        .get()
        .map(|filter| filter.with_current(EnvFilter::to_string));
    shown.and_then(Result::ok).unwrap_or_default()
}

/// Changes what is logged, from now on and until the process ends, as [`LogArgs::log`] says it.
///
/// # Errors
/// What is no filter, with what would be accepted; or that no log was begun.
pub fn change(text: &str) -> Result<(), String> {
    let filter = filter(text)?;
    let log = FILTER.get().ok_or("this process has no log")?;
    log.reload(filter).map_err(|error| error.to_string())
}

/// Reads the value of a flag, for clap: a wrong one is refused before anything is started.
pub fn filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| {
        format!("{error}; a level or a list such as info,touchline_store=debug is accepted")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Process {
        #[command(flatten)]
        log: LogArgs,
    }

    #[test]
    fn a_bad_filter_is_named_with_its_flag_and_what_would_be_accepted() {
        let error = Process::try_parse_from(["process", "--log", "a=b=c"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains("'a=b=c' for '--log <FILTER>'"), "{text}");
        assert!(
            text.contains("info,touchline_store=debug is accepted"),
            "{text}"
        );
    }

    // The only test of this process that begins its log.
    #[test]
    fn what_is_logged_can_be_changed_while_the_process_runs() {
        assert_eq!(current(), "");
        assert_eq!(change("info").unwrap_err(), "this process has no log");
        begin(filter("warn").unwrap(), LogFormat::Json);
        assert_eq!(current(), "warn");
        let is_logged = || tracing::enabled!(tracing::Level::DEBUG);
        assert!(!is_logged());
        change("info,touchline_runtime=debug").unwrap();
        assert!(is_logged());
        assert_eq!(
            filter(&current()).unwrap().to_string(),
            filter("info,touchline_runtime=debug").unwrap().to_string()
        );
        let error = change("a=b=c").unwrap_err();
        assert!(
            error.contains("info,touchline_store=debug is accepted"),
            "{error}"
        );
        assert!(is_logged(), "nothing was changed");
        change("error").unwrap();
        assert!(!is_logged());
    }

    #[test]
    fn a_level_and_a_list_are_filters() {
        for log in ["info", "info,touchline_store=debug", ""] {
            assert!(
                Process::try_parse_from(["process", "--log", log]).is_ok(),
                "{log}"
            );
        }
    }
}
