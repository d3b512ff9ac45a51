//! When a VM's layers are collected next. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// The longest time between two tries.
const MOST: Duration = Duration::from_secs(3600);

/// How a collection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Well, or it made way.
    Well,
    /// It failed.
    Badly,
    /// Somebody cancelled it.
    Cancelled,
}

/// Failures in a row, and until when to leave it alone.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    failures: u32,
    not_before: Option<Instant>,
}

impl Schedule {
    /// Takes note of how one ended. `again` is the time until the first new try.
    pub(super) fn ended(&mut self, how: Ended, again: Duration, now: Instant) {
        match how {
            Ended::Well => *self = Self::default(),
            Ended::Badly => {
                let wait = again.saturating_mul(1 << self.failures.min(16)).min(MOST);
                self.failures += 1;
                self.not_before = Some(now + wait);
            }
            Ended::Cancelled => self.not_before = Some(now + MOST),
        }
    }

    /// Somebody wants it done now: what stood against it may have been mended.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// When the next one may begin, if not at once.
    pub(super) fn not_before(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_ever_more_seldom_and_success_forgets_them() {
        let (now, again) = (Instant::now(), Duration::from_secs(30));
        let mut schedule = Schedule::default();
        assert_eq!(schedule.not_before(now), None);
        let mut waits = vec![];
        for _ in 0..9 {
            schedule.ended(Ended::Badly, again, now);
            waits.push((schedule.not_before(now).unwrap() - now).as_secs());
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
        schedule.ended(Ended::Well, again, now);
        assert_eq!(schedule.not_before(now), None);
        schedule.ended(Ended::Badly, again, now);
        assert_eq!(schedule.not_before(now), Some(now + again));
        assert_eq!(schedule.not_before(now + again), None, "then it is due");
    }

    #[test]
    fn a_collection_that_was_cancelled_is_left_alone_until_somebody_wants_it() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.ended(Ended::Cancelled, Duration::from_secs(1), now);
        assert_eq!(schedule.not_before(now), Some(now + MOST));
        schedule.reset();
        assert_eq!(schedule.not_before(now), None);
    }
}
