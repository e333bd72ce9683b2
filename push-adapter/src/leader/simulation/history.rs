//! One history: a few hundred random steps, a last state of each event in the middle of the faults,
//! and then peace, in which everything must come to rest.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    Fault, Guards, Struck,
    process::Process,
    world::{EVENTS, SKEW, World},
};

/// Every fault.
pub(super) const FAULTS: [Fault; 12] = [
    Fault::Crash,
    Fault::Duplicate,
    Fault::LostResponse,
    Fault::Theft,
    Fault::PauseBeforePost,
    Fault::Split,
    Fault::Trim,
    Fault::Throttle,
    Fault::Skew,
    Fault::SameMillisecond,
    Fault::NewStream,
    Fault::ExpiredIterator,
];

/// Steps with faults, at least.
const STEPS_MIN: u32 = 200;
/// Steps around the last states.
const LAST_STEPS: u32 = 120;
/// Values of the last states: none that came before.
const LAST_VALUE: u32 = 100;
/// How long peace may take, in ticks of 100 ms.
const PEACE_TICKS: u32 = 600;

/// A history about to be run.
pub(super) struct History {
    random: StdRng,
    world: World,
    processes: Vec<Process>,
}

impl History {
    pub(super) fn new(seed: u64, guards: Guards) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::new(guards);
        let processes = (0..random.random_range(2..=3))
            .map(|machine| {
                let skew = random.random_range(-SKEW..=SKEW);
                world.count(Fault::Skew);
                Process::new(machine, skew)
            })
            .collect();
        Self {
            random,
            world,
            processes,
        }
    }

    /// Runs it and prints what happens.
    pub(super) fn run_aloud(mut self) -> Result<Struck, String> {
        self.world.trail = Some(Vec::new());
        let run = self.play();
        for line in self.world.trail.into_iter().flatten() {
            println!("{line}");
        }
        run.map(|()| self.world.struck)
    }

    /// Runs it; an error is the invariant that broke.
    pub(super) fn run(mut self) -> Result<Struck, String> {
        self.play()?;
        Ok(self.world.struck)
    }

    fn play(&mut self) -> Result<(), String> {
        for _ in 0..self.random.random_range(1..4) {
            self.world.register(&mut self.random, [true; EVENTS]);
        }
        for _ in 0..self.random.random_range(STEPS_MIN..STEPS_MIN * 2) {
            self.any_step();
            self.unbroken()?;
        }
        self.last_states()?;
        self.peace()?;
        self.world.check_the_end();
        self.unbroken()
    }

    fn unbroken(&mut self) -> Result<(), String> {
        self.world.violation.take().map_or(Ok(()), Err)
    }

    fn any_step(&mut self) {
        match self.random.random_range(0..1_000) {
            0..250 => self.pass(300),
            250..370 => self.write(),
            370..390 => self.world.register(&mut self.random, [true; EVENTS]),
            390..405 => self.split(),
            405..420 => self.world.trim(&mut self.random),
            420..422 => self.world.replace_stream(),
            422..432 => self.crash(),
            432..442 => self.sleep(),
            442..446 => self.steal(),
            _ => self.process_step(),
        }
    }

    fn pass(&mut self, most: u64) {
        let milliseconds = self.random.random_range(1..=most);
        self.world.advance(milliseconds);
    }

    /// A process does what is due, some of it.
    fn process_step(&mut self) {
        let number = self.random.random_range(0..self.processes.len());
        for _ in 0..self.random.random_range(1..8) {
            if !self.processes[number].step(&mut self.world, &mut self.random) {
                return;
            }
        }
    }

    fn write(&mut self) {
        let event = self.random.random_range(0..EVENTS);
        let value = match self.random.random_bool(0.1) {
            true => None,
            false => Some(self.random.random_range(0..3)),
        };
        self.world.write(event, value);
        if self.random.random_bool(0.3) {
            if self.random.random_bool(0.3) {
                self.split();
            }
            let next = self.random.random_range(0..3);
            self.world.write(event, Some(next));
        }
    }

    fn split(&mut self) {
        self.world.count(Fault::Split);
        self.world.stream.split(&mut self.random);
    }

    fn crash(&mut self) {
        self.world.count(Fault::Crash);
        let until = self.world.now + self.random.random_range(100..3_000);
        let number = self.random.random_range(0..self.processes.len());
        self.processes[number].crash(until);
    }

    fn sleep(&mut self) {
        let until = self.world.now + self.random.random_range(100..6_000);
        let number = self.random.random_range(0..self.processes.len());
        self.processes[number].sleep(until);
    }

    fn steal(&mut self) {
        let number = self.random.random_range(0..self.processes.len());
        self.processes[number].steal(&mut self.world);
    }

    /// The last write of each event, fans who register while it is fanned out, and every other fault.
    fn last_states(&mut self) -> Result<(), String> {
        for event in 0..EVENTS {
            let value = match self.random.random_bool(0.1) {
                true => None,
                false => Some(LAST_VALUE + self.random.random_range(0..3)),
            };
            if self.random.random_bool(0.3) {
                self.world.write(event, Some(0));
                self.split();
            }
            self.world.is_served[event] = false;
            self.world.write(event, value);
        }
        for _ in 0..LAST_STEPS {
            match self.random.random_range(0..1_000) {
                0..150 => self.pass(60),
                150..180 => {
                    // Who comes later than that waits for the next change, as with the prototype.
                    let is_owed = self.world.is_served.map(|is_served| !is_served);
                    self.world.register(&mut self.random, is_owed);
                }
                180..190 => self.world.trim(&mut self.random),
                190..195 => self.world.replace_stream(),
                195..205 => self.crash(),
                205..215 => self.sleep(),
                _ => self.process_step(),
            }
            self.unbroken()?;
        }
        Ok(())
    }

    /// Nothing strikes any more: somebody leads, and everything is read, served and recorded.
    fn peace(&mut self) -> Result<(), String> {
        self.world.has_faults = false;
        let mut quiet = 0;
        for _ in 0..PEACE_TICKS {
            self.world.advance(100);
            for process in &mut self.processes {
                let mut steps = 0;
                while process.step(&mut self.world, &mut self.random) && steps < 50 {
                    steps += 1;
                }
            }
            self.unbroken()?;
            let is_settled = self.world.is_quiet()
                && self.processes.iter().any(Process::leads)
                && self
                    .processes
                    .iter()
                    .all(|process| process.is_settled(&self.world));
            quiet = if is_settled { quiet + 1 } else { 0 };
            // Longer than a lease lasts: a leader that was replaced has noticed.
            if quiet > 30 {
                return Ok(());
            }
        }
        Err("nothing comes to rest".to_owned())
    }
}
