//! What time does to connections: looks at all of them a few times a second, so that none needs a timer
//! of its own. Pings who is quiet, ends who is idle, old, silent or does not read.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::Gateway;
use crate::{
    config::FanLimits,
    connections::{
        closing::Closing,
        connection::{Connection, Ending, Moments},
    },
};

/// Pause between two sweeps at most; less where a limit is shorter.
const PAUSE_MAX: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// Connections that are looked at before others have a turn.
const TURN: usize = 1_024;

/// Sweeps for ever.
pub(super) async fn sweep(gateway: Arc<Gateway>) {
    let pause = pause(&gateway.limits);
    loop {
        tokio::time::sleep(pause).await;
        for (place, connection) in gateway.local.all().into_iter().enumerate() {
            look(&gateway, &connection);
            if place % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// A limit is kept to within a quarter of it.
fn pause(limits: &FanLimits) -> Duration {
    let shortest = [
        limits.fan_write_deadline,
        limits.fan_ping_interval,
        limits.fan_idle_timeout,
        limits.fan_lifetime_max,
        limits.fan_registration_timeout,
    ]
    .into_iter()
    .min()
    .unwrap_or(PAUSE_MAX);
    (shortest / 4).clamp(PAUSE_MIN, PAUSE_MAX)
}

fn look(gateway: &Gateway, connection: &Arc<Connection>) {
    let has_expired = gateway.verifier.is_some()
        && connection
            .identity()
            .and_then(|identity| identity.expires_in(SystemTime::now()))
            .is_some_and(|left| left.is_zero());
    if has_expired {
        connection.close(Closing::expired());
        return;
    }
    let ended = &gateway.metrics.front.ended;
    match due(
        connection.times.read(),
        lifetime(gateway, connection),
        &gateway.limits,
    ) {
        Some(Due::Age) => {
            let reason = "the connection has reached its greatest age; connect again";
            connection.close(Closing::going_away(reason));
        }
        Some(Due::Idle) => {
            ended.idle.inc();
            connection.close(Closing::going_away("the connection is idle"));
        }
        Some(Due::Unregistered) => {
            ended.unregistered.inc();
            connection.close(Closing::policy("no registration came"));
        }
        Some(Due::Stalled) => {
            ended.stalled.inc();
            connection.end(Ending::Broken);
        }
        Some(Due::Silent) => {
            ended.silent.inc();
            connection.end(Ending::Broken);
        }
        Some(Due::Ping) => {
            connection.times.pinged();
            if connection.socket.ping().is_err() {
                connection.end(Ending::Broken);
            }
        }
        None => {}
    }
}

/// Connections that came together do not end together: each lives a little less than it may, by its id.
fn lifetime(gateway: &Gateway, connection: &Connection) -> Duration {
    let spread = connection.id.as_str().bytes().fold(0_u32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(byte.into())
    });
    let tenth = gateway.limits.fan_lifetime_max / 10;
    gateway.limits.fan_lifetime_max - tenth * (spread % 1_024) / 1_024
}

/// What is to be done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Age,
    Idle,
    Unregistered,
    /// It takes nothing for too long.
    Stalled,
    /// It did not answer the last ping.
    Silent,
    Ping,
}

fn due(moments: Moments, lifetime: Duration, limits: &FanLimits) -> Option<Due> {
    let Moments {
        now,
        active,
        heard,
        pinged,
        is_registered,
        blocked,
    } = moments;
    let since = |moment: Duration| now.saturating_sub(moment);
    if now >= lifetime {
        return Some(Due::Age);
    }
    if blocked.is_some_and(|blocked| since(blocked) >= limits.fan_write_deadline) {
        return Some(Due::Stalled);
    }
    if !is_registered && now >= limits.fan_registration_timeout {
        return Some(Due::Unregistered);
    }
    if since(active) >= limits.fan_idle_timeout {
        return Some(Due::Idle);
    }
    if since(pinged) < limits.fan_ping_interval {
        return None;
    }
    match !pinged.is_zero() && heard < pinged {
        true => Some(Due::Silent),
        false => Some(Due::Ping),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_hours(1);

    fn limits() -> FanLimits {
        FanLimits {
            fan_write_deadline: SECOND * 10,
            fan_ping_interval: SECOND * 25,
            fan_idle_timeout: SECOND * 600,
            fan_registration_timeout: SECOND * 60,
            ..crate::PushArgs::default().fans
        }
    }

    /// A registered fan after a minute, who said something half a minute ago.
    fn moments() -> Moments {
        Moments {
            now: SECOND * 60,
            active: SECOND * 30,
            heard: SECOND * 50,
            pinged: SECOND * 50,
            is_registered: true,
            blocked: None,
        }
    }

    fn due(moments: Moments) -> Option<Due> {
        super::due(moments, HOUR * 2, &limits())
    }

    #[test]
    fn a_fan_who_is_well_is_left_alone_until_the_next_ping() {
        assert_eq!(due(moments()), None);
        let later = Moments {
            now: SECOND * 75,
            ..moments()
        };
        assert_eq!(due(later), Some(Due::Ping));
    }

    #[test]
    fn who_does_not_answer_a_ping_is_gone() {
        let silent = Moments {
            now: SECOND * 75,
            heard: SECOND * 49,
            ..moments()
        };
        assert_eq!(due(silent), Some(Due::Silent));
    }

    #[test]
    fn each_limit_ends_a_connection() {
        let idle = Moments {
            now: SECOND * 630,
            heard: SECOND * 629,
            pinged: SECOND * 629,
            ..moments()
        };
        assert_eq!(due(idle), Some(Due::Idle));
        let stalled = Moments {
            blocked: Some(SECOND * 50),
            ..moments()
        };
        assert_eq!(due(stalled), Some(Due::Stalled));
        let unregistered = Moments {
            is_registered: false,
            ..moments()
        };
        assert_eq!(due(unregistered), Some(Due::Unregistered));
        let old = Moments {
            now: HOUR * 2,
            ..moments()
        };
        assert_eq!(due(old), Some(Due::Age));
    }
}
