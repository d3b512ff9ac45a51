//! Decides when and how much a guest must be slowed down for a merge to come to its end.

use std::time::Duration;

use tokio::time::Instant;

use crate::qmp::commands::Job;

/// How long a merge may stay unready after everything was copied once, and between one limit and the next.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes a second that a guest may write, one after the other. The last is slower than any disk that a VM can run on.
const LIMITS: [u64; 5] = [32 << 20, 8 << 20, 2 << 20, 512 << 10, 64 << 10];

#[derive(Debug, Default)]
pub(super) struct Convergence {
    /// What there was to copy when we first looked.
    first_total: Option<u64>,
    /// Since when the present state has lasted.
    since: Option<Instant>,
    given: usize,
}

impl Convergence {
    /// The next limit, if it is time for one.
    pub(super) fn next_limit(&mut self, job: &Job, now: Instant) -> Option<u64> {
        let total = *self.first_total.get_or_insert(job.total_progress);
        if job.status != "running" || total == 0 || job.current_progress < total {
            return None;
        }
        let since = *self.since.get_or_insert(now);
        if now < since + PATIENCE {
            return None;
        }
        let limit = LIMITS.get(self.given).copied();
        self.given += 1;
        self.since = Some(now);
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(current: u64, total: u64) -> Job {
        Job {
            id: "merge".into(),
            status: "running".into(),
            current_progress: current,
            total_progress: total,
            error: None,
        }
    }

    #[test]
    fn a_guest_is_left_alone_until_all_was_copied_once_and_then_slowed_down_step_by_step() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut convergence = Convergence::default();
        assert_eq!(convergence.next_limit(&job(0, 100), at(0)), None);
        assert_eq!(convergence.next_limit(&job(90, 300), at(60)), None);
        assert_eq!(convergence.next_limit(&job(110, 300), at(61)), None);
        assert_eq!(convergence.next_limit(&job(200, 400), at(63)), None);
        let limits: Vec<_> = (64..90).filter_map(|s| convergence.next_limit(&job(300, 500), at(s))).collect();
        assert_eq!(limits, LIMITS);
    }
}
