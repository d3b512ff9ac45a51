//! Decides how fast a merge may go, from what the guest suffers. Pure.
//!
//! ```text
//! unlimited ── writes take too long ─▶ half of what it did ── still too long ─▶ half of that … down to the floor
//!     ▲                                        │ writes are as usual
//!     └── faster than it ever went ◀── half as much again, each time ◀┘
//! ```
//! The floor and the end of all limits once everything has been copied bound how long a merge takes: see ADR 15.

use std::time::Duration;

use tokio::time::Instant;

use crate::{config::MergePace, qmp::commands::Job};

/// Between two looks at what the guest suffers.
const LOOK: Duration = Duration::from_millis(100);
/// Writes that take so many times as long as before the merge, and longer than is bearable, take too long.
const TIMES_USUAL: u32 = 4;
/// A guest that has written nothing for so long suffers nothing, and does not wait for a write that hangs.
const NOTHING_WRITTEN: Duration = Duration::from_secs(2);

/// What a guest has written to a disk since its process began: how many writes and flushes, and how long they took
/// together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Written {
    pub(super) count: u64,
    pub(super) time: Duration,
}

impl Written {
    /// How long one took since `before`, if there was one.
    fn each_since(self, before: Self) -> Option<Duration> {
        let count = u32::try_from(self.count.checked_sub(before.count)?).unwrap_or(u32::MAX);
        self.time.saturating_sub(before.time).checked_div(count)
    }
}

/// The speed of one job.
#[derive(Debug)]
pub(super) struct Pace {
    config: MergePace,
    may_be_limited: bool,
    last: Option<Look>,
    /// How long a write took before the merge.
    usual: Duration,
    /// Bytes a second; `None` is no limit.
    limit: Option<u64>,
    /// The most that it did in a second.
    peak: u64,
    wrote_last: Option<Instant>,
    /// What there was to copy when we first looked.
    first_total: u64,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    written: Written,
    done: u64,
}

/// How the guest fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guest {
    Suffers,
    IsWell,
    /// Nothing was written in a time so short that it may wait for a write.
    Unknown,
}

impl Pace {
    /// Of a job that has no limit, or that may have one which a service before us has left.
    pub(super) const fn new(config: MergePace, may_be_limited: bool) -> Self {
        let usual = Duration::ZERO;
        Self { config, may_be_limited, last: None, usual, limit: None, peak: 0, wrote_last: None, first_total: 0 }
    }

    pub(super) const fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// Whether it is time to look again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now >= last.at + LOOK)
    }

    /// The speed that the job is to have from now on, if that is another one; 0 is no limit. What may be limited by a
    /// service before us is let go first.
    pub(super) fn next(&mut self, job: &Job, written: Written, now: Instant) -> Option<u64> {
        let look = Look { at: now, written, done: job.current_progress };
        let Some(last) = self.last.replace(look) else {
            self.usual = written.each_since(Written::default()).unwrap_or_default();
            self.first_total = job.total_progress;
            self.wrote_last = Some(now);
            return self.may_be_limited.then_some(0);
        };
        let rate = per_second(look.done.saturating_sub(last.done), now - last.at);
        self.peak = self.peak.max(rate);
        let before = self.limit;
        self.limit = match self.guest(last, look) {
            // What is left now is what the guest has written since: the sooner that is copied, the better.
            _ if look.done >= self.first_total => None,
            Guest::Suffers => Some((before.map_or(rate, |limit| limit.min(rate.max(1))) / 2).max(self.config.floor)),
            Guest::IsWell => before.map(|limit| limit.saturating_add(limit / 2)).filter(|limit| *limit <= self.peak),
            Guest::Unknown => before,
        };
        (self.limit != before).then(|| self.limit.unwrap_or(0))
    }

    fn guest(&mut self, last: Look, look: Look) -> Guest {
        let since = *self.wrote_last.get_or_insert(look.at);
        let Some(each) = look.written.each_since(last.written) else {
            return if look.at >= since + NOTHING_WRITTEN { Guest::IsWell } else { Guest::Unknown };
        };
        self.wrote_last = Some(look.at);
        if each > self.config.bearable && each > self.usual * TIMES_USUAL { Guest::Suffers } else { Guest::IsWell }
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1_000_000) / micros
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const CONFIG: MergePace = MergePace { bearable: Duration::from_millis(50), floor: 16 * MIB };

    /// A merge of a GiB on disks that do so many MiB in a tenth of a second, unless it is limited to less.
    struct Trial {
        pace: Pace,
        now: Instant,
        written: Written,
        done: u64,
        limit: u64,
    }

    impl Trial {
        fn new() -> Self {
            let written = Written { count: 1000, time: Duration::from_secs(1) };
            let mut trial = Self { pace: Pace::new(CONFIG, true), now: Instant::now(), written, done: 0, limit: 7 };
            trial.look();
            assert_eq!(trial.limit, 0, "a limit of an earlier service is lifted");
            trial
        }

        fn look(&mut self) {
            let job = Job {
                id: "merge".into(),
                status: "running".into(),
                current_progress: self.done,
                total_progress: 1024 * MIB,
                error: None,
            };
            self.limit = self.pace.next(&job, self.written, self.now).unwrap_or(self.limit);
        }

        /// A tenth of a second later the guest has done so many writes that took so long each. Answers the limit.
        fn step(&mut self, writes: u64, each: u64) -> u64 {
            self.now += LOOK;
            self.done += if self.limit == 0 { 20 * MIB } else { (self.limit / 10).min(20 * MIB) };
            self.written.count += writes;
            self.written.time += Duration::from_millis(writes * each);
            self.look();
            self.limit
        }
    }

    #[test]
    fn a_job_of_our_own_has_no_limit_to_be_lifted() {
        let mut trial = Trial { pace: Pace::new(CONFIG, false), limit: 7, ..Trial::new() };
        trial.look();
        assert_eq!(trial.limit, 7, "it is told nothing");
    }

    #[test]
    fn a_guest_that_is_well_leaves_a_merge_at_full_speed() {
        let mut trial = Trial::new();
        for each in [1, 3, 49, 50] {
            assert_eq!(trial.step(10, each), 0, "{each} ms");
        }
        assert_eq!(trial.step(0, 0), 0, "nothing was written");
    }

    #[test]
    fn the_merge_of_a_guest_that_suffers_is_slowed_to_the_floor_and_is_let_go_when_it_is_well_again() {
        let mut trial = Trial::new();
        let limits: Vec<u64> = (0..5).map(|_| trial.step(3, 400) / MIB).collect();
        assert_eq!(limits, [100, 50, 25, 16, 16]);
        assert_eq!(trial.step(0, 0) / MIB, 16, "a write may hang");
        let limits: Vec<u64> = (0..8).map(|_| trial.step(10, 2) / MIB).collect();
        assert_eq!(limits, [24, 36, 54, 81, 121, 182, 0, 0], "faster than it ever went is no limit");
        assert_eq!(trial.step(3, 400) / MIB, 100);
    }

    #[test]
    fn a_guest_that_writes_nothing_any_more_keeps_no_merge_slow() {
        let mut trial = Trial::new();
        trial.step(3, 400);
        let limits: Vec<u64> = (0..20).map(|_| trial.step(0, 0) / MIB).collect();
        assert_eq!(limits[..18], [100; 18]);
        assert!(limits[19] > 100, "{limits:?}");
    }

    #[test]
    fn the_floor_bounds_the_time_of_a_merge_and_what_is_left_at_its_end_is_not_slowed() {
        let mut trial = Trial::new();
        let steps = (1..).find(|_| {
            trial.step(3, 10_000);
            trial.done >= 1024 * MIB
        });
        assert!(steps.is_some_and(|steps| steps <= 10 * 1024 / 16 + 10), "{steps:?}");
        assert_eq!(trial.step(3, 10_000), 0);
        assert!(!trial.pace.is_limited());
    }

    #[test]
    fn what_was_usual_before_is_no_suffering() {
        let mut trial = Trial::new();
        trial.pace.usual = Duration::from_millis(40);
        assert_eq!(trial.step(3, 159), 0);
        assert_eq!(trial.step(3, 161) / MIB, 100);
    }
}
