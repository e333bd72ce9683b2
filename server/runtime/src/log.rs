//! The log of a process: what is in it and how it looks. It goes to standard error and nowhere else,
//! since standard output is for answers.

use std::io::IsTerminal;

use clap::ValueEnum;
pub use tracing_subscriber::EnvFilter;

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
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => log.json().init(),
        // In colour, unless NO_COLOR is set.
        LogFormat::Text if std::io::stderr().is_terminal() => log.init(),
        LogFormat::Text => log.with_ansi(false).init(),
    }
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
