//! What a fan costs to whom nothing happens: memory, and processor time for pings.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::{
    Args,
    cpu::Used,
    crowd::{Crowd, Kinds},
    pair::{Bared, Fronted},
    site::Site,
};
use crate::{figures::Figure, system::resident_bytes_of};

/// What has only just ended is given back by then.
const SETTLING: Duration = Duration::from_secs(2);

/// Periods of pings over which processor time is counted.
const PERIODS: u32 = 2;

/// Which figures are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) memory: bool,
    pub(super) cpu: bool,
}

/// Connects fans to whom nothing happens, at a gateway and at a bare server.
pub(super) async fn idle(
    args: &Args,
    site: &Site,
    book: &Path,
    wanted: Wanted,
) -> Result<Vec<Figure>> {
    eprintln!("idle: {} fans", args.fans);
    let interval = format!("{}ms", args.ping_interval().as_millis());
    let flags = [("--fan-ping-interval", &*interval)];
    let kinds = Kinds::default();
    let mut fronted = Fronted::start(site, book, kinds, &flags).await?;
    let mut bared = Bared::start(book, kinds).await?;
    // One fan comes and goes, so that the memory of the first one is not taken for each one's.
    one_comes_and_goes(site, &fronted, book).await?;
    let (gateway, bare) = (fronted.gateway.service.pid, bared.bare.pid);
    let empty = [resident_bytes_of(gateway)?, resident_bytes_of(bare)?];
    fronted.crowd.connect(args.fans).await?;
    bared.crowd.connect(args.fans).await?;
    sleep(SETTLING).await;
    let connected = [resident_bytes_of(gateway)?, resident_bytes_of(bare)?];
    let mut figures = Vec::new();
    if wanted.cpu {
        figures.extend(pinged(args, &mut fronted, &mut bared).await?);
    }
    if wanted.memory {
        let each = |grown: [u64; 2], name: &str| {
            let [gateway, bare] = grown.map(|bytes| bytes as f64 / 1_000.0 / args.fans as f64);
            Figure::one(name, gateway, "KB", args.fans as u64).against(bare)
        };
        let name = "rss_idle_connection";
        let grown = [0, 1].map(|at| connected[at].saturating_sub(empty[at]));
        figures.push(each(grown, name));
        let recorded = site.folder.path().join("recorded");
        fronted.record(&recorded).await?;
        let loaded = resident_bytes_of(bare)?;
        bared.bare.load(&recorded).await?;
        std::fs::remove_file(&recorded)?;
        // Messages that it holds are none of a connection's.
        let held = resident_bytes_of(bare)?.saturating_sub(loaded);
        bared.change().await?;
        sleep(SETTLING).await;
        let pushed = [
            resident_bytes_of(gateway)?,
            resident_bytes_of(bare)?.saturating_sub(held),
        ];
        let grown = [0, 1].map(|at| pushed[at].saturating_sub(empty[at]));
        figures.push(each(grown, &format!("{name}, after the first pushes")));
    }
    Ok(figures)
}

async fn one_comes_and_goes(site: &Site, fronted: &Fronted<'_>, book: &Path) -> Result<()> {
    let address = (fronted.gateway.address, "/dev");
    let mut one = Crowd::start(address, book, Kinds::default(), true)?;
    one.expect(site.state()).await?;
    one.connect(1).await?;
    drop(one);
    sleep(SETTLING).await;
    Ok(())
}

/// Processor time of whole periods of pings, once everybody was pinged.
async fn pinged(args: &Args, fronted: &mut Fronted<'_>, bared: &mut Bared) -> Result<Vec<Figure>> {
    sleep(args.ping_interval()).await;
    let pids = [fronted.gateway.service.pid, bared.bare.pid];
    let pings = fronted.crowd.report().await?.pings;
    let before = pids.map(Used::of);
    let start = std::time::Instant::now();
    sleep(args.ping_interval() * PERIODS).await;
    let after = pids.map(Used::of);
    let seconds = start.elapsed().as_secs_f64();
    let mut each = [0.0; 2];
    for ((each, before), after) in each.iter_mut().zip(before).zip(after) {
        let used = after?.since(&before?).as_secs_f64() * 1e6;
        *each = used / seconds / args.fans as f64;
    }
    let pings = fronted.crowd.report().await?.pings - pings;
    let expected = args.fans as u64 * u64::from(PERIODS);
    // The first and the last moment may fall between two pings.
    ensure!(
        pings + args.fans as u64 >= expected,
        "{pings} pings came, not {expected}: what was measured is not what pings cost"
    );
    let [gateway, bare] = each;
    let name = "idle_cpu_connection";
    Ok(vec![
        Figure::one(name, gateway, "µs/s", args.fans as u64).against(bare),
        Figure::one(format!("{name}, pings"), pings as f64, "", args.fans as u64),
    ])
}
