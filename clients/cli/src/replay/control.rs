//! Steering a match that is being played: pause it, move it to a moment, change its speed. Says what
//! is wanted; the playing itself is `replay`.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard, watch};

use super::Pace;

/// What is wanted of a replay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    /// Whether the match goes on.
    pub playing: bool,
    /// How many times faster than the real match.
    pub speed: f64,
    /// The last jump that was asked for.
    pub jump: Option<Jump>,
}

/// A move to a moment, which is written at once, also while the match is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jump {
    /// Tells one jump from the next to the same moment.
    pub number: u64,
    /// Place of the moment in the match, from 0.
    pub moment: usize,
}

/// The hand on a replay. Clones steer the same one.
#[derive(Debug, Clone)]
pub struct Remote {
    wanted: watch::Sender<Wanted>,
    pen: Arc<Mutex<()>>,
}

/// The replay's end of a [`Remote`].
#[derive(Debug)]
pub struct Receiver {
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) pen: Arc<Mutex<()>>,
}

impl Wanted {
    /// Moves the match to a moment.
    pub fn jump(&mut self, moment: usize) {
        let number = self.jump.map_or(0, |jump| jump.number) + 1;
        self.jump = Some(Jump { number, moment });
    }
}

impl Remote {
    /// A hand on a match that is not played yet.
    pub fn new(pace: Pace, playing: bool) -> (Self, Receiver) {
        let (sender, wanted) = watch::channel(Wanted {
            playing,
            speed: pace.speed,
            jump: None,
        });
        let pen = Arc::new(Mutex::new(()));
        let receiver = Receiver {
            wanted,
            pen: pen.clone(),
        };
        (
            Self {
                wanted: sender,
                pen,
            },
            receiver,
        )
    }

    /// What is wanted now.
    pub fn wanted(&self) -> Wanted {
        *self.wanted.borrow()
    }

    /// Changes what is wanted.
    pub fn want(&self, change: impl FnOnce(&mut Wanted)) {
        self.wanted.send_modify(change);
    }

    /// Pauses the match and holds the pen: until it is dropped the replay writes nothing, and
    /// afterwards only what is asked of it after this call.
    pub async fn take_over(&self) -> MutexGuard<'_, ()> {
        self.want(|wanted| wanted.playing = false);
        self.pen.lock().await
    }
}
