//! The guest's time of day.
//!
//! A guest that was restored is behind by the time since its memory was saved, while its boot clock went on without a
//! jump. The host says what the time was at one reading of the boot clock; so the call may take its time, or come
//! twice.

use std::time::Duration;

use rustix::{
    io::Errno,
    time::{ClockId, Timespec},
};

use crate::freezer::kernel::boot_time;

/// Both clocks, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// Time since boot, including time asleep.
    pub boot: Duration,
    /// Time of day, since 1970.
    pub time: Duration,
}

/// What the time of day was, or will be, at one reading of the boot clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// The reading.
    pub boot: Duration,
    /// The time of day, since 1970.
    pub time: Duration,
    /// How far off it may be.
    pub uncertainty: Duration,
}

/// How the time of day compares with a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    /// How far off it is, in nanoseconds: negative is behind.
    pub off_by_ns: i128,
    /// Further than the reference may be off itself: the clock is to be set.
    pub wrong: bool,
}

impl Clocks {
    /// Reads them.
    #[must_use]
    pub fn read() -> Self {
        let boot = boot_time();
        let now = rustix::time::clock_gettime(ClockId::Realtime);
        let time = Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0));
        Self { boot, time }
    }
}

impl Reference {
    /// Compares.
    #[must_use]
    pub fn compare(&self, clocks: Clocks) -> Comparison {
        let off_by_ns = signed(clocks.time) - self.right_at(clocks.boot);
        Comparison { off_by_ns, wrong: off_by_ns.unsigned_abs() > self.uncertainty.as_nanos() }
    }

    /// The right time, in nanoseconds since 1970, at this reading of the boot clock.
    fn right_at(&self, boot: Duration) -> i128 {
        signed(self.time) + signed(boot) - signed(self.boot)
    }

    /// Sets the guest's time of day.
    ///
    /// # Errors
    /// `PERM` if that is not ours to do, `INVAL` if the kernel does not take the time.
    pub fn set(&self) -> Result<(), Errno> {
        let right = self.right_at(boot_time());
        let seconds = i64::try_from(right.div_euclid(1_000_000_000)).map_err(|_| Errno::INVAL)?;
        let nanos = i64::try_from(right.rem_euclid(1_000_000_000)).map_err(|_| Errno::INVAL)?;
        rustix::time::clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: nanos })
    }
}

fn signed(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_2026: u64 = 1_790_000_000;

    fn at(boot: u64, time: u64) -> Clocks {
        Clocks { boot: Duration::from_secs(boot), time: Duration::from_secs(time) }
    }

    #[test]
    fn a_clock_that_stood_still_is_behind_by_as_much_however_late_it_is_asked() {
        let uncertainty = Duration::from_millis(5);
        let reference = Reference { boot: Duration::from_secs(100), time: Duration::from_secs(YEAR_2026), uncertainty };
        for later in [0, 3, 1000] {
            let behind = reference.compare(at(100 + later, YEAR_2026 - 64 + later));
            assert_eq!(behind, Comparison { off_by_ns: -64_000_000_000, wrong: true });
            let right = reference.compare(at(100 + later, YEAR_2026 + later));
            assert_eq!(right, Comparison { off_by_ns: 0, wrong: false });
        }
    }

    #[test]
    fn a_clock_that_is_right_as_far_as_anyone_knows_is_left_alone() {
        let reference = Reference {
            boot: Duration::from_secs(100),
            time: Duration::from_secs(YEAR_2026),
            uncertainty: Duration::from_millis(5),
        };
        let clocks = |micros| Clocks { boot: reference.boot, time: reference.time + Duration::from_micros(micros) };
        assert!(!reference.compare(clocks(4999)).wrong);
        assert!(reference.compare(clocks(5001)).wrong);
    }

    #[test]
    fn the_clocks_of_this_machine_go_forward() {
        let first = Clocks::read();
        let second = Clocks::read();
        assert!(second.boot >= first.boot && second.time >= first.time);
        assert!(first.time > Duration::from_secs(1_577_836_800), "it is later than 2020");
    }
}
