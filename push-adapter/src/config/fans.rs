//! What a fan may cost: the flags that bound the WebSocket front, and how far each can be set. Says
//! nothing of where the front listens.

use std::time::Duration;

/// Limits of the WebSocket front.
#[derive(Debug, Clone, clap::Args)]
pub struct FanLimits {
    /// Fans' connections, in all
    #[arg(
        long,
        env = "TOUCHLINE_FANS_MAX",
        default_value_t = 20_000,
        value_name = "N"
    )]
    pub fans_max: usize,
    /// Fans' connections from one address
    #[arg(
        long,
        env = "TOUCHLINE_FANS_PER_ADDRESS_MAX",
        default_value_t = 10_000,
        value_name = "N"
    )]
    pub fans_per_address_max: usize,
    /// Messages a second that a fan may send, after a burst of five times as many
    #[arg(
        long,
        env = "TOUCHLINE_FAN_MESSAGES_PER_SECOND",
        default_value_t = 10,
        value_name = "N"
    )]
    pub fan_messages_per_second: u32,
    /// A fan who reads nothing for this long is closed
    #[arg(long, env = "TOUCHLINE_FAN_WRITE_DEADLINE", default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub fan_write_deadline: Duration,
    /// Time for the WebSocket handshake
    #[arg(long, env = "TOUCHLINE_FAN_HANDSHAKE_TIMEOUT", default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub fan_handshake_timeout: Duration,
    /// Pause between two pings to a fan
    #[arg(long, env = "TOUCHLINE_FAN_PING_INTERVAL", default_value = "1m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub fan_ping_interval: Duration,
    /// A connection without messages in either direction is closed after this (API Gateway: 10m)
    #[arg(long, env = "TOUCHLINE_FAN_IDLE_TIMEOUT", default_value = "10m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub fan_idle_timeout: Duration,
    /// A connection is closed after this, whatever it does (API Gateway: 2h)
    #[arg(long, env = "TOUCHLINE_FAN_LIFETIME_MAX", default_value = "2h", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub fan_lifetime_max: Duration,
}

impl FanLimits {
    /// Each flag that is a number, its value, and the largest that is accepted; the smallest is 1.
    pub(super) fn numbers(&self) -> [(&'static str, usize, usize); 3] {
        [
            ("--fans-max", self.fans_max, 10_000_000),
            (
                "--fans-per-address-max",
                self.fans_per_address_max,
                10_000_000,
            ),
            (
                "--fan-messages-per-second",
                self.fan_messages_per_second as usize,
                1_000_000,
            ),
        ]
    }

    /// Each flag that is a time, its value, and the shortest and the longest that are accepted.
    pub(super) fn durations(&self) -> [(&'static str, Duration, Duration, Duration); 5] {
        let millisecond = Duration::from_millis(1);
        let (minutes, day) = (Duration::from_mins(10), Duration::from_hours(24));
        [
            ("--fan-write-deadline", self.fan_write_deadline, minutes),
            (
                "--fan-handshake-timeout",
                self.fan_handshake_timeout,
                minutes,
            ),
            ("--fan-ping-interval", self.fan_ping_interval, day),
            ("--fan-idle-timeout", self.fan_idle_timeout, day),
            ("--fan-lifetime-max", self.fan_lifetime_max, day),
        ]
        .map(|(flag, value, max)| (flag, value, millisecond, max))
    }
}
