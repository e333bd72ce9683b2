//! How a run goes: the match is played, at first in peace, then leaders are killed, and at the end all
//! must have come to the last state. Computes no figure.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use touchline_client::Client;
use touchline_tests::calls;

use super::{
    Args, CONTROL, EVENT,
    cluster::Cluster,
    fans::Moment,
    game::Game,
    record::{Record, after, wait},
    spelling,
};

/// From one kill to the next at least, and until a killed adapter is started again.
const KILL_EVERY: Duration = Duration::from_secs(2);

/// Of so many kills one is of a leader that has pushed the last state to some fans only.
const CUT_EVERY: usize = 3;

/// Each other kill comes so much later between two changes than the one before, in milliseconds.
const KILL_STEP_MS: u64 = 37;

/// After the last change nothing more may come, also not by an adapter's second look, which is due
/// after a second.
const QUIET: Duration = Duration::from_millis(1_500);

/// A kill while the match goes on, and what came after it. Times are nanoseconds since 1970.
#[derive(Debug)]
pub(super) struct Kill {
    /// When the signal was sent.
    pub(super) unix_ns: u64,
    /// The first push, to any fan, of a state that the killed leader cannot have known.
    pub(super) first_unix_ns: u64,
    /// When all fans had such a state.
    pub(super) all_unix_ns: u64,
    /// When a watcher of the event saw one.
    pub(super) seen_unix_ns: u64,
    /// When it saw one that came over the change feed.
    pub(super) fed_unix_ns: u64,
}

/// A kill in the middle of the fan-out of a state that stays the newest.
#[derive(Debug)]
pub(super) struct Cut {
    /// When the signal was sent.
    pub(super) unix_ns: u64,
    /// When all fans had the state.
    pub(super) all_unix_ns: u64,
}

/// What a run came to.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// The first pushes of states, in turn, before the first kill.
    pub(super) control: Vec<Moment>,
    pub(super) kills: Vec<Kill>,
    pub(super) cuts: Vec<Cut>,
    /// Sets that fans received while leaders were killed, and processor time spent on them.
    pub(super) pushes: u64,
    pub(super) cpu_of_adapters: Duration,
    pub(super) cpu_of_front: Duration,
}

impl Measured {
    /// When leaders were killed, in nanoseconds since 1970.
    pub(super) fn killed_unix_ns(&self) -> Vec<u64> {
        let kills = self.kills.iter().map(|kill| kill.unix_ns);
        kills
            .chain(self.cuts.iter().map(|cut| cut.unix_ns))
            .collect()
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
        let mut measured = Measured {
            control: record.borrow().first[begin..].to_vec(),
            ..Measured::default()
        };
        let (adapters, front) = cluster.cpu()?;
        let before = pushes(record);
        kill_leaders(args, cluster, game, record, &mut measured).await?;
        let (adapters_now, front_now) = cluster.cpu()?;
        measured.pushes = pushes(record) - before;
        measured.cpu_of_adapters = adapters_now.saturating_sub(adapters);
        measured.cpu_of_front = front_now.saturating_sub(front);
        stop.cancel();
        anyhow::Ok(measured)
    };
    let interval = Duration::from_millis(args.interval_ms);
    let (measured, ()) = tokio::try_join!(killing, game.play(interval, &stop))?;

    let last = game.change().await?;
    all_have(record, last).await?;
    let answered = answered(&cluster.client()?).await?;
    ensure!(
        answered == Some(last),
        "all fans have state {last}, and the server answers with {answered:?}"
    );
    sleep(QUIET).await;
    Ok(measured)
}

/// Kills whoever leads, again and again.
async fn kill_leaders(
    args: &Args,
    cluster: &mut Cluster,
    game: &Game,
    record: &watch::Sender<Record>,
    measured: &mut Measured,
) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut between_changes_ms = 0;
    for kill in 1.. {
        let again_at = Instant::now() + KILL_EVERY;
        if kill % CUT_EVERY == 0 {
            measured.cuts.push(cut(cluster, game, record).await?);
        } else {
            sleep(Duration::from_millis(between_changes_ms)).await;
            measured.kills.push(kill_one(cluster, game, record).await?);
            between_changes_ms = (between_changes_ms + KILL_STEP_MS) % args.interval_ms;
        }
        sleep_until(again_at).await;
        cluster.start_absent().await?;
        if Instant::now() >= end {
            break;
        }
    }
    Ok(())
}

/// Kills the leader while the match goes on, and waits until the next one has reached everybody.
async fn kill_one(
    cluster: &mut Cluster,
    game: &Game,
    record: &watch::Sender<Record>,
) -> Result<Kill> {
    let leader = cluster.leader().await?;
    let unix_ns = cluster.kill(leader).await?;
    let known = game.newest();
    let first = |record: &Record| after(&record.first, known);
    let first = wait(record, "a push after a kill", first).await?;
    let all = |record: &Record| after(&record.all, known);
    let all = wait(record, "a push to all fans after a kill", all).await?;
    let seen = |record: &Record| record.sight_after(known, false);
    let seen = wait(record, "a watcher's next state after a kill", seen).await?;
    let fed = |record: &Record| record.sight_after(known, true);
    let fed = wait(record, "the change feed after a kill", fed).await?;
    Ok(Kill {
        unix_ns,
        first_unix_ns: first.unix_ns,
        all_unix_ns: all.unix_ns,
        seen_unix_ns: seen.unix_ns,
        fed_unix_ns: fed.unix_ns,
    })
}

/// Kills the leader when the first fan has a state; the others have to get it from the next leader, as
/// the match rests.
async fn cut(cluster: &mut Cluster, game: &Game, record: &watch::Sender<Record>) -> Result<Cut> {
    let leader = cluster.leader().await?;
    let rest = game.rest().await;
    let number = rest.change().await?;
    let first = |record: &Record| after(&record.first, number - 1);
    wait(record, "the push that is cut short", first).await?;
    let unix_ns = cluster.kill(leader).await?;
    let all_unix_ns = all_have(record, number).await?.unix_ns;
    Ok(Cut {
        unix_ns,
        all_unix_ns,
    })
}

async fn all_have(record: &watch::Sender<Record>, number: u32) -> Result<Moment> {
    let what = format!("all fans have state {number}");
    let all = |record: &Record| after(&record.all, number - 1);
    wait(record, &what, all).await
}

/// The number of the state that the server answers with.
async fn answered(client: &Client) -> Result<Option<u32>> {
    let set = calls::components(client, "fan-001", EVENT).await?;
    Ok(spelling::number(|item_type| {
        let mut components = set.components.iter();
        let component = components.find(|component| component.item_type == item_type);
        component.map(|component| &*component.item_id)
    }))
}

/// How many sets fans have received.
fn pushes(record: &watch::Sender<Record>) -> u64 {
    let record = record.borrow();
    let moments = record.first.last().into_iter().chain(record.all.last());
    moments.map(|moment| moment.pushes).max().unwrap_or(0)
}
