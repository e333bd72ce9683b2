//! What a cached GetComponents costs with telemetry beside without: three servers, whose slices of calls
//! alternate.

use std::time::Duration;

use anyhow::Result;

use super::{
    calls::{self, Load},
    script::Script,
    touchline::Touchline,
};
use crate::{
    figures::Figure,
    telemetry::{Observed, Settings, duel},
};

/// Runs slices of each, and gives processor time of a call.
pub(crate) async fn requests(
    slices: u32,
    length: Duration,
    (connections, callers): (usize, usize),
    observed: [&Observed; 3],
) -> Result<Vec<Figure>> {
    let consumers: Vec<_> = (1..=calls::CONSUMERS)
        .map(|number| format!("fan-{number:04}"))
        .collect();
    let mut servers = Vec::new();
    for observed in observed {
        let touchline = Touchline::start_with(&observed.flags()).await?;
        touchline.warm(&consumers).await?;
        let mut script = Script::new(&consumers);
        calls::record(&touchline, &mut script).await?;
        let callers = Load::new(connections, callers, &script)?.on(touchline.url())?;
        observed.scrape([&touchline.metrics]);
        // What is warm after a slice was not before the first.
        callers.slice(length, &touchline.server).await?;
        servers.push((touchline, callers));
    }
    let mut tallies = Settings::tallies();
    for place in duel(slices) {
        let (touchline, callers) = &servers[place.of()];
        let slice = callers.slice(length, &touchline.server).await;
        if slice.is_err() {
            eprint!("{}", touchline.logs());
        }
        tallies[place as usize].add(slice?);
    }
    let cpu = Settings::figures("CPU a request", &tallies, |tally, name, baseline| {
        tally.cpu_an_answer_us(name, baseline)
    });
    let p99 = Settings::figures("request", &tallies, |tally, name, baseline| {
        let [_, p99] = tally.quantiles(&name, baseline);
        p99
    });
    Ok(cpu.into_iter().chain(p99).collect())
}
