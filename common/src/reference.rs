//! Reference points.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{BackupType, CheckpointId, CheckpointName, Consistency, DiskName, ReferencePointId, VmId};

/// A point in the life of a VM that is kept only to ask what has changed since. It holds no data, and outlives the
/// checkpoint that it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferencePoint {
    /// Its id.
    pub id: ReferencePointId,
    /// Whose it is.
    pub vm: VmId,
    /// The checkpoint that it was made of, which may be gone.
    pub checkpoint: CheckpointId,
    /// What that was called.
    pub name: CheckpointName,
    /// The instant that it stands for: when the checkpoint was made.
    pub created: Timestamp,
    /// What is proven of that instant.
    pub consistency: Consistency,
    /// What it means for the history of the guest's applications.
    pub backup_type: BackupType,
    /// Its disks, and how large each was, in bytes.
    pub disks: BTreeMap<DiskName, u64>,
    /// Names the request that it was made by.
    pub request_id: Option<String>,
}
