//! What a push costs with telemetry beside without: three systems with a gateway and as many fans each,
//! alive at the same time, whose slices of changes alternate.

use anyhow::Result;

use super::{
    crowd::Kinds,
    pair::{Fronted, Pace},
    site::{Front, Site},
};
use crate::{
    figures::Figure,
    tally::Tally,
    telemetry::{Observed, Settings, duel},
};

/// Runs slices of each, and gives processor time of a push: of all processes, and of the gateway alone.
pub(crate) async fn pushes(
    fans: usize,
    slices: u32,
    (changes, interval): (u32, std::time::Duration),
    observed: [&Observed; 3],
) -> Result<Vec<Figure>> {
    let consumers: Vec<String> = (0..fans).map(|fan| format!("fan-{fan:05}")).collect();
    let mut sites = Vec::new();
    for observed in observed {
        sites.push(Site::start_with(Front::Gateway, &observed.flags()).await?);
    }
    let measured = Box::pin(measure(
        &sites,
        &consumers,
        slices,
        Pace { changes, interval },
        observed,
    ));
    let measured = measured.await;
    if measured.is_err() {
        eprint!("{}", sites.iter().map(Site::logs).collect::<String>());
    }
    measured
}

async fn measure(
    sites: &[Site],
    consumers: &[String],
    slices: u32,
    pace: Pace,
    observed: [&Observed; 3],
) -> Result<Vec<Figure>> {
    let mut fronts = Vec::new();
    // They hold what fans are told of; removed when they are dropped.
    let mut books = Vec::new();
    for (site, observed) in sites.iter().zip(observed) {
        let book = site.book(consumers).await?;
        let mut fronted = Fronted::start(site, book.path(), Kinds::default(), &[]).await?;
        fronted.crowd.connect(consumers.len()).await?;
        fronted.warm().await?;
        let gateway = fronted.gateway.metrics.iter();
        observed.scrape(site.metrics.iter().chain(gateway));
        fronts.push(fronted);
        books.push(book);
    }
    let (mut system, mut gateway) = (Settings::tallies(), Settings::tallies());
    for place in duel(slices) {
        let slices = fronts[place.of()].slice(pace).await?;
        system[place as usize].add(slices.system);
        gateway[place as usize].add(slices.gateway);
    }
    for fronted in &mut fronts {
        // What every fan was shown was held against its book; what is missing or comes twice fails here.
        fronted.crowd.report().await?;
    }
    let cpu =
        |tally: &Tally, name: String, baseline: &Tally| tally.cpu_an_answer_us(name, baseline);
    let mut figures = Settings::figures("CPU a push", &system, cpu);
    figures.extend(Settings::figures(
        "CPU a push, gateway alone",
        &gateway,
        cpu,
    ));
    figures.extend(Settings::figures(
        "change to last",
        &system,
        |tally, name, baseline| {
            let [_, p99] = tally.quantiles(&name, baseline);
            p99
        },
    ));
    Ok(figures)
}
