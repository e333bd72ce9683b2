//! Fans who never read, beside fans who do: what the latter notice of it.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{
    Args,
    balance::{self, Counts},
    crowd::Kinds,
    pair::Fronted,
    site::Site,
};
use crate::{figures::Figure, tally::Tally};

/// One fan in so many stalls.
const STALLING_EVERY: usize = 10;

/// Slices in which one fan in ten does not read, and slices in which everybody does, in turn.
pub(super) async fn stalled(args: &Args, site: &Site, book: &Path) -> Result<Vec<Figure>> {
    let name = "stalled_readers";
    let kinds = Kinds {
        stalling_every: STALLING_EVERY,
        ..Kinds::default()
    };
    // They stay for as long as a slice takes.
    let flags = [("--fan-write-deadline", "10m")];
    let mut fronted = Fronted::start(site, book, kinds, &flags).await?;
    fronted.crowd.connect(args.fans).await?;
    eprintln!("{name}: {} fans", args.fans);
    fronted.warm().await?;
    let (mut control, mut stalled) = (Tally::new(), Tally::new());
    for _ in 0..args.slices.div_ceil(2) {
        control.add(fronted.slice(args.pace()).await?.gateway);
        let before = fronted.crowd.report().await?.left_out;
        fronted.crowd.stall().await?;
        // Until there is no room left in their sockets.
        for _ in 0..args.filling {
            fronted.change().await?;
        }
        stalled.add(fronted.slice(args.pace()).await?.gateway);
        fronted.crowd.resume().await?;
        let left_out = fronted.crowd.report().await?.left_out - before;
        let stalling = args.fans.div_ceil(STALLING_EVERY) as u64;
        ensure!(
            left_out >= stalling,
            "{left_out} changes were left out for {stalling} who stalled: their sockets never filled"
        );
    }
    tokio::time::sleep(args.quiet()).await;
    let report = fronted.crowd.report().await?;
    let [p50, p99] = stalled.quantiles(name, &control);
    let mut figures = vec![
        p50,
        p99.called(name),
        stalled.cpu_an_answer_us(format!("{name}, gateway alone"), &control),
        Figure::one(
            format!("{name}, changes left out for them"),
            report.left_out as f64,
            "changes",
            report.left_out,
        ),
    ];
    let received = report.states();
    figures.extend(balance::check(name, &fronted.gateway, received, Counts::Exactly).await?);
    Ok(figures)
}
