//! Checkpoints.

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    BackupId, BackupType, CheckpointId, CheckpointName, CheckpointPolicy, Consistency, DiskName, FallbackReason,
    FileSystemOutcome, Hazard, Kind, LayerId, Notes, PhaseRecord, PowerState, TpmState, VmDefinition, VmId,
    WriterOutcome,
};

/// An unchanging point in the life of a VM.
///
/// Its disks, memory and definition are never written again until it is deleted; its name, its notes and how long it
/// shall be kept are the only parts that can be changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its id.
    pub id: CheckpointId,
    /// Whose it is.
    pub vm: VmId,
    /// What people call it.
    pub name: CheckpointName,
    /// The checkpoint it came after, if any.
    pub parent: Option<CheckpointId>,
    /// When it was asked for.
    pub created: Timestamp,
    /// What it is.
    pub kind: Kind,
    /// What was asked.
    pub requested_policy: CheckpointPolicy,
    /// What is proven.
    pub consistency: Consistency,
    /// Why it is not the production checkpoint that was asked for, if so.
    pub fallback: Option<FallbackReason>,
    /// The same in words, with what the guest said.
    pub fallback_detail: String,
    /// What it means for the history of the guest's applications, as their writers were told.
    #[serde(default)]
    pub backup_type: BackupType,
    /// The definition the VM had.
    pub definition: VmDefinition,
    /// The layer that holds each disk.
    pub disks: BTreeMap<DiskName, LayerId>,
    /// Machine state, for a standard checkpoint of a VM that was not off.
    pub memory: Option<MemoryState>,
    /// What its TPM kept, if it had one.
    #[serde(default)]
    pub tpm: Option<TpmState>,
    /// The guest was running (and not paused) when the checkpoint was made, or when the state that it contains was saved.
    pub was_running: bool,
    /// What the VM was; `None` in records of versions that did not tell. See [`Checkpoint::vm_state`].
    #[serde(default)]
    pub power: Option<PowerState>,
    /// File systems of the guest and what became of each.
    pub file_systems: Vec<FileSystemOutcome>,
    /// Writers of the guest and what became of each.
    pub writers: Vec<WriterOutcome>,
    /// How long each phase of its making took.
    pub phases: Vec<PhaseRecord>,
    /// Disks it does not contain.
    pub left_out: Vec<LeftOut>,
    /// Whether it can be used.
    pub state: CheckpointState,
    /// What is said about it.
    #[serde(default)]
    pub remarks: Remarks,
}

/// What is said about a checkpoint by those who made it. No disk and no memory depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Remarks {
    /// Free text; can be changed.
    pub notes: Notes,
    /// It is meant to be deleted after this; can be changed. Nothing deletes it unasked: it is reported.
    pub keep_until: Option<Timestamp>,
    /// Made by the service at the start of the VM, and deleted by it at the clean stop.
    pub automatic: bool,
    /// User id, on the host, of who asked for it; `None` if the service did, or nobody knows.
    pub creator: Option<u32>,
    /// Why it is dangerous to apply it, as far as the guest showed when it was made.
    pub hazards: Vec<Hazard>,
    /// The backup session that it was made for, and goes with. It is not among the checkpoints that people are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupId>,
}

impl Remarks {
    /// Whether it has been kept for as long as it was to be kept.
    #[must_use]
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.keep_until.is_some_and(|until| until <= now)
    }
}

/// How a memory state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MemoryFormat {
    /// QEMU's migration stream, as it is. States of the first version are so.
    #[default]
    Stream,
    /// Pages in packs, which checkpoints share, and a manifest.
    Pages,
}

impl Checkpoint {
    /// What the VM was when the checkpoint was made.
    #[must_use]
    pub const fn vm_state(&self) -> PowerState {
        match (self.power, self.was_running, &self.memory) {
            (Some(power), _, _) => power,
            (None, true, _) => PowerState::Running,
            (None, false, Some(_)) => PowerState::Paused,
            (None, false, None) => PowerState::Off,
        }
    }
}

/// RAM pages and device state of one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryState {
    /// The file: the stream or the manifest.
    pub path: PathBuf,
    /// Its size; with a manifest, that of the pages that were stored with it, too.
    pub bytes: u64,
    /// BLAKE3 of the file, hexadecimal.
    pub blake3: String,
    /// Version of the QEMU that wrote it.
    pub qemu_version: String,
    /// How it is kept.
    #[serde(default)]
    pub format: MemoryFormat,
}

/// A disk that is not part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Which one.
    pub disk: DiskName,
    /// Why.
    pub why: String,
}

/// Whether a checkpoint can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CheckpointState {
    /// It can be applied, exported, deleted.
    Ready,
    /// It is gone for every purpose; its layers are being merged.
    Deleting,
}
