//! Whether the gateway's counters add up: what was offered to connections is what fans counted, and what
//! became of the rest.

use std::{fmt, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::site::Gateway;
use crate::{figures::Figure, system::DEADLINE};

/// Counters are settled within it.
const SETTLED: Duration = Duration::from_secs(5);

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Messages with an event's state that were offered to connections, and what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) offered: u64,
    pub(super) delivered: u64,
    pub(super) conflated: u64,
    pub(super) stale: u64,
    pub(super) closed: u64,
}

impl Counted {
    fn in_metrics(text: &str) -> Result<Self> {
        let value = |name: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            let value = value.with_context(|| format!("no metric {name}"))?;
            anyhow::Ok(value.parse()?)
        };
        let of = |outcome| {
            value(&format!(
                "touchline_push_states_total{{outcome=\"{outcome}\"}}"
            ))
        };
        Ok(Self {
            offered: value("touchline_push_states_offered_total")?,
            delivered: of("delivered")?,
            conflated: of("conflated")?,
            stale: of("stale")?,
            closed: of("closed")?,
        })
    }

    /// How far what was offered is from what became of it.
    fn is_balanced(&self) -> bool {
        self.offered == self.delivered + self.conflated + self.stale + self.closed
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            offered,
            delivered,
            conflated,
            stale,
            closed,
        } = self;
        write!(
            formatter,
            "{offered} offered, {delivered} delivered, {conflated} conflated, {stale} stale, \
             {closed} closed"
        )
    }
}

/// How what fans counted stands to what was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counts {
    /// Every message that was delivered has come.
    Exactly,
    /// What was under way to a connection that was lost has not come.
    AtMost,
}

/// What the gateway has counted so far; `None` for a front that counts no states.
pub(super) async fn counted(gateway: &Gateway) -> Result<Option<Counted>> {
    let Some(address) = &gateway.metrics else {
        return Ok(None);
    };
    let text = timeout(DEADLINE, get(address, "/metrics")).await??;
    Counted::in_metrics(&text).map(Some)
}

/// Waits until the counters of a gateway add up with what its fans have received, or fails; gives them
/// as figures.
pub(super) async fn check(
    name: &str,
    gateway: &Gateway,
    received: u64,
    counts: Counts,
) -> Result<Vec<Figure>> {
    let settled = settled(name, gateway, received, counts).await?;
    let Some(counted) = settled else {
        eprintln!("{name}: not balanced, this front counts no states");
        return Ok(Vec::new());
    };
    Ok(figures(name, counted, received))
}

/// The same, as they are; `None` for a front that counts no states.
pub(super) async fn settled(
    name: &str,
    gateway: &Gateway,
    received: u64,
    counts: Counts,
) -> Result<Option<Counted>> {
    let start = Instant::now();
    loop {
        let Some(counted) = counted(gateway).await? else {
            return Ok(None);
        };
        let is_right = match counts {
            Counts::Exactly => counted.delivered == received,
            Counts::AtMost => counted.delivered >= received,
        };
        if is_right && counted.is_balanced() {
            return Ok(Some(counted));
        }
        ensure!(
            start.elapsed() < SETTLED,
            "{name}: the counters do not add up: {counted}, and fans received {received}"
        );
        sleep(LOOK).await;
    }
}

pub(super) fn figures(name: &str, counted: Counted, received: u64) -> Vec<Figure> {
    let figure = |what: &str, count: u64| {
        Figure::one(format!("{name}, {what}"), count as f64, "", counted.offered)
    };
    vec![
        figure("delivered", counted.delivered).against(received as f64),
        figure("conflated", counted.conflated),
        figure("stale", counted.stale),
        figure("closed", counted.closed),
    ]
}

/// Waits until a front says that fans may be sent to it.
pub(crate) async fn ready(address: &str) -> Result<()> {
    let start = Instant::now();
    while !is_ready(address).await {
        ensure!(
            start.elapsed() < DEADLINE,
            "the front at {address} is never ready"
        );
        sleep(LOOK).await;
    }
    Ok(())
}

/// Whether a front says that fans may be sent to it; one that is not there does not.
pub(super) async fn is_ready(address: &str) -> bool {
    let asked = timeout(DEADLINE, get(address, "/readyz")).await;
    asked.is_ok_and(|said| said.is_ok_and(|said| said.lines().next().is_some_and(is_ok)))
}

fn is_ok(status: &str) -> bool {
    status.split(' ').nth(1) == Some("200")
}

/// A page of a process's metrics port, head and body.
pub(crate) async fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_of_a_metrics_page() {
        let text = "# TYPE touchline_push_states_offered counter\n\
            touchline_push_states_offered_total 10\n\
            touchline_push_states_total{outcome=\"delivered\"} 6\n\
            touchline_push_states_total{outcome=\"conflated\"} 2\n\
            touchline_push_states_total{outcome=\"stale\"} 1\n\
            touchline_push_states_total{outcome=\"closed\"} 1\n";
        let counted = Counted::in_metrics(text).unwrap();
        assert!(counted.is_balanced());
        assert_eq!((counted.delivered, counted.stale), (6, 1));
        let lost = text.replace("delivered\"} 6", "delivered\"} 5");
        assert!(!Counted::in_metrics(&lost).unwrap().is_balanced());
        assert!(Counted::in_metrics("").is_err());
    }
}
