//! Filling the server's cache before a match: rankings of many consumers in likely states, page by
//! page, with budget that nobody else wants. Knows no budget of its own: the server keeps to its.
//!
//! In reading order: [`consumers`] and [`states`], who and in which; [`plan`], how long it will
//! take; this file, the asking; `campaign`, what Personalize keeps ready for it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use touchline_client::{
    BatchAnswer, Client,
    proto::{Freshness, Purpose},
};
use touchline_runtime::backoff::Backoff;
use touchline_store::ids::ConsumerId;

use self::states::State;

#[cfg(feature = "campaign")]
pub mod campaign;
pub mod consumers;
pub mod plan;
pub mod states;

/// Pages that are asked for at the same time: while one comes to its end the next has begun.
const PAGES_AT_ONCE: usize = 4;
/// How long the answers of one page are waited for: its own share of the budget is a few seconds,
/// the rest is for those who go before it.
pub const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often somebody hears how far it is, also while nothing happens.
const TOLD_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at rankings that the server refreshes meanwhile.
const REFRESH_PAUSE: Duration = Duration::from_millis(500);
/// Different reasons that are told apart.
const REASONS_MAX: usize = 20;
const OTHER_REASONS: &str = "other reasons";
const STILL_STALE: &str = "only an older ranking is there, and no newer one came";

/// What is asked for, in which order: state by state, in each all consumers in their order.
#[derive(Debug)]
pub struct Work<'a> {
    /// The states.
    pub states: &'a [State],
    /// The consumers.
    pub consumers: &'a [ConsumerId],
    /// Consumers of one call, 1 to 1,000.
    pub page_size: usize,
    /// A page is asked for again as long as this, after the last answer to any of its consumers.
    pub patience: Duration,
    /// What is not done by then is left.
    pub until: Option<Instant>,
}

impl Work<'_> {
    /// How many rankings that are.
    pub fn questions(&self) -> u64 {
        self.states.len() as u64 * self.consumers.len() as u64
    }

    fn pages(&self) -> usize {
        self.states.len() * self.consumers.len().div_ceil(self.page_size)
    }

    fn page(&self, number: usize) -> (&State, &[ConsumerId]) {
        let pages_of_state = self.consumers.len().div_ceil(self.page_size);
        let first = number % pages_of_state * self.page_size;
        let end = (first + self.page_size).min(self.consumers.len());
        let state = &self.states[number / pages_of_state];
        (state, &self.consumers[first..end])
    }
}

/// What has become of the rankings so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Asked of the recommender.
    pub asked: u64,
    /// In the cache already.
    pub cached: u64,
    /// Not warmed, by why.
    pub failed: BTreeMap<String, u64>,
}

impl Tally {
    /// In the cache now.
    pub fn warmed(&self) -> u64 {
        self.asked + self.cached
    }

    /// Given up.
    pub fn failed(&self) -> u64 {
        self.failed.values().sum()
    }

    fn fail(&mut self, reason: &str, count: u64) {
        let is_known = self.failed.contains_key(reason) || self.failed.len() < REASONS_MAX;
        let reason = if is_known { reason } else { OTHER_REASONS };
        *self.failed.entry(reason.to_owned()).or_default() += count;
    }
}

/// Why no more is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Everything was asked for.
    Done,
    /// Somebody interrupted.
    Interrupted,
    /// The time was over.
    TimeOver,
    /// There was no point in going on, for this reason.
    GaveUp(String),
}

/// Asks for everything, until it is done, the time is over or `shutdown` says so; `told` hears of
/// every ranking whose fate is known, and from time to time. One that cannot be had leaves the others alone.
pub async fn warm(
    client: &Client,
    work: &Work<'_>,
    shutdown: &CancellationToken,
    told: &(dyn Fn(&Tally) + Sync),
) -> (Tally, End) {
    let progress = Progress {
        tally: Mutex::default(),
        told,
    };
    let mut pages = stream::iter(0..work.pages())
        .map(|number| {
            let (state, page) = work.page(number);
            ask_page(client, state, page, work.patience, &progress)
        })
        .buffer_unordered(PAGES_AT_ONCE);
    let over = async {
        match work.until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    let mut ticks = tokio::time::interval(TOLD_PAUSE);
    let end = loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break End::Interrupted,
            () = &mut over => break End::TimeOver,
            page = pages.next() => match page {
                Some(Err(GivenUp { reason, is_unreachable })) => {
                    // Whoever is not there, or never gave anything, will not from now on.
                    if is_unreachable || progress.lock().warmed() == 0 {
                        break End::GaveUp(reason);
                    }
                }
                Some(Ok(())) => {}
                None => break End::Done,
            },
            _ = ticks.tick() => progress.note(|_| ()),
        }
    };
    drop(pages);
    let tally = progress.lock().clone();
    (tally, end)
}

struct Progress<'a> {
    tally: Mutex<Tally>,
    told: &'a (dyn Fn(&Tally) + Sync),
}

impl Progress<'_> {
    fn lock(&self) -> MutexGuard<'_, Tally> {
        // Counting cannot be left half-way.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, change: impl FnOnce(&mut Tally)) {
        let mut tally = self.lock();
        change(&mut tally);
        (self.told)(&tally);
    }
}

/// A page of which nothing could be had.
struct GivenUp {
    reason: String,
    is_unreachable: bool,
}

/// What one look at a page's consumers gave.
#[derive(Default)]
struct Round {
    warmed: usize,
    /// Who may be asked for again.
    left: Vec<ConsumerId>,
    /// Why the last of them has to be.
    reason: String,
    is_unreachable: bool,
    /// Somebody has an older ranking, and a newer one is under way.
    is_refreshing: bool,
    pause: Duration,
}

/// One look at consumers of a page.
#[derive(Clone, Copy)]
struct Look<'a> {
    state: &'a State,
    consumers: &'a [ConsumerId],
    /// What is cached now was so before anybody asked.
    is_first: bool,
    progress: &'a Progress<'a>,
}

impl Round {
    fn again(&mut self, consumer: &ConsumerId, reason: &str) {
        self.left.push(consumer.clone());
        if self.reason != reason {
            reason.clone_into(&mut self.reason);
        }
    }
}

/// Asks for one page, and again for whom that may help, as long as it helps anybody.
async fn ask_page(
    client: &Client,
    state: &State,
    page: &[ConsumerId],
    patience: Duration,
    progress: &Progress<'_>,
) -> Result<(), GivenUp> {
    let mut backoff = Backoff::default();
    let (mut consumers, mut warmed) = (page.to_vec(), 0);
    let mut answered_at = Instant::now();
    let (mut reason, mut is_first_look) = (String::new(), true);
    loop {
        let look = Look {
            state,
            consumers: &consumers,
            is_first: is_first_look,
            progress,
        };
        let round = ask_round(client, look, &mut reason).await;
        warmed += round.warmed;
        if round.left.is_empty() {
            break;
        }
        if round.left.len() < consumers.len() {
            answered_at = Instant::now();
            backoff.reset();
        }
        consumers = round.left;
        // What is refreshed waits its turn at the server, and that is no failure.
        let patience = match round.is_refreshing {
            true => patience.max(PAGE_TIMEOUT),
            false => patience,
        };
        if answered_at.elapsed() >= patience {
            progress.note(|tally| tally.fail(&round.reason, consumers.len() as u64));
            reason = round.reason;
            if round.is_unreachable {
                let is_unreachable = true;
                return Err(GivenUp {
                    reason,
                    is_unreachable,
                });
            }
            break;
        }
        is_first_look = false;
        sleep(match round.is_refreshing {
            true => REFRESH_PAUSE,
            false => backoff.pause().max(round.pause),
        })
        .await;
    }
    if warmed > 0 {
        return Ok(());
    }
    Err(GivenUp {
        reason,
        is_unreachable: false,
    })
}

/// Asks for these consumers once. `refused` is why any of them is not asked for again.
async fn ask_round(client: &Client, look: Look<'_>, refused: &mut String) -> Round {
    let Look {
        state,
        consumers,
        progress,
        ..
    } = look;
    let mut round = Round::default();
    let mut open = vec![true; consumers.len()];
    let ids = consumers.iter().map(ToString::to_string).collect();
    let answers = client.batch_for(Purpose::Warm, state.as_asked(), ids);
    tokio::pin!(answers);
    let failed = loop {
        let answer = match answers.next().await {
            None => break None,
            Some(Err(error)) => break Some(error),
            Some(Ok(answer)) => answer,
        };
        let place = answer.consumer_index;
        // A place that nobody stands at is a server's mistake, and nobody's answer.
        if !open.get_mut(place).is_some_and(std::mem::take) {
            continue;
        }
        take(answer, &consumers[place], look, &mut round, refused);
    };
    let left = consumers.iter().zip(open).filter(|(_, open)| *open);
    let left: Vec<&ConsumerId> = left.map(|(consumer, _)| consumer).collect();
    match failed {
        Some(error) if !error.is_transient() => {
            *refused = error.to_string();
            progress.note(|tally| tally.fail(refused, left.len() as u64));
        }
        Some(error) => {
            round.is_unreachable = error.is_unreachable();
            round.pause = round.pause.max(error.retry_after().unwrap_or_default());
            let reason = error.to_string();
            left.iter()
                .for_each(|consumer| round.again(consumer, &reason));
        }
        None => left
            .iter()
            .for_each(|consumer| round.again(consumer, "the server left them out")),
    }
    round
}

/// What one consumer's answer means.
fn take(
    answer: BatchAnswer,
    consumer: &ConsumerId,
    look: Look<'_>,
    round: &mut Round,
    refused: &mut String,
) {
    match answer.component_set {
        Ok(set) => match set.freshness() {
            // It was asked for again just now, by this very look at it.
            Freshness::Stale => {
                round.is_refreshing = true;
                round.again(consumer, STILL_STALE);
            }
            freshness => {
                round.warmed += 1;
                look.progress.note(|tally| match freshness {
                    Freshness::Cached if look.is_first => tally.cached += 1,
                    _ => tally.asked += 1,
                });
            }
        },
        Err(error) if error.is_transient() => round.again(consumer, &error.to_string()),
        Err(error) => {
            *refused = error.to_string();
            look.progress.note(|tally| tally.fail(refused, 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_and_bounded() {
        let mut tally = Tally::default();
        for number in 0..100 {
            tally.fail(&format!("reason {number}"), 2);
        }
        tally.fail("reason 0", 1);
        assert_eq!(tally.failed.len(), REASONS_MAX + 1);
        assert_eq!(tally.failed["reason 0"], 3);
        assert_eq!(tally.failed[OTHER_REASONS], 160);
        assert_eq!(tally.failed(), 201);
    }
}
