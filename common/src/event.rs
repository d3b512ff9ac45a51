//! Events: what has happened to VMs and their checkpoints, one after the other.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{CheckpointId, OperationId, Reason, VmId};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventKind {
    /// A VM was defined.
    VmDefined,
    /// A VM's record was changed.
    VmChanged,
    /// A VM was forgotten.
    VmForgotten,
    /// A VM was started.
    VmStarted,
    /// A VM was stopped, or its guest has switched itself off.
    VmStopped,
    /// A VM's process has ended by itself.
    VmDied,
    /// The kernel of a VM's guest has panicked.
    GuestPanicked,
    /// What is done about a VM that has failed, or that no more is done.
    VmRecovery,
    /// A VM was paused.
    VmPaused,
    /// A paused VM was resumed.
    VmResumed,
    /// A VM's memory was kept and its process ended.
    VmSaved,
    /// The saved state of a VM was given up.
    SavedStateDiscarded,
    /// A VM stands still because a disk could not be read or written.
    VmCritical,
    /// A VM that stood still by itself does so no longer.
    VmCriticalOver,
    /// A checkpoint was made.
    CheckpointCreated,
    /// A production checkpoint was not possible and a standard one was made instead.
    CheckpointFellBack,
    /// A VM was brought back to a checkpoint.
    CheckpointApplied,
    /// A checkpoint was renamed.
    CheckpointRenamed,
    /// A checkpoint is gone; its layers are merged later.
    CheckpointDeleted,
    /// The memory of a checkpoint is gone; the checkpoint stays.
    MemoryStateDeleted,
    /// A checkpoint was copied out.
    CheckpointExported,
    /// A backup session has ended well.
    BackupCompleted,
    /// A backup session was given up, or its lease has lapsed.
    BackupAborted,
    /// Layers that nothing needs were merged and removed.
    LayersMerged,
    /// An operation failed, or was given up.
    OperationFailed,
    /// The host's own affairs: the reserve of the catalogue was given up, or is held again.
    Host,
}

/// The place of an event among all: later ones are larger, none is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EventToken {
    /// Revision of the commit that wrote it.
    pub revision: u64,
    /// Its place in that commit.
    pub place: u32,
}

/// Text that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no token of an event, which look like 1234-0")]
pub struct TokenError;

impl fmt::Display for EventToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.revision, self.place)
    }
}

impl FromStr for EventToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()) && !part.is_empty();
        let (revision, place) = text.split_once('-').filter(|(a, b)| number(a) && number(b)).ok_or(TokenError)?;
        Ok(Self { revision: revision.parse().map_err(|_| TokenError)?, place: place.parse().map_err(|_| TokenError)? })
    }
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// What.
    pub kind: EventKind,
    /// To which VM; `None`: to the host.
    pub vm: Option<VmId>,
    /// Which checkpoint, if it is about one.
    pub checkpoint: Option<CheckpointId>,
    /// The operation that did it, if one did.
    pub operation: Option<OperationId>,
    /// Why, if something failed.
    pub reason: Option<Reason>,
    /// In words, for a person.
    pub text: String,
}

impl Event {
    /// An event of a VM.
    #[must_use]
    pub fn of_vm(time: Timestamp, kind: EventKind, vm: &VmId, text: impl Into<String>) -> Self {
        let (checkpoint, operation, reason) = (None, None, None);
        Self { time, kind, vm: Some(vm.clone()), checkpoint, operation, reason, text: text.into() }
    }

    /// An event of the host.
    #[must_use]
    pub fn of_host(time: Timestamp, text: impl Into<String>) -> Self {
        let (vm, checkpoint, operation, reason) = (None, None, None, None);
        Self { time, kind: EventKind::Host, vm, checkpoint, operation, reason, text: text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_grows_and_anything_else_is_refused() {
        let token = EventToken { revision: 1234, place: 5 };
        assert_eq!(token.to_string().parse(), Ok(token));
        assert!(token < EventToken { revision: 1234, place: 6 } && token < EventToken { revision: 1235, place: 0 });
        for odd in ["", "1", "-", "1-", "-1", "1-2-3", "+1-2", "a-1", "99999999999999999999-0", "1-4294967296"] {
            assert_eq!(odd.parse::<EventToken>(), Err(TokenError), "{odd}");
        }
    }
}
