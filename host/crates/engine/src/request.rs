//! What a client can ask of the engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use stillpoint_common::{
    AskedConsistency, BackupType, Checkpoint, CheckpointId, CheckpointName, CheckpointPolicy, Critical,
    CriticalSettings, DiskFormat, DiskName, Layer, LayerFile, LayerId, Notes, Operation, OperationKind, PowerState,
    ReferencePointId, Remarks, SettingsChange, Vm, VmDefinition, VmFailures, VmId, VmSettings,
};

use crate::{import::ImportRequest, ports::Space};

/// A VM to define.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVm {
    /// Its name.
    pub id: VmId,
    /// What it is made of.
    pub definition: VmDefinition,
    /// What a checkpoint of it shall be.
    pub checkpoint_policy: CheckpointPolicy,
    /// Where its checkpoints are kept; `None`: below the service's own folder.
    pub checkpoint_location: Option<PathBuf>,
    /// What is done when it stands still because a disk could not be written.
    pub critical: CriticalSettings,
    /// What is set beside.
    pub settings: VmSettings,
}

/// Changes to a VM; `None` leaves a part as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmChange {
    /// New policy.
    pub checkpoint_policy: Option<CheckpointPolicy>,
    /// Whether an apply that discards Now makes a checkpoint of it first.
    pub undo_checkpoint: Option<bool>,
    /// New checkpoint location.
    pub checkpoint_location: Option<PathBuf>,
    /// What is done from now on when it stands still because a disk could not be written.
    pub critical: Option<CriticalSettings>,
    /// New definition.
    pub definition: Option<VmDefinition>,
    /// New settings.
    pub settings: SettingsChange,
    /// What the host tells the guest from now on; `None` forgets a key.
    pub values: Vec<(String, Option<String>)>,
}

/// A checkpoint to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NewCheckpoint {
    /// What to call it; `None`: VM and time.
    pub name: Option<CheckpointName>,
    /// Overrides the VM's policy.
    pub policy: Option<CheckpointPolicy>,
    /// A production checkpoint keeps the memory of the quiet guest too, of the same instant.
    #[serde(default)]
    pub with_memory: bool,
    /// What the guest's writers are told that it means for their history. Other than a copy, only a production checkpoint
    /// of a running VM can be.
    #[serde(default)]
    pub backup_type: BackupType,
    /// What is said about it.
    #[serde(default)]
    pub remarks: Remarks,
}

/// A backup session to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBackup {
    /// What it means for the history of the guest's applications.
    pub backup_type: BackupType,
    /// What the guest is asked for, and the least that is taken.
    pub asked: AskedConsistency,
    /// How long it lasts without a call of its client.
    pub lease: Duration,
    /// The point that it builds on, if on one.
    pub from_point: Option<ReferencePointId>,
    /// User id, on the host, of who asked for it.
    pub creator: Option<u32>,
}

/// Changes of what is said about a checkpoint; `None` leaves a part as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointChange {
    /// New name.
    pub name: Option<CheckpointName>,
    /// New notes.
    pub notes: Option<Notes>,
    /// New end of its time; `Some(None)`: none.
    pub keep_until: Option<Option<Timestamp>>,
}

impl CheckpointChange {
    /// The same checkpoint, with what is changed.
    ///
    /// An automatic one that gets a name or a time to be kept is its user's from then on: it is no longer deleted at
    /// the stop of the VM.
    #[must_use]
    pub fn applied(self, mut checkpoint: Checkpoint) -> Checkpoint {
        let adopted = self.name.is_some() || self.keep_until.flatten().is_some();
        checkpoint.remarks.automatic &= !adopted;
        checkpoint.name = self.name.unwrap_or(checkpoint.name);
        checkpoint.remarks.notes = self.notes.unwrap_or(checkpoint.remarks.notes);
        checkpoint.remarks.keep_until = self.keep_until.unwrap_or(checkpoint.remarks.keep_until);
        checkpoint
    }
}

/// Work on one VM that runs as an operation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Request {
    /// Start it.
    Start,
    /// Stop it.
    Stop(StopMode),
    /// Make it stand still.
    Pause,
    /// Let it go on.
    Resume,
    /// Keep its memory and devices, and end its process.
    Save,
    /// Give up its saved state.
    DiscardSaved,
    /// Make a checkpoint.
    CreateCheckpoint(NewCheckpoint),
    /// Bring the VM back to a checkpoint.
    Apply(ApplyRequest),
    /// Bring the VM back to the checkpoint Now is a child of; Now is lost. [`Request::Apply`] can say more; journals of
    /// earlier versions hold this one.
    Revert,
    /// Delete a checkpoint.
    DeleteCheckpoint(CheckpointId),
    /// Delete a checkpoint and all that came after it.
    DeleteSubtree(CheckpointId),
    /// Delete these checkpoints.
    DeleteCheckpoints(BTreeSet<CheckpointId>),
    /// Delete the memory of a checkpoint, which stays.
    DeleteMemory(CheckpointId),
    /// Copy a checkpoint out.
    Export {
        /// Which one.
        checkpoint: CheckpointId,
        /// The folder to make.
        folder: PathBuf,
        /// Format of the images.
        format: DiskFormat,
    },
    /// Make the VM, of an export.
    Import(Box<ImportRequest>),
}

/// Checkpoints that are to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doomed {
    /// These.
    These(BTreeSet<CheckpointId>),
    /// This one and all that came after it.
    Subtree(CheckpointId),
}

impl From<Doomed> for Request {
    fn from(doomed: Doomed) -> Self {
        match doomed {
            Doomed::These(ids) => Self::DeleteCheckpoints(ids),
            Doomed::Subtree(root) => Self::DeleteSubtree(root),
        }
    }
}

/// How to bring a VM back to a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "StoredApply")]
pub struct ApplyRequest {
    /// Which one; `None`: the checkpoint Now is a child of.
    pub checkpoint: Option<CheckpointId>,
    /// What becomes of Now.
    pub now: Now,
    /// What becomes of the machine.
    pub machine: Machine,
}

/// What becomes of the present state of a VM when a checkpoint is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Now {
    /// It is lost, unless the VM's `undo_checkpoint` is set.
    Discard,
    /// A checkpoint is made of it first. If that cannot be made, nothing is applied.
    CheckpointFirst,
}

impl Now {
    /// Whether a checkpoint of Now is made first.
    #[must_use]
    pub const fn is_kept(self, vm: &Vm) -> bool {
        match self {
            Self::Discard => vm.undo_checkpoint,
            Self::CheckpointFirst => true,
        }
    }
}

/// What becomes of the machine when a checkpoint is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Machine {
    /// What it was: running, paused, saved, or off where the checkpoint has no memory.
    #[default]
    AsCaptured,
    /// Saved, to go on at its next start.
    Saved,
    /// Off: the memory, if there is one, is not used.
    WithoutMemory,
}

impl ApplyRequest {
    /// The checkpoint Now is a child of; what happened since is lost; the machine is what it was.
    #[must_use]
    pub const fn revert() -> Self {
        Self { checkpoint: None, now: Now::Discard, machine: Machine::AsCaptured }
    }
}

impl From<CheckpointId> for ApplyRequest {
    /// What happened in Now is lost; the machine is what it was.
    fn from(checkpoint: CheckpointId) -> Self {
        Self { checkpoint: Some(checkpoint), now: Now::Discard, machine: Machine::AsCaptured }
    }
}

/// As journals hold it: earlier versions wrote the checkpoint alone.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum StoredApply {
    Checkpoint(CheckpointId),
    Request { checkpoint: Option<CheckpointId>, now: Now, machine: Machine },
}

impl From<StoredApply> for ApplyRequest {
    fn from(stored: StoredApply) -> Self {
        match stored {
            StoredApply::Checkpoint(checkpoint) => checkpoint.into(),
            StoredApply::Request { checkpoint, now, machine } => Self { checkpoint, now, machine },
        }
    }
}

/// How to stop a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StopMode {
    /// Ask the guest, and wait for it.
    Graceful,
    /// Pull the plug.
    TurnOff,
}

impl Request {
    /// The checkpoint that it reads, if it names one.
    pub(crate) const fn reads(&self) -> Option<CheckpointId> {
        match self {
            Self::Apply(apply) => apply.checkpoint,
            Self::Export { checkpoint: id, .. } => Some(*id),
            Self::Start
            | Self::Stop(_)
            | Self::Pause
            | Self::Resume
            | Self::Save
            | Self::DiscardSaved
            | Self::Revert
            | Self::Import(_)
            | Self::CreateCheckpoint { .. }
            | Self::DeleteCheckpoint(_)
            | Self::DeleteSubtree(_)
            | Self::DeleteCheckpoints(_)
            | Self::DeleteMemory(_) => None,
        }
    }

    /// Whether it reads the checkpoint that Now is a child of.
    pub(crate) const fn reverts(&self) -> bool {
        matches!(self, Self::Revert | Self::Apply(ApplyRequest { checkpoint: None, .. }))
    }

    /// Whether it brings the VM back to a checkpoint.
    #[must_use]
    pub const fn is_apply(&self) -> bool {
        matches!(self.kind(), OperationKind::ApplyCheckpoint)
    }

    /// The kind of operation it becomes.
    #[must_use]
    pub const fn kind(&self) -> OperationKind {
        match self {
            Self::Start => OperationKind::StartVm,
            Self::Stop(_) => OperationKind::StopVm,
            Self::Pause => OperationKind::PauseVm,
            Self::Resume => OperationKind::ResumeVm,
            Self::Save => OperationKind::SaveVm,
            Self::DiscardSaved => OperationKind::DiscardSavedState,
            Self::CreateCheckpoint(_) => OperationKind::CreateCheckpoint,
            Self::Apply(_) | Self::Revert => OperationKind::ApplyCheckpoint,
            Self::DeleteCheckpoint(_) | Self::DeleteSubtree(_) | Self::DeleteCheckpoints(_) => {
                OperationKind::DeleteCheckpoint
            }
            Self::DeleteMemory(_) => OperationKind::DeleteMemoryState,
            Self::Export { .. } => OperationKind::ExportCheckpoint,
            Self::Import(_) => OperationKind::ImportVm,
        }
    }
}

/// A VM as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmView {
    /// Its record.
    pub vm: Vm,
    /// The checkpoint that Now is a child of, as people are shown: not one of a backup session.
    pub parent: Option<CheckpointId>,
    /// Whether it runs.
    pub power: PowerState,
    /// For each disk the file that takes its writes, and how many layers it reads through.
    pub disks: Vec<(DiskName, LayerFile, usize)>,
    /// Why it stands still, if it does so by itself.
    pub critical: Option<Critical>,
    /// It stands still because the kernel of its guest has panicked.
    pub panicked: bool,
    /// How it has failed.
    pub failures: VmFailures,
    /// What works on it.
    pub operation: Option<Operation>,
}

/// A checkpoint as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointView {
    /// Its record.
    pub checkpoint: Checkpoint,
    /// The file of each disk.
    pub files: BTreeMap<DiskName, PathBuf>,
    /// Files that it needs and that are not there: it is MISSING until they are put back.
    pub missing: Vec<PathBuf>,
}

/// A file of a finished export; the manifest is a list of these.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ExportedFile {
    /// Relative to the export's folder.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3, hexadecimal; empty for the manifest itself.
    pub blake3: String,
}

/// A layer as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerView {
    /// Its record.
    pub layer: Layer,
    /// The file it lies on, if it is a differencing layer.
    pub backing: Option<LayerFile>,
    /// Bytes its file takes on the host's disk, if it can be looked at.
    pub allocated: Option<u64>,
    /// Its file is not there.
    pub missing: bool,
    /// What is wrong with its file, in words.
    pub wrong: Vec<String>,
    /// Checkpoints that read through it.
    pub checkpoints: Vec<CheckpointId>,
    /// Now reads through it.
    pub now: bool,
    /// Room on the file system it is on, if that says so.
    pub room: Option<Space>,
}

/// Files of layers that are elsewhere now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconnect {
    /// Which.
    pub what: Reconnected,
    /// The file of the layer; or the folder in which all layers of the disk are, under the names they had.
    pub path: PathBuf,
    /// Take the files also if nothing proves that they are the right ones. What reads through a wrong one is damaged,
    /// and what is written over it may be lost.
    pub accept_changed: bool,
}

/// What is reconnected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reconnected {
    /// One layer.
    Layer(LayerId),
    /// All layers of a disk.
    Disk(DiskName),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apply_that_an_earlier_version_wrote_is_read() {
        let id = CheckpointId::generate();
        let old = format!("{{\"APPLY\":\"{id}\"}}");
        let apply = Request::Apply(id.into());
        assert_eq!(serde_json::from_str::<Request>(&old).unwrap(), apply);
        let new = serde_json::to_string(&apply).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&new).unwrap(), apply);
        assert_eq!(serde_json::from_str::<Request>("\"REVERT\"").unwrap(), Request::Revert);
    }
}
