//! How fast layers are merged on this host, from the merges since the service began.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Less than this says more about the work around it than about the disks.
const TOO_LITTLE: u64 = 1 << 20;

/// Bytes a second, with newer merges counting more.
#[derive(Debug, Default)]
pub(crate) struct Speed {
    /// 0: nothing is known.
    bytes: AtomicU64,
}

impl Speed {
    /// So many bytes have been moved in this time.
    pub(crate) fn note(&self, bytes: u64, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let Some(now) = bytes.saturating_mul(1_000_000).checked_div(micros) else { return };
        if bytes < TOO_LITTLE || now == 0 {
            return;
        }
        let before = self.bytes.load(Ordering::Relaxed);
        let mixed = if before == 0 { now } else { (before / 4 * 3).saturating_add(now / 4).max(1) };
        self.bytes.store(mixed, Ordering::Relaxed);
    }

    /// Bytes a second, if something is known.
    pub(crate) fn get(&self) -> Option<u64> {
        Some(self.bytes.load(Ordering::Relaxed)).filter(|speed| *speed > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_that_of_the_last_merges_and_of_none_that_was_too_short_to_tell() {
        let speed = Speed::default();
        assert_eq!(speed.get(), None);
        speed.note(TOO_LITTLE - 1, Duration::from_secs(1));
        speed.note(TOO_LITTLE, Duration::ZERO);
        assert_eq!(speed.get(), None);
        speed.note(8 << 20, Duration::from_secs(2));
        assert_eq!(speed.get(), Some(4 << 20));
        speed.note(8 << 20, Duration::from_secs(1));
        assert_eq!(speed.get(), Some(5 << 20));
    }
}
