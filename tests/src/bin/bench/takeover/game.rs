//! The match as any DynamoDB client writes it: states with rising numbers, one after the other.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use touchline_store::{
    event::{Attribute, EventState},
    ids::EventId,
    tables::Store,
};

use super::{EVENT, spelling};

/// The match.
pub(super) struct Game {
    store: Store,
    /// The newest state whose writing has begun.
    number: AtomicU32,
    /// Held while a state is written: they are written one after the other.
    turn: Mutex<()>,
}

/// While it lasts nobody else changes the match.
pub(super) struct Rest<'a> {
    game: &'a Game,
    _turn: MutexGuard<'a, ()>,
}

impl Game {
    /// Writes the first state.
    pub(super) async fn begin(store: Store) -> Result<Self> {
        let game = Self {
            store,
            number: AtomicU32::new(0),
            turn: Mutex::default(),
        };
        game.put(0).await?;
        Ok(game)
    }

    /// Writes the next state; gives its number.
    pub(super) async fn change(&self) -> Result<u32> {
        self.rest().await.change().await
    }

    /// Waits for the write that is under way.
    pub(super) async fn rest(&self) -> Rest<'_> {
        Rest {
            game: self,
            _turn: self.turn.lock().await,
        }
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
    pub(super) async fn play(&self, every: Duration, stop: &CancellationToken) -> Result<()> {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.change().await?;
        }
        Ok(())
    }

    /// The newest state that anybody can know.
    pub(super) fn newest(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }
}

impl Rest<'_> {
    /// Writes the next state; gives its number.
    pub(super) async fn change(&self) -> Result<u32> {
        let number = self.game.number.fetch_add(1, Ordering::Relaxed) + 1;
        self.game.put(number).await?;
        Ok(number)
    }
}
