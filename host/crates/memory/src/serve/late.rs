//! A page that cannot be read for now: a file server that does not answer is no reason to end a machine. Pure.

use std::time::Duration;

use rustix::io::Errno;
use tokio::time::Instant;

use crate::state::StateError;

/// How long reading is tried again, from the first time that it failed. A file server that was started again is back by
/// then; whoever waits for the page waits as long.
pub(super) const READ_FOR: Duration = Duration::from_secs(300);
/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);

/// It goes before all others.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Late {
    /// Block and page.
    pub(super) page: (usize, u64),
    /// The file that is open is not that of the file server any more: it is to be opened again.
    pub(super) is_stale: bool,
    since: Instant,
    again: Instant,
}

impl Late {
    /// What is to be done after a page could not be read, and what was late before. Damage stays what it is, and so does
    /// what has failed for [`READ_FOR`].
    pub(super) fn after(
        before: Option<&Self>,
        page: (usize, u64),
        error: StateError,
        now: Instant,
    ) -> Result<Self, StateError> {
        let since = before.map_or(now, |late| late.since);
        match &error {
            StateError::Io { source, .. } if now.duration_since(since) < READ_FOR => {
                let is_stale = Errno::from_io_error(source) == Some(Errno::STALE);
                Ok(Self { page, is_stale, since, again: now + AGAIN })
            }
            StateError::Io { .. }
            | StateError::Missing { .. }
            | StateError::Damaged { .. }
            | StateError::Newer { .. } => Err(error),
        }
    }

    /// How long until it is tried again.
    pub(super) fn rest(&self, now: Instant) -> Duration {
        self.again.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use std::{io, path::Path};

    use super::*;

    fn io(error: Errno) -> StateError {
        StateError::io(Path::new("/p"), "reading")(io::Error::from(error))
    }

    #[test]
    fn what_may_pass_is_tried_again_for_some_minutes_and_damage_is_not() {
        let begun = Instant::now();
        let late = Late::after(None, (1, 7), io(Errno::IO), begun).unwrap();
        assert_eq!((late.page, late.is_stale, late.rest(begun)), ((1, 7), false, AGAIN));
        assert_eq!(late.rest(begun + READ_FOR), Duration::ZERO);
        let almost = begun + READ_FOR - Duration::from_millis(1);
        let still = Late::after(Some(&late), (1, 7), io(Errno::STALE), almost).unwrap();
        assert!(still.is_stale && still.since == begun);
        assert!(matches!(
            Late::after(Some(&still), (1, 7), io(Errno::IO), begun + READ_FOR),
            Err(StateError::Io { .. })
        ));
        for last in [StateError::damaged(Path::new("/p"), "bad"), io(Errno::NOENT)] {
            assert!(Late::after(None, (0, 0), last, begun).is_err());
        }
    }
}
