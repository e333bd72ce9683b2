//! How a run goes: the match is played, gateways are stopped one after the other, and after each of them
//! everybody has to show the newest state and be reached by one more change. Computes no figure.

use std::{cell::Cell, time::Duration};

use anyhow::{Result, ensure};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    Args,
    crowd::{Command, Crowd, Report},
    fronts::{Fronts, How},
};
use crate::gateway::{
    balance::{self, Counted, Counts},
    script::STATES,
    site::Site,
};

/// From so many fans on a drain takes several waves, so that some are served while it lasts.
const FANS_OF_WAVES: u64 = 100;

/// What fans noticed of a gateway that was stopped.
pub(super) struct Noticed {
    pub(super) how: How,
    /// How long the gateway took to end.
    pub(super) ended: Duration,
    pub(super) report: Report,
}

/// What a run came to.
#[derive(Default)]
pub(super) struct Measured {
    pub(super) noticed: Vec<Noticed>,
    /// The counters of each process when it was last at rest, and what its fans had received.
    pub(super) counted: Vec<(Counted, u64)>,
    /// The same of those that run.
    running: [Option<(Counted, u64)>; 2],
    pub(super) changes: u32,
}

/// The match, whose states are written one after the other.
struct Game<'a> {
    site: &'a Site,
    crowd: &'a Crowd,
    newest: Cell<u32>,
    /// Held while a change is made.
    turn: Mutex<()>,
}

impl Game<'_> {
    /// Makes the next change, once somebody is shown the one before: so it is known which of two alike a
    /// message answers.
    async fn change(&self, all: bool, _turn: &MutexGuard<'_, ()>) -> Result<u32> {
        self.crowd.first(self.newest.get()).await?;
        let (change, state) = (self.newest.get() + 1, self.site.next_state());
        self.newest.set(change);
        let announced = Command::Announce { change, state, all };
        self.crowd.tell(&announced).await?;
        self.site.change(state).await?;
        Ok(change)
    }

    /// Changes at a pace until told to stop; one that is being made is finished.
    async fn play(&self, every: Duration, stop: &CancellationToken) -> Result<()> {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let turn = self.turn.lock().await;
            self.change(false, &turn).await?;
        }
        Ok(())
    }
}

/// Lets the match be played while gateways are stopped.
pub(super) async fn conduct(
    args: &Args,
    site: &Site,
    fronts: &mut Fronts<'_>,
    crowd: &Crowd,
) -> Result<Measured> {
    let game = Game {
        site,
        crowd,
        newest: Cell::new(1),
        turn: Mutex::default(),
    };
    let written = Command::Announce {
        change: 1,
        state: site.state(),
        all: false,
    };
    crowd.tell(&written).await?;
    crowd.tell(&Command::Connect { fans: args.fans }).await?;
    crowd.settle().await?;
    let turn = game.turn.lock().await;
    for _ in 0..STATES {
        crowd.all(game.change(true, &turn).await?).await?;
    }
    drop(turn);
    let (stop, mut measured) = (CancellationToken::new(), Measured::default());
    let stopping = async {
        for how in [How::Restart, How::Kill] {
            for round in 1..=args.rounds {
                eprintln!("{}, round {round} of {}", how.name(), args.rounds);
                let turn = game.turn.lock().await;
                // Nothing is under way to whoever leaves.
                crowd.settle().await?;
                crowd.tell(&Command::Spread).await?;
                rest(&game, &turn).await?;
                drop(turn);
                for front in 0..fronts.addresses.len() {
                    let noticed = stop_one(&game, fronts, (front, how), &mut measured).await?;
                    measured.noticed.push(noticed);
                }
            }
        }
        stop.cancel();
        anyhow::Ok(())
    };
    tokio::try_join!(stopping, game.play(args.interval(), &stop))?;
    measured.counted.extend(measured.running.iter().flatten());
    measured.changes = game.newest.get();
    Ok(measured)
}

/// Waits until everybody shows the newest state, and sees that the next change reaches everybody.
async fn rest(game: &Game<'_>, turn: &MutexGuard<'_, ()>) -> Result<()> {
    game.crowd.settle().await?;
    game.crowd.all(game.change(true, turn).await?).await
}

/// Stops a gateway and starts it again while the match goes on; then the match rests until everybody is
/// whole.
async fn stop_one(
    game: &Game<'_>,
    fronts: &mut Fronts<'_>,
    (front, how): (usize, How),
    measured: &mut Measured,
) -> Result<Noticed> {
    let crowd = game.crowd;
    measured.counted.extend(measured.running[front].take());
    crowd.tell(&Command::Stop { front }).await?;
    let ended = fronts.stop(front, how, crowd).await?;
    let turn = game.turn.lock().await;
    rest(game, &turn).await?;
    let report = crowd.report().await?;
    for (front, received) in report.received.iter().enumerate() {
        let name = format!("gateway {front} after a {}", how.name());
        let gateway = fronts.running(front)?;
        let counted = balance::settled(&name, gateway, *received, Counts::Exactly).await?;
        measured.running[front] = counted.map(|counted| (counted, *received));
    }
    ensure!(
        report.lost > 0,
        "nobody was at the gateway that was stopped"
    );
    if how == How::Restart {
        let Report {
            lost, told, served, ..
        } = report;
        ensure!(
            lost == told,
            "{told} of {lost} fans were told when to come back"
        );
        ensure!(
            served > 0 || lost < FANS_OF_WAVES,
            "none of {lost} fans was served while the gateway drained"
        );
    }
    Ok(Noticed { how, ended, report })
}
