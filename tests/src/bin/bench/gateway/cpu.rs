//! Processor time of a process, finer than the kernel's ticks where that can be had.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;

use crate::system::cpu_of;

/// What `/proc/PID/stat` counts in.
const TICK: Duration = Duration::from_millis(10);

/// What a process has used so far.
#[derive(Debug, Clone)]
pub(super) struct Used {
    /// Of all threads that it ever had, in ticks.
    whole: Duration,
    /// Of each thread that it has, in nanoseconds.
    threads: BTreeMap<u32, u64>,
}

impl Used {
    /// Looks at a process.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let mut threads = BTreeMap::new();
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?;
            // A thread may have ended since; then its time is missing here, and in what is whole.
            let Ok(stat) = std::fs::read_to_string(thread.path().join("schedstat")) else {
                continue;
            };
            let id = thread.file_name().to_string_lossy().parse()?;
            let used = stat.split_whitespace().next().unwrap_or_default();
            threads.insert(id, used.parse()?);
        }
        Ok(Self {
            whole: cpu_of(pid)?,
            threads,
        })
    }

    /// What was used since an earlier look: to the nanosecond, unless a thread has ended with some.
    pub(super) fn since(&self, earlier: &Self) -> Duration {
        let whole = self.whole.saturating_sub(earlier.whole);
        let fine = self.threads.iter().map(|(id, used)| {
            let before = earlier.threads.get(id).copied().unwrap_or(0);
            used.saturating_sub(before)
        });
        let fine = Duration::from_nanos(fine.sum());
        if fine + 2 * TICK < whole { whole } else { fine }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(whole_ms: u64, threads: &[(u32, u64)]) -> Used {
        Used {
            whole: Duration::from_millis(whole_ms),
            threads: threads.iter().copied().collect(),
        }
    }

    #[test]
    fn threads_say_what_ticks_do_not() {
        let earlier = used(100, &[(1, 40_000_000), (2, 60_000_000)]);
        let later = used(110, &[(1, 44_500_000), (2, 60_000_000), (3, 1_000_000)]);
        assert_eq!(later.since(&earlier), Duration::from_micros(5_500));
    }

    #[test]
    fn a_thread_that_ended_is_in_the_whole() {
        let earlier = used(100, &[(1, 40_000_000), (2, 60_000_000)]);
        let later = used(400, &[(1, 44_500_000)]);
        assert_eq!(later.since(&earlier), Duration::from_millis(300));
    }

    #[test]
    fn this_process_uses_some() {
        let pid = std::process::id();
        let earlier = Used::of(pid).unwrap();
        let mut sum = 0_u64;
        while Used::of(pid).unwrap().since(&earlier) < Duration::from_millis(1) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
