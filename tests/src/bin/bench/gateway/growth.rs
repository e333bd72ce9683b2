//! What a push costs with more and more fans.

use std::path::Path;

use anyhow::Result;

use super::{
    Args,
    balance::{self, Counts},
    crowd::Kinds,
    pair::{Bared, Fronted},
    site::Site,
};
use crate::{figures::Figure, tally::Tally};

/// Measures with each number of fans, smallest first, beside a bare server with as many.
pub(super) async fn growth(args: &Args, site: &Site, book: &Path) -> Result<Vec<Figure>> {
    let kinds = Kinds::default();
    let mut fronted = Fronted::start(site, book, kinds, &[]).await?;
    let mut bared = Bared::start(book, kinds).await?;
    let mut sizes = args.growth.clone();
    sizes.sort_unstable();
    let mut figures = Vec::new();
    let mut each = Vec::new();
    for fans in sizes {
        eprintln!("growth: {fans} fans");
        fronted.crowd.connect(fans).await?;
        bared.crowd.connect(fans).await?;
        fronted.warm().await?;
        let recorded = site.folder.path().join("recorded");
        fronted.record(&recorded).await?;
        bared.bare.load(&recorded).await?;
        std::fs::remove_file(&recorded)?;
        let (mut gateway, mut system, mut bare) = (Tally::new(), Tally::new(), Tally::new());
        for _ in 0..args.slices.div_ceil(2) {
            let slices = fronted.slice(args.pace()).await?;
            gateway.add(slices.gateway);
            system.add(slices.system);
            bare.add(bared.slice(args.pace()).await?);
        }
        let name = |what| format!("growth, {fans} fans, {what}");
        figures.push(gateway.cpu_an_answer_us(name("gateway alone"), &bare));
        figures.push(system.cpu_an_answer_us(name("all processes"), &bare));
        each.push((gateway.an_answer_us(), system.an_answer_us()));
    }
    let received = fronted.crowd.report().await?.states();
    figures.extend(balance::check("growth", &fronted.gateway, received, Counts::Exactly).await?);
    figures.push(spread("growth", each.iter().map(|(gateway, _)| *gateway)));
    figures.push(spread(
        "growth, all processes",
        each.iter().map(|(_, system)| *system),
    ));
    Ok(figures)
}

/// The most that a push costs beside the least, whichever number of fans it is.
fn spread(name: &str, each: impl Iterator<Item = f64> + Clone) -> Figure {
    let least = each.clone().fold(f64::INFINITY, f64::min);
    let most = each.clone().fold(0.0, f64::max);
    Figure::one(name, most, "µs/push", each.count() as u64).against(least)
}
