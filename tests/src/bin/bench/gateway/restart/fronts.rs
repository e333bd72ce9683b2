//! The two gateways, and what a load balancer knows of them. Decides nothing about when one is stopped.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::time::sleep;
use touchline_tests::process::free_address;

use super::crowd::{Command, Crowd};
use crate::{
    gateway::{
        balance,
        site::{Gateway, Site},
    },
    service::Service,
};

/// How often a load balancer looks whether a gateway is ready.
const LOOK: Duration = Duration::from_millis(250);

/// How long a gateway that was killed stays away.
const REPLACED: Duration = Duration::from_secs(1);

/// What a gateway may take to end beyond its drain.
const ENDING_MAX: Duration = Duration::from_secs(5);

/// How a gateway is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// It is asked to end.
    Restart,
    /// It dies.
    Kill,
}

impl How {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Kill => "kill -9",
        }
    }
}

/// Both gateways, each at a port of its own for as long as this lives.
pub(super) struct Fronts<'a> {
    site: &'a Site,
    drain: Duration,
    pub(super) addresses: [SocketAddr; 2],
    running: [Option<Gateway>; 2],
}

impl<'a> Fronts<'a> {
    /// Starts both.
    pub(super) async fn start(site: &'a Site, drain: Duration) -> Result<Self> {
        let mut fronts = Self {
            site,
            drain,
            addresses: [free_address()?, free_address()?],
            running: [None, None],
        };
        for front in 0..fronts.running.len() {
            fronts.start_one(front).await?;
        }
        Ok(fronts)
    }

    async fn start_one(&mut self, front: usize) -> Result<()> {
        let drain = format!("{}s", self.drain.as_secs());
        let address = self.addresses[front].to_string();
        let flags = [("--drain-timeout", &*drain)];
        let gateway = self.site.gateway_at(&address, &flags).await?;
        let metrics = gateway.metrics.as_ref();
        balance::ready(metrics.context("a gateway has metrics")?).await?;
        self.running[front] = Some(gateway);
        Ok(())
    }

    /// A gateway that runs.
    pub(super) fn running(&self, front: usize) -> Result<&Gateway> {
        self.running[front].as_ref().context("it runs")
    }

    /// Stops a gateway and starts it again; fans are sent to it while it is ready, as far as the load
    /// balancer knows. Gives how long it took to end.
    pub(super) async fn stop(&mut self, front: usize, how: How, crowd: &Crowd) -> Result<Duration> {
        let gateway = self.running[front].take().context("it runs")?;
        let Gateway {
            service, metrics, ..
        } = gateway;
        let metrics = metrics.context("a gateway has metrics")?;
        let begin = Instant::now();
        let ending = async {
            match how {
                How::Restart => service.terminate(self.drain + ENDING_MAX).await?,
                How::Kill => service.kill_9().await?,
            }
            let ended = begin.elapsed();
            if how == How::Kill {
                sleep(REPLACED).await;
            }
            anyhow::Ok(ended)
        };
        let noticing = async {
            // It looks at its own pace, and not when something happens.
            loop {
                sleep(LOOK).await;
                if !balance::is_ready(&metrics).await {
                    return crowd
                        .tell(&Command::Balance {
                            front,
                            is_up: false,
                        })
                        .await;
                }
            }
        };
        let (ended, ()) = tokio::try_join!(ending, noticing)?;
        self.start_one(front).await?;
        crowd.tell(&Command::Balance { front, is_up: true }).await?;
        Ok(ended)
    }

    /// The ends of all logs, for a person to read.
    pub(super) fn logs(&self) -> String {
        let running = self.running.iter().flatten();
        running
            .map(|gateway| Service::log(&gateway.service))
            .collect()
    }
}
