//! The state of one writer, as VSS has it: what it was asked last, and whether that went well.
//!
//! ```text
//!   Stable ── PrepareSnapshot ─▶ WaitingForFreeze ── Freeze ─▶ WaitingForThaw ── Thaw ─▶ WaitingForPostSnapshot
//!     ▲                                                                                           │ PostSnapshot
//!     └───────────── BackupComplete, BackupShutdown, Abort ─────────── WaitingForBackupComplete ◀─┘
//! ```
//! From every state a failure leads to `FailedAt`, and only a session that gets as far as `PrepareSnapshot` leads out.

use stillpoint_common::{WriterEvent, WriterState};

/// The state in which the answer to an event leaves a writer.
#[must_use]
pub const fn after(state: WriterState, event: WriterEvent, done: bool) -> WriterState {
    if !done {
        return WriterState::FailedAt(event);
    }
    match event {
        WriterEvent::Identify | WriterEvent::PrepareBackup => match state {
            WriterState::Unknown => WriterState::Stable,
            WriterState::Stable
            | WriterState::WaitingForFreeze
            | WriterState::WaitingForThaw
            | WriterState::WaitingForPostSnapshot
            | WriterState::WaitingForBackupComplete
            | WriterState::FailedAt(_) => state,
        },
        WriterEvent::PrepareSnapshot => WriterState::WaitingForFreeze,
        WriterEvent::Freeze => WriterState::WaitingForThaw,
        WriterEvent::Thaw => WriterState::WaitingForPostSnapshot,
        WriterEvent::PostSnapshot => WriterState::WaitingForBackupComplete,
        WriterEvent::BackupComplete => WriterState::Stable,
        // The end of a session does not make a failure undone.
        WriterEvent::BackupShutdown | WriterEvent::Abort | WriterEvent::PreRestore | WriterEvent::PostRestore => {
            match state {
                WriterState::FailedAt(_) => state,
                WriterState::Unknown
                | WriterState::Stable
                | WriterState::WaitingForFreeze
                | WriterState::WaitingForThaw
                | WriterState::WaitingForPostSnapshot
                | WriterState::WaitingForBackupComplete => WriterState::Stable,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use WriterEvent as E;
    use WriterState as S;

    #[test]
    fn a_session_that_goes_well_ends_stable() {
        let events = [E::Identify, E::PrepareBackup, E::PrepareSnapshot, E::Freeze, E::Thaw, E::PostSnapshot];
        let mut state = S::Stable;
        let states = events.map(|event| {
            state = after(state, event, true);
            state
        });
        let wanted = [
            S::Stable,
            S::Stable,
            S::WaitingForFreeze,
            S::WaitingForThaw,
            S::WaitingForPostSnapshot,
            S::WaitingForBackupComplete,
        ];
        assert_eq!(states, wanted);
        assert_eq!(after(state, E::BackupComplete, true), S::Stable);
        assert_eq!(after(state, E::BackupShutdown, true), S::Stable);
    }

    #[test]
    fn a_failure_stays_until_a_later_session_gets_on() {
        let failed = after(S::WaitingForFreeze, E::Freeze, false);
        assert_eq!(failed, S::FailedAt(E::Freeze));
        for event in [E::Abort, E::Abort, E::BackupShutdown, E::Identify, E::PrepareBackup] {
            assert_eq!(after(failed, event, true), failed, "{event:?}");
        }
        assert_eq!(after(failed, E::PrepareSnapshot, true), S::WaitingForFreeze);
    }

    #[test]
    fn an_abort_brings_everyone_else_back() {
        for state in [S::Stable, S::WaitingForFreeze, S::WaitingForThaw, S::WaitingForPostSnapshot] {
            assert_eq!(after(state, E::Abort, true), S::Stable);
        }
    }
}
