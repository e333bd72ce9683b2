//! How the server is asked for component sets: the flags that every role shares which pushes.

use std::time::Duration;

use super::{ConfigError, url, validate_durations, validate_numbers};

/// How the server is asked, and how long one push may take.
#[derive(Debug, Clone, clap::Args)]
pub struct LookupArgs {
    /// gRPC URL of touchline-server, which gives the component sets; where its name has several
    /// addresses (a headless service), each consumer is asked for at one of them
    #[arg(
        long,
        env = "TOUCHLINE_SERVER",
        default_value = "http://127.0.0.1:50051",
        value_name = "URL"
    )]
    pub server: String,
    /// Consumers a request to the server; 1 to 1,000
    #[arg(
        long,
        env = "TOUCHLINE_BATCH_CONSUMERS",
        default_value_t = 500,
        value_name = "N"
    )]
    pub batch_consumers: usize,
    /// Requests to the server in flight for one event; 1 to 256
    #[arg(
        long,
        env = "TOUCHLINE_BATCHES_AT_ONCE",
        default_value_t = 8,
        value_name = "N"
    )]
    pub batches_at_once: usize,
    /// One push's time: who is not served by then is counted as failed and tried again, with longer
    /// pauses
    #[arg(long, env = "TOUCHLINE_PUSH_DEADLINE", default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub push_deadline: Duration,
    /// One request's time at the server
    #[arg(long, env = "TOUCHLINE_SERVER_TIMEOUT", default_value = "5s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub server_timeout: Duration,
}

impl LookupArgs {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        url("--server", &self.server)?;
        let numbers = [
            ("--batch-consumers", self.batch_consumers, 1_000),
            ("--batches-at-once", self.batches_at_once, 256),
        ];
        validate_numbers(numbers.into_iter())?;
        let (shortest, longest) = (Duration::from_millis(1), Duration::from_mins(10));
        let durations = [
            ("--push-deadline", self.push_deadline),
            ("--server-timeout", self.server_timeout),
        ]
        .map(|(flag, value)| (flag, value, shortest, longest));
        validate_durations(durations.into_iter())
    }
}
