//! How many replicas share the budget: by the addresses behind a headless service's name, looked up
//! again and again. Each of them takes its part, so that together they never exceed the whole.

use std::{collections::BTreeSet, io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    net::lookup_host,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::budget::queue::Budget;

/// Pause between two lookups.
const PAUSE: Duration = Duration::from_secs(5);
/// One lookup takes at most this long.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

/// The part of one replica. Nobody to be found means that this one is alone, or not yet listed.
fn part(whole: f64, replicas: usize) -> f64 {
    whole / replicas.max(1) as f64
}

/// Keeps a budget at this replica's part of the whole until shutdown. A lookup that fails leaves it
/// where it is.
pub async fn share(budget: Arc<Budget>, whole: f64, name: String, shutdown: CancellationToken) {
    let looking = follow(&budget, whole, || addresses(&name));
    shutdown.run_until_cancelled(looking).await;
}

async fn follow<F>(budget: &Budget, whole: f64, mut look: impl FnMut() -> F)
where
    F: Future<Output = io::Result<BTreeSet<IpAddr>>>,
{
    let mut known = None;
    let mut failing = false;
    loop {
        match timeout(LOOKUP_TIMEOUT, look()).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => {
                failing = false;
                let replicas = addresses.len();
                if known != Some(replicas) {
                    known = Some(replicas);
                    budget.set_limit(part(whole, replicas));
                    tracing::info!(replicas, "the recommender's budget is shared");
                }
            }
            looked => {
                if !failing {
                    let error = match looked {
                        Ok(Ok(_)) => "there is no address".to_owned(),
                        Ok(Err(error)) => error.to_string(),
                        Err(_) => "no answer in time".to_owned(),
                    };
                    tracing::warn!(error, "cannot look up the replicas; their number stays");
                }
                failing = true;
            }
        }
        sleep(PAUSE.mul_f64(rand::random_range(0.8..=1.2))).await;
    }
}

async fn addresses(name: &str) -> io::Result<BTreeSet<IpAddr>> {
    let found = lookup_host((name, 0)).await?;
    Ok(found.map(|address| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque};

    use super::*;
    use crate::counters::Counters;

    fn listed(count: u8) -> io::Result<BTreeSet<IpAddr>> {
        Ok((0..count)
            .map(|last| IpAddr::from([10, 0, 0, last]))
            .collect())
    }

    #[tokio::test(start_paused = true)]
    async fn each_replica_takes_its_part_as_they_come_and_go() {
        let budget = Budget::new(500.0, 10, Counters::default().serving.budget);
        let silent = || Err(io::ErrorKind::TimedOut.into());
        let answers = [listed(1), listed(3), silent(), listed(0), listed(2)];
        let answers = RefCell::new(VecDeque::from(answers));
        let limits = RefCell::new(Vec::new());
        let look = || {
            limits
                .borrow_mut()
                .push(budget.state().limit.round() as u32);
            let answer = answers.borrow_mut().pop_front();
            async move {
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
        };
        let _ = timeout(Duration::from_secs(40), follow(&budget, 500.0, look)).await;
        let seen = limits.into_inner();
        assert_eq!(seen[..6], [500, 500, 167, 167, 167, 250]);
    }

    #[tokio::test]
    async fn a_name_is_looked_up() {
        let found = addresses("localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty());
    }
}
