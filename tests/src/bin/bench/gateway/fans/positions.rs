//! Which change stands where: positions as messages say them, and the changes that were announced.
//! Pure.

use anyhow::{Context, Result, ensure};

/// Changes and positions that are remembered: who stalls is shown what is as old as they stalled.
const REMEMBERED: usize = 20_000;

/// What was announced, and where it stands.
#[derive(Debug, Default)]
pub(super) struct Positions {
    /// The newest last.
    announced: Vec<Announced>,
    known: Vec<Position>,
}

#[derive(Debug, Clone, Copy)]
struct Announced {
    change: u32,
    state: usize,
}

#[derive(Debug)]
struct Position {
    epoch: Vec<u8>,
    sequence: Vec<u8>,
    announced: Announced,
}

impl Positions {
    /// From now on there may be messages of this change.
    pub(super) fn announce(&mut self, change: u32, state: usize) {
        forget(&mut self.announced);
        self.announced.push(Announced { change, state });
    }

    /// The newest change and its state.
    pub(super) fn newest(&self) -> Option<(u32, usize)> {
        let announced = self.announced.last()?;
        Some((announced.change, announced.state))
    }

    /// The changes from this one on, and their states, the oldest first.
    pub(super) fn from(&self, change: u32) -> impl Iterator<Item = (u32, usize)> {
        let begin = self
            .announced
            .partition_point(|announced| announced.change < change);
        let later = self.announced[begin..].iter();
        later.map(|announced| (announced.change, announced.state))
    }

    /// The change that stands at a position, where a state is said to stand.
    pub(super) fn change(&mut self, epoch: &[u8], sequence: &[u8], state: usize) -> Result<u32> {
        let mut known = self.known.iter().rev();
        let known = known.find(|known| known.sequence == sequence && known.epoch == epoch);
        if let Some(Position { announced, .. }) = known {
            ensure!(
                announced.state == state,
                "state {state} at the position of state {}",
                announced.state
            );
            return Ok(announced.change);
        }
        let mut announced = self.announced.iter().rev();
        let announced = announced.find(|announced| announced.state == state);
        let announced = *announced.with_context(|| format!("state {state} was not written"))?;
        let mut same = self.known.iter().filter(|known| known.epoch == epoch);
        let is_in_order = same.all(|known| match known.sequence.as_slice() < sequence {
            true => known.announced.change <= announced.change,
            false => known.announced.change >= announced.change,
        });
        ensure!(
            is_in_order,
            "change {} stands at no position between those around it",
            announced.change
        );
        forget(&mut self.known);
        self.known.push(Position {
            epoch: epoch.to_owned(),
            sequence: sequence.to_owned(),
            announced,
        });
        Ok(announced.change)
    }
}

/// Makes room for one more.
fn forget<T>(remembered: &mut Vec<T>) {
    if remembered.len() >= REMEMBERED {
        remembered.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_that_of_the_change_which_it_was_first_seen_with() {
        let mut positions = Positions::default();
        positions.announce(0, 0);
        assert_eq!(positions.change(b"e", b"10", 0).unwrap(), 0);
        positions.announce(1, 1);
        positions.announce(2, 0);
        assert_eq!(positions.change(b"e", b"10", 0).unwrap(), 0);
        assert_eq!(positions.change(b"e", b"12", 0).unwrap(), 2);
        assert_eq!(positions.change(b"e", b"11", 1).unwrap(), 1);
        assert_eq!(positions.newest(), Some((2, 0)));
    }

    #[test]
    fn a_state_at_another_ones_position_is_a_fault() {
        let mut positions = Positions::default();
        positions.announce(0, 0);
        positions.announce(1, 1);
        assert_eq!(positions.change(b"e", b"11", 1).unwrap(), 1);
        assert!(positions.change(b"e", b"11", 0).is_err());
        assert!(positions.change(b"e", b"12", 0).is_err(), "older, after it");
        assert!(positions.change(b"e", b"13", 2).is_err(), "never written");
        assert_eq!(positions.change(b"f", b"01", 0).unwrap(), 0);
    }
}
