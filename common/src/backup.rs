//! Backup sessions.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    BackupId, BackupType, CheckpointId, Consistency, InstanceId, OperationId, ReferencePointId, SessionId, VmId,
};

/// A backup of one VM by another program: the checkpoint that it reads, and what becomes of it.
///
/// ```text
///  STARTING ── the checkpoint is made ── OPEN ─┬─ completed ── COMPLETED: the checkpoint goes, a reference point stays
///     └── it cannot be made ── ABORTED ────────┴─ aborted, or its lease lapsed ── ABORTED: the checkpoint goes
/// ```
/// Each state is written in the transaction that makes it true: no checkpoint of a session outlives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Its id.
    pub id: BackupId,
    /// Whose.
    pub vm: VmId,
    /// When it was asked for.
    pub created: Timestamp,
    /// What it means for the history of the guest's applications.
    pub backup_type: BackupType,
    /// What the guest is asked for.
    pub asked: AskedConsistency,
    /// The point that it builds on, if on one.
    pub from_point: Option<ReferencePointId>,
    /// How long it lasts without a call of its client.
    pub lease: Duration,
    /// When it lapses. Each call of its client puts it off by the lease.
    pub deadline: Timestamp,
    /// What makes its checkpoint.
    pub operation: OperationId,
    /// Its checkpoint, from the moment when it is made; when the session has ended it is gone.
    pub checkpoint: Option<CheckpointId>,
    /// The quiesce session that is still open in the guest, so that its writers can be told how the backup ended.
    pub quiesce: Option<(InstanceId, SessionId)>,
    /// How it stands.
    pub state: BackupState,
    /// Names the request that it was made by.
    pub request_id: Option<String>,
}

/// What a backup wants of the guest, and the least that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedConsistency {
    /// `APPLICATION` or `FILE_SYSTEM`: the guest is asked to be quiet. `CRASH`: it is not.
    pub wanted: Consistency,
    /// Less than this is no backup. `CRASH`: if the guest cannot be made quiet, its disks are cut as they are.
    pub least: Consistency,
}

/// How a backup session stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BackupState {
    /// Its checkpoint is being made.
    Starting,
    /// Its checkpoint can be read.
    Open,
    /// Its client has said that the data is safe.
    Completed {
        /// The reference point that was left.
        point: ReferencePointId,
        /// What the guest's writers were told.
        writers: WritersTold,
    },
    /// It was given up: no reference point was left, and no writer was told that its data is safe.
    Aborted {
        /// Why, in words.
        why: String,
    },
}

/// What writers of a guest were told at the end of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WritersTold {
    /// There are none, or none was asked for this backup.
    None,
    /// All: their data is safe, and they may cut their logs as the type of the backup allows.
    Told,
    /// They could not be told. They keep their logs, which costs space and nothing else.
    NotTold {
        /// Why, in words.
        why: String,
    },
}

impl Backup {
    /// Whether it has not ended.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        match self.state {
            BackupState::Starting | BackupState::Open => true,
            BackupState::Completed { .. } | BackupState::Aborted { .. } => false,
        }
    }

    /// The same, with its lease renewed, and a little more: so that not each call of a client that reads is a write.
    #[must_use]
    pub fn renewed(self, now: Timestamp) -> Self {
        Self { deadline: now.saturating_add(self.lease + self.lease / 16).unwrap_or(Timestamp::MAX), ..self }
    }

    /// Whether less than its whole lease is left, so that a call of its client renews it.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        Duration::try_from(self.deadline.duration_since(now)).unwrap_or_default() < self.lease
    }

    /// Whether its client has been silent for too long.
    #[must_use]
    pub fn has_lapsed(&self, now: Timestamp) -> bool {
        self.state == BackupState::Open && self.deadline <= now
    }
}

impl AskedConsistency {
    /// Whether the guest is asked to be quiet.
    #[must_use]
    pub const fn asks_guest(self) -> bool {
        match self.wanted {
            Consistency::Application | Consistency::FileSystem => true,
            Consistency::Crash | Consistency::Memory | Consistency::Offline => false,
        }
    }

    /// Whether what was got is enough. A VM that was off has nothing that is not on its disks.
    #[must_use]
    pub const fn is_met_by(self, got: Consistency) -> bool {
        rank(got) >= rank(self.least)
    }
}

/// The disks of a VM that was saved are as after a power cut, as far as they are read without its memory.
const fn rank(consistency: Consistency) -> u8 {
    match consistency {
        Consistency::Crash | Consistency::Memory => 0,
        Consistency::FileSystem => 1,
        Consistency::Application => 2,
        Consistency::Offline => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_got_is_enough_if_it_is_no_less_than_what_was_asked() {
        use Consistency::{Application, Crash, FileSystem, Memory, Offline};
        let met = |least, got| AskedConsistency { wanted: Application, least }.is_met_by(got);
        for got in [Crash, Memory, FileSystem, Application, Offline] {
            assert!(met(Crash, got), "{got:?}");
            assert_eq!(met(FileSystem, got), !matches!(got, Crash | Memory), "{got:?}");
            assert_eq!(met(Application, got), matches!(got, Application | Offline), "{got:?}");
        }
    }
}
