//! Backup sessions.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use stillpoint_common::{BackupId, BackupType, Consistency, Failure, OperationId};
use stillpoint_proto::{
    convert::{names, policy, time},
    v1 as pb,
};

use super::{checkpoint::read_backup_type, read_time};

/// A backup of a VM by another program: the checkpoint that it reads, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Backup {
    /// `vms/{vm}/backups/{backup}`
    pub name: String,
    /// The {backup} in it.
    pub id: BackupId,
    /// How it stands.
    pub state: Option<BackupState>,
    /// What makes its checkpoint.
    pub operation: OperationId,
    /// Its checkpoint; empty while that is being made.
    pub checkpoint: String,
    /// What it means for the history of the guest's applications.
    pub backup_type: Option<BackupType>,
    /// What was asked for.
    pub consistency: Option<Consistency>,
    /// The least that was asked for.
    pub least_consistency: Option<Consistency>,
    /// The reference point that it builds on; empty: it is a full one.
    pub from_point: String,
    /// How long it lasts without a call of its client, in seconds.
    pub lease_seconds: Option<u64>,
    /// When it ends if its client is silent.
    pub expire_time: Option<Timestamp>,
    /// When it was asked for.
    pub create_time: Option<Timestamp>,
    /// The reference point that it has left.
    pub reference_point: String,
    /// Whether writers were told that their data is safe.
    pub writers_told: Option<WritersTold>,
    /// Why it was aborted, or why writers were not told.
    pub detail: String,
}

/// How a backup session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BackupState {
    /// Its checkpoint is being made.
    Starting,
    /// Its checkpoint can be read.
    Open,
    /// Its client has said that the data is safe.
    Completed,
    /// It was given up.
    Aborted,
}

/// What writers of a guest were told at the end of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WritersTold {
    /// There are none, or none was asked.
    None,
    /// All.
    Told,
    /// They could not be told.
    NotTold,
}

impl TryFrom<pb::Backup> for Backup {
    type Error = Failure;

    fn try_from(backup: pb::Backup) -> Result<Self, Failure> {
        let (_, id) = names::parse_backup(&backup.name, "backup.name")?;
        Ok(Self {
            id,
            state: read_state(backup.state),
            operation: names::parse_operation(&backup.operation, "backup.operation")?,
            backup_type: read_backup_type(backup.backup_type),
            consistency: policy::read_consistency(backup.consistency),
            least_consistency: policy::read_consistency(backup.least_consistency),
            lease_seconds: backup.lease.as_ref().and_then(time::parse_duration).as_ref().map(Duration::as_secs),
            expire_time: read_time(backup.expire_time.as_ref()),
            create_time: read_time(backup.create_time.as_ref()),
            writers_told: read_told(backup.writers_told),
            name: backup.name,
            checkpoint: backup.checkpoint,
            from_point: backup.from_point,
            reference_point: backup.reference_point,
            detail: backup.detail,
        })
    }
}

fn read_state(value: i32) -> Option<BackupState> {
    match pb::BackupState::try_from(value).ok()? {
        pb::BackupState::Unspecified => None,
        pb::BackupState::Starting => Some(BackupState::Starting),
        pb::BackupState::Open => Some(BackupState::Open),
        pb::BackupState::Completed => Some(BackupState::Completed),
        pb::BackupState::Aborted => Some(BackupState::Aborted),
    }
}

fn read_told(value: i32) -> Option<WritersTold> {
    match pb::WritersTold::try_from(value).ok()? {
        pb::WritersTold::Unspecified => None,
        pb::WritersTold::None => Some(WritersTold::None),
        pb::WritersTold::Told => Some(WritersTold::Told),
        pb::WritersTold::NotTold => Some(WritersTold::NotTold),
    }
}
