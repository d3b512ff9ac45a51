//! Jobs: operations as they are journalled.

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stillpoint_common::{
    Checkpoint, CheckpointId, DiskName, Failure, HeldMemory, InstanceId, LayerFile, LayerId, MemoryId, MemoryState,
    Operation, OperationId, OperationKind, OperationState, Outcome, Progress, Restore, SavedState, SessionId, Vm, VmId,
};
use uuid::Uuid;

use crate::{ExportedFile, Request, import::ImportedDisk};

/// An operation with all that its recovery needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// What clients see.
    pub(crate) operation: Operation,
    /// What was asked; `None` for work the engine gave itself.
    pub(crate) request: Option<Request>,
    /// The caller's name of the request, if it has one.
    #[serde(default)]
    pub(crate) request_id: Option<String>,
    /// What the present attempt has decided. Durable before anything is done with it.
    pub(crate) facts: Facts,
    /// Steps of the present attempt that may have been begun.
    pub(crate) started: Vec<String>,
    /// The commit point has passed: what was promised is true and the rest will be finished.
    pub(crate) committed: bool,
}

/// What an attempt has decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Facts {
    /// Nothing yet.
    None,
    /// A start.
    Start {
        /// The process to be.
        instance: InstanceId,
    },
    /// A checkpoint in the making.
    Create(Box<CreateFacts>),
    /// An apply.
    Apply(Box<ApplyFacts>),
    /// A save.
    Save(Box<SaveFacts>),
    /// A start from a saved state.
    Wake {
        /// The process to be.
        instance: InstanceId,
        /// What it goes on from.
        saved: Box<SavedState>,
    },
    /// A saved state to give up.
    Discard(Box<SavedState>),
    /// An export.
    Export {
        /// The temporary folder.
        staged: PathBuf,
    },
    /// A VM in the making.
    Import(Box<ImportFacts>),
}

/// What an import has decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImportFacts {
    /// The VM as it will be published; heads and saved state are known only then.
    pub(crate) vm: Vm,
    /// The folder of the export.
    pub(crate) folder: PathBuf,
    /// The folder that is made for the disks; `None` if they stay where they are.
    pub(crate) target: Option<PathBuf>,
    /// What the export consists of.
    pub(crate) files: Vec<ExportedFile>,
    /// The images.
    pub(crate) disks: Vec<ImportedDisk>,
    /// The memory, if the VM will be saved.
    pub(crate) memory: Option<ImportedMemory>,
    /// The file with the state of its TPM.
    pub(crate) tpm: Option<String>,
    /// What the guest will be told.
    pub(crate) restore: Restore,
}

/// The memory of a VM in the making.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImportedMemory {
    /// The saved state to be.
    pub(crate) id: MemoryId,
    /// Its file in the export.
    pub(crate) file: String,
    /// The QEMU that wrote it.
    pub(crate) qemu_version: String,
    /// The guest ran, and was not paused.
    pub(crate) was_running: bool,
    /// What was kept, once it is.
    pub(crate) state: Option<MemoryState>,
}

/// What an attempt to create a checkpoint has decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CreateFacts {
    /// The checkpoint as it will be published.
    pub(crate) checkpoint: Checkpoint,
    /// The process whose disks are cut; `None` if the VM is off or saved.
    pub(crate) instance: Option<InstanceId>,
    /// The saved state that the checkpoint contains, if the VM is saved.
    #[serde(default)]
    pub(crate) saved: Option<SavedState>,
    /// Folder with the state of Now's TPM, if the VM has one.
    #[serde(default)]
    pub(crate) tpm: Option<PathBuf>,
    /// A production checkpoint keeps the memory of the quiet guest too.
    #[serde(default)]
    pub(crate) with_memory: bool,
    /// A production checkpoint of a backup that does not ask the guest: its disks are cut as they are.
    #[serde(default)]
    pub(crate) as_it_is: bool,
    /// The new layer of each disk, and the layer it lies on.
    pub(crate) overlays: BTreeMap<DiskName, PlannedOverlay>,
    /// The quiesce session of a production attempt.
    pub(crate) session: SessionId,
}

/// What a save has decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SaveFacts {
    /// The process to be ended.
    pub(crate) instance: InstanceId,
    /// The saved state to be.
    pub(crate) saved: MemoryId,
    /// The guest ran, and was not paused.
    pub(crate) was_running: bool,
    /// What was saved, once it is.
    pub(crate) memory: Option<MemoryState>,
}

/// A layer to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedOverlay {
    /// Its file.
    pub(crate) file: LayerFile,
    /// What it lies on.
    pub(crate) backing: LayerId,
}

/// What an apply has decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApplyFacts {
    /// What is applied.
    pub(crate) checkpoint: CheckpointId,
    /// The new layer of each disk over the checkpoint's layer.
    pub(crate) overlays: BTreeMap<DiskName, PlannedOverlay>,
    /// The process of the past, if the VM runs.
    pub(crate) old: Option<InstanceId>,
    /// The saved state of the past, if the VM is saved.
    #[serde(default)]
    pub(crate) old_saved: Option<SavedState>,
    /// The process to be, if the machine goes on at once.
    pub(crate) new: Option<InstanceId>,
    /// The saved state to be, if the VM is saved afterwards.
    #[serde(default)]
    pub(crate) new_saved: Option<MemoryId>,
    /// Under this name the memory is kept while the process to be takes it in.
    #[serde(default)]
    pub(crate) held: Option<MemoryId>,
    /// What was kept in this way for the process of the past.
    #[serde(default)]
    pub(crate) old_held: Option<HeldMemory>,
    /// Folder with the state of the TPM of the past, if there is one.
    #[serde(default)]
    pub(crate) old_tpm: Option<PathBuf>,
    /// That of the TPM to be, if the checkpoint has one.
    #[serde(default)]
    pub(crate) new_tpm: Option<PathBuf>,
    /// The generation id to be.
    pub(crate) generation_id: Uuid,
}

impl Job {
    /// A job that has just been accepted.
    pub(crate) fn new(kind: OperationKind, vm: VmId, request: Option<Request>, now: Timestamp) -> Self {
        let checkpoint = match &request {
            Some(Request::Apply(apply)) => apply.checkpoint,
            Some(
                Request::DeleteCheckpoint(id)
                | Request::DeleteSubtree(id)
                | Request::DeleteMemory(id)
                | Request::Export { checkpoint: id, .. },
            ) => Some(*id),
            Some(
                Request::Start
                | Request::Stop(_)
                | Request::Pause
                | Request::Resume
                | Request::Save
                | Request::DiscardSaved
                | Request::Revert
                | Request::Import(_)
                | Request::DeleteCheckpoints(_)
                | Request::CreateCheckpoint(_),
            )
            | None => None,
        };
        let operation = Operation {
            id: OperationId::generate(),
            kind,
            vm,
            checkpoint,
            state: OperationState::Running,
            phase: String::new(),
            progress: Progress::default(),
            phases: Vec::new(),
            warnings: Vec::new(),
            changes: Vec::new(),
            first_checkpoint: None,
            started: now,
            ended: None,
        };
        Self { operation, request, request_id: None, facts: Facts::None, started: Vec::new(), committed: false }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.operation.state == OperationState::Running
    }

    /// The same job, ended.
    pub(crate) fn ended(mut self, result: Result<Outcome, Failure>, now: Timestamp) -> Self {
        self.operation.state = match result {
            Ok(outcome) => OperationState::Done(outcome),
            Err(failure) => OperationState::Failed(failure),
        };
        self.operation.phase.clear();
        self.operation.progress = Progress::default();
        self.operation.ended = Some(now);
        self
    }
}
