//! How a run goes: the match is played, at first in peace, then leaders are killed, and at the end all
//! must have come to the last state. Computes no figure.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use touchline_client::Client;
use touchline_store::{
    event::{Attribute, EventState},
    ids::EventId,
    tables::Store,
};
use touchline_tests::calls;

use super::{
    Args, CONTROL, EVENT,
    cluster::Cluster,
    fans::Moment,
    record::{Record, after, wait},
    spelling,
};

/// From one kill to the next at least, and until a killed adapter is started again.
const KILL_EVERY: Duration = Duration::from_secs(2);

/// Each kill comes so much later between two changes than the one before, in milliseconds.
const KILL_STEP_MS: u64 = 37;

/// After the last change nothing more may come, also not by an adapter's second look, which is due
/// after a second.
const QUIET: Duration = Duration::from_millis(1_500);

/// A kill and what came after it.
#[derive(Debug)]
pub(super) struct Kill {
    /// When the signal was sent, in nanoseconds since 1970.
    pub(super) unix_ns: u64,
    /// The newest state that the killed leader can have known.
    pub(super) number: u32,
    /// The first push of a newer one, to any fan.
    pub(super) first: Moment,
    /// The same once all fans had a newer one.
    pub(super) all: Moment,
}

/// What a run came to.
#[derive(Debug)]
pub(super) struct Measured {
    /// The first pushes of states, in turn, before the first kill.
    pub(super) control: Vec<Moment>,
    pub(super) kills: Vec<Kill>,
    /// Sets that fans received while leaders were killed, and processor time spent on them.
    pub(super) pushes: u64,
    pub(super) cpu_of_adapters: Duration,
    pub(super) cpu_of_front: Duration,
}

/// The match, as any DynamoDB client writes it.
pub(super) struct Game {
    /// The server, whom nothing is told.
    pub(super) client: Client,
    store: Store,
    /// The newest state whose writing has begun.
    number: AtomicU32,
}

impl Game {
    /// Writes the first state.
    pub(super) async fn begin(cluster: &Cluster) -> Result<Self> {
        let game = Self {
            client: cluster.client()?,
            store: cluster.store(),
            number: AtomicU32::new(0),
        };
        game.put(0).await?;
        Ok(game)
    }

    /// Writes the next state; gives its number.
    async fn change(&self) -> Result<u32> {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        self.put(number).await?;
        Ok(number)
    }

    async fn put(&self, number: u32) -> Result<()> {
        let max = spelling::NUMBER_MAX;
        ensure!(
            number <= max,
            "more than {max} states: take a longer interval"
        );
        let attributes = spelling::attributes(number).into_iter();
        let state = EventState {
            event_id: EventId::new(EVENT)?,
            attributes: attributes
                .map(|(name, value)| (name.to_owned(), Attribute::Text(value)))
                .collect(),
            contents: [].into(),
        };
        self.store.put_event(&state, false).await?;
        Ok(())
    }

    /// Changes at a pace until told to stop; a write that is under way is finished.
    async fn play(&self, every: Duration, stop: &CancellationToken) -> Result<()> {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.change().await?;
        }
        Ok(())
    }

    fn newest(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }
}

/// Lets the match be played, at first in peace, and sees to it that all fans end on its last state.
pub(super) async fn conduct(
    args: &Args,
    cluster: &mut Cluster,
    game: &Game,
    record: &watch::Sender<Record>,
) -> Result<Measured> {
    let registered = |record: &Record| record.is_registered.then_some(());
    wait(record, "every fan is registered", registered).await?;
    all_have(record, game.change().await?).await?;

    let stop = CancellationToken::new();
    let killing = async {
        let begin = record.borrow().first.len();
        sleep(CONTROL).await;
        let control = record.borrow().first[begin..].to_vec();
        let (adapters_before, front_before) = cluster.cpu()?;
        let pushes_before = pushes(record);
        let kills = kill_leaders(args, cluster, game, record).await?;
        let (adapters, front) = cluster.cpu()?;
        stop.cancel();
        anyhow::Ok(Measured {
            control,
            kills,
            pushes: pushes(record) - pushes_before,
            cpu_of_adapters: adapters.saturating_sub(adapters_before),
            cpu_of_front: front.saturating_sub(front_before),
        })
    };
    let interval = Duration::from_millis(args.interval_ms);
    let (measured, ()) = tokio::try_join!(killing, game.play(interval, &stop))?;

    let last = game.change().await?;
    all_have(record, last).await?;
    let set = calls::components(&game.client, "fan-001", EVENT).await?;
    let shown = |item_type: &str| {
        let mut components = set.components.iter();
        let component = components.find(|component| component.item_type == item_type);
        component.map(|component| &*component.item_id)
    };
    let answered = spelling::number(shown);
    ensure!(
        answered == Some(last),
        "all fans have state {last}, and the server answers with {answered:?}"
    );
    sleep(QUIET).await;
    Ok(measured)
}

/// Kills whoever leads, again and again; gives the kills.
async fn kill_leaders(
    args: &Args,
    cluster: &mut Cluster,
    game: &Game,
    record: &watch::Sender<Record>,
) -> Result<Vec<Kill>> {
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut kills = Vec::new();
    let mut between_changes_ms = 0;
    while Instant::now() < end {
        let leader = cluster.leader().await?;
        let again_at = Instant::now() + KILL_EVERY;
        let unix_ns = cluster.kill(leader).await?;
        let number = game.newest();
        let first = |record: &Record| after(&record.first, number);
        let first = wait(record, "a push after a kill", first).await?;
        let all = |record: &Record| after(&record.all, number);
        let all = wait(record, "a push to all fans after a kill", all).await?;
        kills.push(Kill {
            unix_ns,
            number,
            first,
            all,
        });
        sleep_until(again_at).await;
        cluster.start_absent().await?;
        between_changes_ms = (between_changes_ms + KILL_STEP_MS) % args.interval_ms;
        sleep(Duration::from_millis(between_changes_ms)).await;
    }
    Ok(kills)
}

async fn all_have(record: &watch::Sender<Record>, number: u32) -> Result<()> {
    let what = format!("all fans have state {number}");
    let all = |record: &Record| after(&record.all, number - 1);
    wait(record, &what, all).await?;
    Ok(())
}

/// How many sets fans have received.
fn pushes(record: &watch::Sender<Record>) -> u64 {
    let record = record.borrow();
    let moments = record.first.last().into_iter().chain(record.all.last());
    moments.map(|moment| moment.pushes).max().unwrap_or(0)
}
