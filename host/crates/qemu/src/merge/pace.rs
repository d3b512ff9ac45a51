//! Decides how fast a merge may go, from what the guest suffers. Pure.
//!
//! ```text
//! unlimited ── requests take too long ─▶ half of what it did ── still too long ─▶ half of that … down to the floor
//!     ▲                                        │ requests are as usual
//!     └── faster than it ever went ◀── half as much again, each time ◀┘
//! ```
//! The floor and the end of all limits once everything has been copied bound how long a merge takes: see ADR 15.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{config::MergePace, qmp::commands::Job};

/// Between two looks at what the guest suffers.
const LOOK: Duration = Duration::from_millis(100);
/// Requests that take so many times as long as before the merge, and longer than is bearable, take too long.
const TIMES_USUAL: u32 = 4;
/// A guest that was served nothing for so long suffers nothing, and does not wait for a request that hangs.
const NOTHING_SERVED: Duration = Duration::from_secs(2);

/// What a guest asks of its disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Read,
    /// And flush.
    Write,
}

/// What of it a disk has done since the guest's process began: how many requests, and how long they took together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Served {
    pub(super) count: u64,
    pub(super) time: Duration,
}

impl Served {
    /// How long one took since `before`, if there was one.
    fn each_since(self, before: Self) -> Option<Duration> {
        let count = u32::try_from(self.count.checked_sub(before.count)?).unwrap_or(u32::MAX);
        self.time.saturating_sub(before.time).checked_div(count)
    }
}

/// All that the disks of a guest have done for it. They share what the merge takes, whichever of them is merged.
pub(super) type Load = BTreeMap<(String, Kind), Served>;

/// The speed of one job.
#[derive(Debug)]
pub(super) struct Pace {
    config: MergePace,
    may_be_limited: bool,
    last: Option<Look>,
    /// How long a request took before the merge.
    usual: BTreeMap<(String, Kind), Duration>,
    /// Bytes a second; `None` is no limit.
    limit: Option<u64>,
    /// The most that it did in a second.
    peak: u64,
    served_last: Option<Instant>,
    /// What took too long when it was last done, and when that was.
    suffering: BTreeMap<(String, Kind), Instant>,
    /// What there was to copy when we first looked.
    first_total: u64,
}

#[derive(Debug, Clone)]
struct Look {
    at: Instant,
    load: Load,
    done: u64,
}

/// How the guest fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guest {
    Suffers,
    IsWell,
    /// Nothing was served in a time so short that it may wait for it.
    Unknown,
}

impl Pace {
    /// Of a job that has no limit, or that may have one which a service before us has left.
    pub(super) const fn new(config: MergePace, may_be_limited: bool) -> Self {
        Self {
            config,
            may_be_limited,
            last: None,
            usual: BTreeMap::new(),
            limit: None,
            peak: 0,
            served_last: None,
            suffering: BTreeMap::new(),
            first_total: 0,
        }
    }

    pub(super) const fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// Whether it is time to look again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.last.as_ref().is_none_or(|last| now >= last.at + LOOK)
    }

    /// The speed that the job is to have from now on, if that is another one; 0 is no limit. What may be limited by a
    /// service before us is let go first.
    pub(super) fn next(&mut self, job: &Job, load: Load, now: Instant) -> Option<u64> {
        let look = Look { at: now, load, done: job.current_progress };
        let Some(last) = self.last.replace(look.clone()) else {
            let usual = look.load.into_iter();
            self.usual = usual.filter_map(|(of, all)| Some((of, all.each_since(Served::default())?))).collect();
            self.first_total = job.total_progress;
            self.served_last = Some(now);
            return self.may_be_limited.then_some(0);
        };
        let rate = per_second(look.done.saturating_sub(last.done), now - last.at);
        self.peak = self.peak.max(rate);
        let before = self.limit;
        self.limit = match self.guest(&last, &look) {
            // What is left now is what the guest has written since: the sooner that is copied, the better.
            _ if look.done >= self.first_total => None,
            Guest::Suffers => Some((before.map_or(rate, |limit| limit.min(rate.max(1))) / 2).max(self.config.floor)),
            Guest::IsWell => before.map(|limit| limit.saturating_add(limit / 2)).filter(|limit| *limit <= self.peak),
            Guest::Unknown => before,
        };
        (self.limit != before).then(|| self.limit.unwrap_or(0))
    }

    fn guest(&mut self, last: &Look, look: &Look) -> Guest {
        let (mut served, mut suffers) = (false, false);
        for (of, all) in &look.load {
            let Some(each) = all.each_since(last.load.get(of).copied().unwrap_or_default()) else { continue };
            served = true;
            let usual = self.usual.get(of).copied().unwrap_or_default();
            if each > self.config.bearable && each > usual * TIMES_USUAL {
                suffers = true;
                self.suffering.insert(of.clone(), look.at);
            } else {
                self.suffering.remove(of);
            }
        }
        self.suffering.retain(|_, since| look.at < *since + NOTHING_SERVED);
        let since = *self.served_last.get_or_insert(look.at);
        if served {
            self.served_last = Some(look.at);
        }
        let may_wait = !self.suffering.is_empty() || (!served && look.at < since + NOTHING_SERVED);
        match (suffers, may_wait) {
            (true, _) => Guest::Suffers,
            (false, true) => Guest::Unknown,
            (false, false) => Guest::IsWell,
        }
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
        load: Load,
        done: u64,
        limit: u64,
    }

    fn of(disk: &str, kind: Kind) -> (String, Kind) {
        (disk.to_owned(), kind)
    }

    impl Trial {
        fn new() -> Self {
            let served = Served { count: 1000, time: Duration::from_secs(1) };
            let all = [of("data", Kind::Write), of("data", Kind::Read), of("logs", Kind::Write)];
            let load = all.into_iter().map(|of| (of, served)).collect();
            let mut trial = Self { pace: Pace::new(CONFIG, true), now: Instant::now(), load, done: 0, limit: 7 };
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
            self.limit = self.pace.next(&job, self.load.clone(), self.now).unwrap_or(self.limit);
        }

        /// A tenth of a second later the guest has done so many writes that took so long each. Answers the limit.
        fn step(&mut self, writes: u64, each: u64) -> u64 {
            self.does(&of("data", Kind::Write), writes, each);
            self.tenth()
        }

        fn does(&mut self, of: &(String, Kind), count: u64, each: u64) {
            let served = self.load.get_mut(of).unwrap();
            served.count += count;
            served.time += Duration::from_millis(count * each);
        }

        fn tenth(&mut self) -> u64 {
            self.now += LOOK;
            self.done += if self.limit == 0 { 20 * MIB } else { (self.limit / 10).min(20 * MIB) };
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
        trial.pace.usual.insert(of("data", Kind::Write), Duration::from_millis(40));
        assert_eq!(trial.step(3, 159), 0);
        assert_eq!(trial.step(3, 161) / MIB, 100);
    }

    #[test]
    fn a_guest_that_waits_for_what_it_reads_or_for_another_disk_suffers_too() {
        for slow in [of("data", Kind::Read), of("logs", Kind::Write)] {
            let mut trial = Trial::new();
            trial.does(&of("data", Kind::Write), 1000, 1);
            trial.does(&slow, 2, 400);
            assert_eq!(trial.tenth() / MIB, 100, "{slow:?}: it is not hidden by what is quick");
            trial.does(&of("data", Kind::Write), 1000, 1);
            assert_eq!(trial.tenth() / MIB, 100, "{slow:?}: the next may hang");
            trial.does(&slow, 2, 2);
            assert_eq!(trial.tenth() / MIB, 150, "{slow:?}");
        }
    }

    #[test]
    fn a_disk_that_hangs_keeps_no_merge_slow_while_the_others_are_well() {
        let mut trial = Trial::new();
        trial.does(&of("logs", Kind::Write), 2, 400);
        assert_eq!(trial.tenth() / MIB, 100);
        let limits: Vec<u64> = (0..20).map(|_| trial.step(10, 1) / MIB).collect();
        assert!(limits[..18].iter().all(|limit| *limit == 100) && limits[19] > 100, "{limits:?}");
    }
}
