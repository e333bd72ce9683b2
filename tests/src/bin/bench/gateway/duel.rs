//! A gateway beside a bare server: slices that alternate, after an A/A pair of the gateway's own.

use std::path::Path;

use anyhow::Result;

use super::{
    Args,
    balance::{self, Counts},
    crowd::Kinds,
    pair::{Bared, Fronted, Pace},
    site::Site,
};
use crate::{figures::Figure, tally::Tally};

/// The unit of what is delivered.
const PUSHES: &str = "pushes/CPU s";

/// One fan in so many speaks protocol 1.
const FIRST_EVERY: usize = 10;

/// What both came to.
pub(super) struct Duel {
    /// The A/A pair, of the gateway alone and of all processes.
    same: [(Tally, Tally); 2],
    /// The gateway alone.
    gateway: Tally,
    /// All processes of the system.
    system: Tally,
    bare: Tally,
    /// What was offered and what became of it.
    pub(super) balance: Vec<Figure>,
}

/// Everything runs, and everybody has been shown each state.
async fn set_up<'a>(
    args: &Args,
    site: &'a Site,
    book: &Path,
    name: &str,
) -> Result<(Fronted<'a>, Bared)> {
    let kinds = Kinds {
        first_every: FIRST_EVERY,
        ..Kinds::default()
    };
    let mut fronted = Fronted::start(site, book, kinds, &[]).await?;
    fronted.crowd.connect(args.fans).await?;
    eprintln!("{name}: {} fans at the gateway", args.fans);
    let mut bared = Bared::start(book, kinds).await?;
    bared.crowd.connect(args.fans).await?;
    fronted.warm().await?;
    let recorded = site.folder.path().join("recorded");
    fronted.record(&recorded).await?;
    bared.bare.load(&recorded).await?;
    std::fs::remove_file(&recorded)?;
    Ok((fronted, bared))
}

/// Lets both push to as many fans.
pub(super) async fn duel(args: &Args, site: &Site, book: &Path, name: &str) -> Result<Duel> {
    let (mut fronted, mut bared) = Box::pin(set_up(args, site, book, name)).await?;
    let pace = args.pace();
    let once = Pace { changes: 2, ..pace };
    bared.slice(once).await?;
    let new = || (Tally::new(), Tally::new());
    let mut duel = Duel {
        same: [new(), new()],
        gateway: Tally::new(),
        system: Tally::new(),
        bare: Tally::new(),
        balance: Vec::new(),
    };
    for _ in 0..args.slices.div_ceil(2) {
        let one = fronted.slice(pace).await?;
        let other = fronted.slice(pace).await?;
        let [gateway, system] = &mut duel.same;
        gateway.0.add(one.gateway);
        gateway.1.add(other.gateway);
        system.0.add(one.system);
        system.1.add(other.system);
    }
    for _ in 0..args.slices {
        let slices = fronted.slice(pace).await?;
        duel.gateway.add(slices.gateway);
        duel.system.add(slices.system);
        duel.bare.add(bared.slice(pace).await?);
    }
    // What comes twice has come by now, or is noticed here.
    tokio::time::sleep(args.quiet()).await;
    let received = fronted.crowd.report().await?.states();
    bared.crowd.report().await?;
    let balance = balance::check(name, &fronted.gateway, received, Counts::Exactly);
    duel.balance = balance.await?;
    Ok(duel)
}

impl Duel {
    /// Pushes a second of processor time: the A/A pair, the gateway alone, and all processes. One of the
    /// latter two is the figure of that name.
    pub(super) fn pushes(&self, name: &str, is_system: bool) -> Vec<Figure> {
        let [gateway, system] = [&self.gateway, &self.system];
        let [same_gateway, same_system] = &self.same;
        let (of_gateway, of_system) = match is_system {
            true => (format!("{name}, gateway alone"), name.to_owned()),
            false => (name.to_owned(), format!("{name}, all processes")),
        };
        let same = |what: &str, (one, other): &(Tally, Tally)| {
            other.a_cpu_second(format!("A/A: {what}"), PUSHES, one)
        };
        vec![
            same(&of_gateway, same_gateway),
            same(&of_system, same_system),
            gateway.a_cpu_second(of_gateway, PUSHES, &self.bare),
            system.a_cpu_second(of_system, PUSHES, &self.bare),
        ]
    }

    /// From a change to the last fan, beside the bare server's; p50 and p99.
    pub(super) fn latencies(&self, name: &str) -> Vec<Figure> {
        let (one, other) = &self.same[0];
        let same = other.quantiles(&format!("A/A: {name}"), one);
        let figures = self.gateway.quantiles(name, &self.bare);
        same.into_iter().chain(figures).collect()
    }
}
