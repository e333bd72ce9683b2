//! Everybody's connection is lost at once, and everybody comes back.

use std::{path::Path, time::Duration};

use anyhow::Result;

use super::{
    Args,
    balance::{self, Counts},
    crowd::{Kinds, Returned},
    pair::Fronted,
    site::Site,
};
use crate::figures::{Figure, Latencies};

/// Lets everybody come back: without a word of what they show, and with their set's id while the match
/// changes.
pub(super) async fn herd(args: &Args, site: &Site, book: &Path) -> Result<Vec<Figure>> {
    let name = "reconnect_herd";
    let mut fronted = Fronted::start(site, book, Kinds::default(), &[]).await?;
    fronted.crowd.connect(args.fans).await?;
    eprintln!("{name}: {} fans", args.fans);
    fronted.warm().await?;
    let asked = site.asked();
    let (mut without, mut with) = (Herds::new(), Herds::new());
    for _ in 0..args.herds {
        fronted.crowd.lose_all(false).await?;
        without.add(&fronted.crowd.returned().await?);
        // Nobody is missing among those who came back.
        fronted.change().await?;

        let state = site.next_state();
        fronted.crowd.expect(state).await?;
        fronted.crowd.lose_all(true).await?;
        site.change(state).await?;
        with.add(&fronted.crowd.returned().await?);
        fronted.change().await?;
    }
    let asked = site.asked() - asked;
    tokio::time::sleep(args.quiet()).await;
    let report = fronted.crowd.report().await?;
    let mut figures = without.figures(name);
    figures.extend(with.figures(&format!("{name}, with set_id and a change")));
    let count =
        |what: &str, count: u64| Figure::one(format!("{name}, {what}"), count as f64, "", count);
    figures.push(count("calls of Personalize", asked));
    figures.push(count("answers that repeat a push", report.repeats));
    let received = report.states();
    figures.extend(balance::check(name, &fronted.gateway, received, Counts::AtMost).await?);
    Ok(figures)
}

/// Several times that everybody came back.
struct Herds {
    each: Latencies,
    last: Latencies,
    refused: u64,
}

impl Herds {
    fn new() -> Self {
        Self {
            each: Latencies::new(),
            last: Latencies::new(),
            refused: 0,
        }
    }

    fn add(&mut self, returned: &Returned) {
        for &each in &returned.each_us {
            self.each.record(Duration::from_micros(each));
        }
        let last = returned.each_us.iter().max().copied().unwrap_or(0);
        self.last.record(Duration::from_micros(last));
        self.refused += returned.refused;
    }

    /// Until the last fan, the longest of all times; and each fan's.
    fn figures(&self, name: &str) -> Vec<Figure> {
        let each = format!("{name}: each fan");
        vec![
            Figure::quantile(name, &self.last, 1.0).called(name),
            Figure::quantile(&each, &self.each, 0.5),
            Figure::quantile(&each, &self.each, 0.99),
            Figure::one(
                format!("{name}: refused and tried again"),
                self.refused as f64,
                "",
                self.each.count(),
            ),
        ]
    }
}
