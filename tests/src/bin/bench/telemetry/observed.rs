//! How a system is observed while it works: a collector takes its traces, and its metrics are read each
//! second. Judges nothing.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::time::{interval, timeout};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use touchline_tests::collector::Collector;

use crate::gateway::balance::get;

/// How often metrics are read.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);

/// What a system is observed with; nothing where it is the one without.
pub(crate) struct Observed {
    collector: Option<Collector>,
    /// Flags beside the collector's.
    sample: Option<&'static str>,
    scrapes: Arc<AtomicUsize>,
    scraping: Mutex<Vec<AbortOnDropHandle<()>>>,
}

impl Observed {
    /// By nothing.
    pub(crate) fn not() -> Self {
        Self {
            collector: None,
            sample: None,
            scrapes: Arc::default(),
            scraping: Mutex::default(),
        }
    }

    /// By a collector of its own; `sample` is the ratio, the default one where there is none.
    pub(crate) async fn start(sample: Option<&'static str>) -> Result<Self> {
        Ok(Self {
            collector: Some(Collector::start().await?),
            sample,
            ..Self::not()
        })
    }

    /// The flags that each process has because of it.
    pub(crate) fn flags(&self) -> Vec<(&str, &str)> {
        let endpoint = self.collector.iter();
        let endpoint = endpoint.map(|collector| ("--otlp-endpoint", collector.url()));
        let sample = self.sample.iter();
        endpoint
            .chain(sample.map(|sample| ("--trace-sample", *sample)))
            .collect()
    }

    /// Reads the metrics at these addresses from now on, unless it is the one without.
    pub(crate) fn scrape<'a>(&self, addresses: impl IntoIterator<Item = &'a String>) {
        if self.collector.is_none() {
            return;
        }
        let tasks = TaskTracker::new();
        let each = addresses.into_iter().map(|address| {
            let scraping = scrape(address.clone(), self.scrapes.clone());
            AbortOnDropHandle::new(tasks.spawn(scraping))
        });
        let mut scraping = self.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        scraping.extend(each);
    }

    /// How many spans came.
    pub(crate) fn spans(&self) -> usize {
        self.collector.as_ref().map_or(0, Collector::count)
    }

    /// How often metrics were read.
    pub(crate) fn scrapes(&self) -> usize {
        self.scrapes.load(Relaxed)
    }
}

async fn scrape(address: String, scrapes: Arc<AtomicUsize>) {
    let mut tick = interval(SCRAPE_EVERY);
    loop {
        tick.tick().await;
        // One that is lost is not counted, and the next is a second away.
        if let Ok(Ok(_)) = timeout(SCRAPE_EVERY, get(&address, "/metrics")).await {
            scrapes.fetch_add(1, Relaxed);
        }
    }
}
