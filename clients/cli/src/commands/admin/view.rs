//! What a process says of itself, for a person and for a machine. Pure.

use std::{
    fmt::Write,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use touchline_client::proto::{
    EventStatus, GetStatusResponse, PushStatus, ServerStatus, get_status_response::Role,
};

use crate::{
    output::{FAINT, LOUD, NEW, STRONG, styled},
    show::printable,
};

/// What one process said.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// Its address.
    pub(super) server: String,
    /// When it was asked.
    pub(super) at: Instant,
    /// What it said, or why there is nothing.
    pub(super) status: Result<GetStatusResponse, Silence>,
}

/// Why a process said nothing.
#[derive(Debug, Clone)]
pub(super) struct Silence {
    /// In a few words.
    pub(super) cause: String,
    /// With the process's name, and what to do about it.
    pub(super) advice: String,
}

/// All processes, each in a block; how fast counts grow is by what they were `before`.
pub(super) fn view(samples: &[Sample], before: &[Sample]) -> String {
    let mut text = String::new();
    for sample in samples {
        let status = match &sample.status {
            Ok(status) => status,
            Err(silence) => {
                let (name, cause) = (styled(STRONG, &sample.server), styled(LOUD, &silence.cause));
                add(&mut text, format_args!("{name}  {cause}\n"));
                continue;
            }
        };
        let earlier = before
            .iter()
            .find(|earlier| earlier.server == sample.server);
        add(
            &mut text,
            format_args!("{}\n", head(&sample.server, status)),
        );
        match &status.role {
            Some(Role::Server(server)) => server_lines(&mut text, server),
            Some(Role::Push(push)) => push_lines(&mut text, push, rate(sample, earlier)),
            None => {}
        }
        text.push('\n');
    }
    text
}

fn head(server: &str, status: &GetStatusResponse) -> String {
    let what = match &status.role {
        Some(Role::Server(_)) => "touchline-server",
        Some(Role::Push(_)) => "touchline-push",
        None => "touchline",
    };
    let ready = match status.not_ready.as_str() {
        "" => styled(NEW, "ready"),
        reason => styled(LOUD, format_args!("not ready: {reason}")),
    };
    let up = match uptime(status) {
        Some(up) => format!("  up {}", rounded(up)),
        None => String::new(),
    };
    let more = format!("{}  log {}", status.version, status.log);
    let more = styled(FAINT, more);
    format!("{}  {server}  {ready}{up}  {more}", styled(STRONG, what))
}

fn server_lines(text: &mut String, server: &ServerStatus) {
    let following = match server.following {
        true => "following the leader",
        false => "no leader is followed; watched rows are polled",
    };
    add(
        text,
        format_args!(
            "  calls in flight {}  watchers {}  events {}  {following}\n",
            server.calls_in_flight, server.watchers, server.events
        ),
    );
    let age = match &server.catalog_age {
        Some(age) => format!("read {} ago", rounded(span(age))),
        None => "never read".to_owned(),
    };
    add(
        text,
        format_args!(
            "  catalog {} items, {age}  policies reloaded {} times\n",
            server.catalog_items, server.policies_reloads
        ),
    );
    if let Some(budget) = &server.budget {
        let breaker = match budget.breaker_open {
            true => styled(LOUD, "  the circuit breaker is open"),
            false => String::new(),
        };
        add(
            text,
            format_args!(
                "  Personalize: at most {}/s, bears {}/s, in flight {}, waiting {}{breaker}\n",
                budget.limit, budget.rate, budget.in_flight, budget.waiting
            ),
        );
        let asked = server.rankings_cached + server.rankings_missed;
        if asked > 0 {
            let percent = server.rankings_cached as f64 * 100.0 / asked as f64;
            add(
                text,
                format_args!("  cached {percent:.1} % of {asked} rankings\n"),
            );
        }
    }
    let answers = server.answers.iter().map(|answers| {
        let (origin, freshness, count) = (&answers.origin, &answers.freshness, answers.count);
        format!("{origin} {freshness} {count}")
    });
    let answers: Vec<_> = answers.collect();
    if !answers.is_empty() {
        add(text, format_args!("  answers: {}\n", answers.join("  ")));
    }
}

fn push_lines(text: &mut String, push: &PushStatus, per_second: Option<f64>) {
    let leading = match (push.leading, push.leader_address.as_str()) {
        (true, _) => styled(NEW, "leading"),
        (false, "") => styled(LOUD, "nobody leads"),
        (false, leader) => format!("{leader} leads"),
    };
    let age = match &push.stream_age {
        Some(age) => format!("  stream read {:?} ago", short(span(age))),
        None => String::new(),
    };
    add(
        text,
        format_args!("  {leading}{age}  followers {}\n", push.followers),
    );
    let fans = push.fans.unwrap_or_default();
    let all = fans.unregistered + fans.protocol_1 + fans.protocol_2;
    add(
        text,
        format_args!(
            "  fans {all}: {} with protocol 2, {} with protocol 1, {} not registered\n",
            fans.protocol_2, fans.protocol_1, fans.unregistered
        ),
    );
    let rate = per_second.map_or_else(String::new, |rate| format!(", {rate:.0}/s"));
    add(
        text,
        format_args!(
            "  fan-outs {} ({} superseded)  pushes delivered {}{rate}\n",
            push.fan_outs, push.fan_outs_superseded, push.pushes_delivered
        ),
    );
    for event in &push.events {
        let sequence = position(event).unwrap_or("position unknown");
        add(
            text,
            format_args!(
                "  event {}  version {}  {}\n",
                printable(&event.event_id),
                event.version,
                styled(FAINT, sequence)
            ),
        );
    }
    let shown = i64::try_from(push.events.len()).unwrap_or(i64::MAX);
    if push.events_known > shown {
        let more = push.events_known - shown;
        add(
            text,
            format_args!("  and {more} more, ended ones among them\n"),
        );
    }
}

/// Pushes a second since it was asked before.
fn rate(sample: &Sample, earlier: Option<&Sample>) -> Option<f64> {
    let delivered = |sample: &Sample| match &sample.status.as_ref().ok()?.role {
        Some(Role::Push(push)) => Some(push.pushes_delivered),
        _ => None,
    };
    let earlier = earlier?;
    // A process that started anew counts from 0.
    let more = delivered(sample)?.checked_sub(delivered(earlier)?)?;
    let seconds = sample
        .at
        .saturating_duration_since(earlier.at)
        .as_secs_f64();
    (seconds > 0.0).then(|| more as f64 / seconds)
}

/// The same for a machine, with the names of the messages.
pub(super) fn json(server: &str, status: &GetStatusResponse) -> Value {
    let started = status
        .started_at
        .and_then(|at| SystemTime::try_from(at).ok());
    let mut object = json!({
        "address": server,
        "version": status.version,
        "ready": status.not_ready.is_empty(),
        "not_ready": status.not_ready,
        "log": status.log,
        "started_at": started.map(|at| humantime::format_rfc3339_seconds(at).to_string()),
    });
    match &status.role {
        Some(Role::Server(server)) => object["server"] = server_json(server),
        Some(Role::Push(push)) => object["push"] = push_json(push),
        None => {}
    }
    object
}

fn server_json(server: &ServerStatus) -> Value {
    let answers = server.answers.iter().map(|answers| {
        json!({
            "origin": answers.origin,
            "freshness": answers.freshness,
            "count": answers.count,
        })
    });
    json!({
        "calls_in_flight": server.calls_in_flight,
        "watchers": server.watchers,
        "following": server.following,
        "events": server.events,
        "catalog_items": server.catalog_items,
        "catalog_age_seconds": server.catalog_age.as_ref().map(|age| span(age).as_secs_f64()),
        "budget": server.budget.as_ref().map(|budget| json!({
            "limit": budget.limit,
            "rate": budget.rate,
            "in_flight": budget.in_flight,
            "waiting": budget.waiting,
            "breaker_open": budget.breaker_open,
        })),
        "rankings_cached": server.rankings_cached,
        "rankings_missed": server.rankings_missed,
        "answers": answers.collect::<Vec<_>>(),
        "policies_reloads": server.policies_reloads,
    })
}

fn push_json(push: &PushStatus) -> Value {
    let fans = push.fans.unwrap_or_default();
    let events = push.events.iter().map(|event| {
        json!({
            "event_id": event.event_id,
            "version": event.version,
            "sequence": position(event),
        })
    });
    json!({
        "leading": push.leading,
        "leader_address": push.leader_address,
        "stream_age_seconds": push.stream_age.as_ref().map(|age| span(age).as_secs_f64()),
        "followers": push.followers,
        "events": events.collect::<Vec<_>>(),
        "events_known": push.events_known,
        "fans": {
            "unregistered": fans.unregistered,
            "protocol_1": fans.protocol_1,
            "protocol_2": fans.protocol_2,
        },
        "fan_outs": push.fan_outs,
        "fan_outs_superseded": push.fan_outs_superseded,
        "pushes_delivered": push.pushes_delivered,
    })
}

fn position(event: &EventStatus) -> Option<&str> {
    event.position.as_ref().map(|at| at.sequence.as_str())
}

fn uptime(status: &GetStatusResponse) -> Option<Duration> {
    let started = SystemTime::try_from(status.started_at?).ok()?;
    started.elapsed().ok()
}

fn span(span: &prost_types::Duration) -> Duration {
    Duration::try_from(*span).unwrap_or_default()
}

/// In whole seconds, as people say it.
fn rounded(span: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(span.as_secs()))
}

/// In whole milliseconds.
fn short(span: Duration) -> Duration {
    Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

fn add(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more)
        .expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use touchline_client::proto::{AnswerCount, BudgetStatus, FanCount, Position};

    use super::*;

    fn sample(role: Role, at: Instant) -> Sample {
        Sample {
            server: "http://127.0.0.1:1".to_owned(),
            at,
            status: Ok(GetStatusResponse {
                version: "1.2.3".to_owned(),
                log: "info".to_owned(),
                role: Some(role),
                ..GetStatusResponse::default()
            }),
        }
    }

    fn plain(samples: &[Sample], before: &[Sample]) -> String {
        anstream::adapter::strip_str(&view(samples, before)).to_string()
    }

    fn push(pushes_delivered: u64) -> PushStatus {
        PushStatus {
            leader_address: "http://10.0.0.7:50052".to_owned(),
            events: vec![EventStatus {
                event_id: "final\x1b[2J".to_owned(),
                version: "0123456789abcdef".to_owned(),
                position: Some(Position {
                    epoch: "e".to_owned(),
                    sequence: "1.2.3".to_owned(),
                }),
            }],
            events_known: 3,
            fans: Some(FanCount {
                unregistered: 1,
                protocol_1: 2,
                protocol_2: 3,
            }),
            pushes_delivered,
            ..PushStatus::default()
        }
    }

    #[test]
    fn a_push_adapter_shows_its_fans_its_events_and_how_fast_it_pushes() {
        let begin = Instant::now();
        let before = sample(Role::Push(push(100)), begin);
        let now = sample(Role::Push(push(350)), begin + Duration::from_secs(2));
        let text = plain(std::slice::from_ref(&now), &[before]);
        insta::assert_snapshot!(text, @"
        touchline-push  http://127.0.0.1:1  ready  1.2.3  log info
          http://10.0.0.7:50052 leads  followers 0
          fans 6: 3 with protocol 2, 2 with protocol 1, 1 not registered
          fan-outs 0 (0 superseded)  pushes delivered 350, 125/s
          event final�[2J  version 0123456789abcdef  1.2.3
          and 2 more, ended ones among them
        ");
        // One that was started anew counts from 0, and nothing is said of its speed.
        let fewer = sample(Role::Push(push(7)), begin + Duration::from_secs(4));
        assert!(plain(&[fewer], &[now]).contains("pushes delivered 7\n"));
    }

    #[test]
    fn a_server_shows_its_budget_and_its_answers() {
        let server = ServerStatus {
            budget: Some(BudgetStatus {
                limit: 500,
                rate: 430,
                in_flight: 12,
                waiting: 3,
                breaker_open: true,
            }),
            rankings_cached: 3,
            rankings_missed: 1,
            answers: vec![AnswerCount {
                origin: "personalize".to_owned(),
                freshness: "live".to_owned(),
                count: 1,
            }],
            ..ServerStatus::default()
        };
        let text = plain(&[sample(Role::Server(server), Instant::now())], &[]);
        insta::assert_snapshot!(text, @"
        touchline-server  http://127.0.0.1:1  ready  1.2.3  log info
          calls in flight 0  watchers 0  events 0  no leader is followed; watched rows are polled
          catalog 0 items, never read  policies reloaded 0 times
          Personalize: at most 500/s, bears 430/s, in flight 12, waiting 3  the circuit breaker is open
          cached 75.0 % of 4 rankings
          answers: personalize live 1
        ");
    }

    #[test]
    fn one_that_cannot_be_asked_says_why_in_its_place() {
        let mut silent = sample(Role::Push(push(0)), Instant::now());
        silent.status = Err(Silence {
            cause: "nobody is there".to_owned(),
            advice: String::new(),
        });
        assert_eq!(
            plain(&[silent], &[]),
            "http://127.0.0.1:1  nobody is there\n"
        );
    }
}
