//! Operations: long-running work with phases, progress and a result that survives a restart.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{CheckpointId, DefinitionChange, Failure, OperationId, VmId};

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OperationKind {
    /// Start a VM.
    StartVm,
    /// Stop a VM.
    StopVm,
    /// Pause a VM.
    PauseVm,
    /// Let a paused VM run.
    ResumeVm,
    /// Keep a VM's memory and devices and end its process.
    SaveVm,
    /// Give up a saved state.
    DiscardSavedState,
    /// Create a checkpoint.
    CreateCheckpoint,
    /// Bring a VM back to a checkpoint.
    ApplyCheckpoint,
    /// Delete a checkpoint and merge what nothing needs any more.
    DeleteCheckpoint,
    /// Delete the memory of a checkpoint, which stays.
    DeleteMemoryState,
    /// Merge and remove layers that nothing needs, left over by something else.
    CollectLayers,
    /// Copy a checkpoint out as a stand-alone VM.
    ExportCheckpoint,
    /// Make a VM of an export.
    ImportVm,
}

impl std::fmt::Display for OperationKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::StartVm => "start VM",
            Self::StopVm => "stop VM",
            Self::PauseVm => "pause VM",
            Self::ResumeVm => "resume VM",
            Self::SaveVm => "save VM",
            Self::DiscardSavedState => "discard saved state",
            Self::CreateCheckpoint => "create checkpoint",
            Self::ApplyCheckpoint => "apply checkpoint",
            Self::DeleteCheckpoint => "delete checkpoint",
            Self::DeleteMemoryState => "delete memory state",
            Self::CollectLayers => "merge layers",
            Self::ExportCheckpoint => "export checkpoint",
            Self::ImportVm => "import VM",
        })
    }
}

/// A part of an operation whose duration is worth knowing: `prepare`, `freeze`, `cut`, `thaw`, `pause`, `capture`, …
pub type PhaseName = String;

/// A phase that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseRecord {
    /// Which phase.
    pub name: PhaseName,
    /// How long it took.
    pub took: Duration,
}

/// How far the present phase is. `total` 0 means: not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Done so far, in bytes.
    pub done: u64,
    /// To do in all, in bytes.
    pub total: u64,
}

/// Where an operation stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OperationState {
    /// At work.
    Running,
    /// Ended well.
    Done(Outcome),
    /// Ended badly; whatever it had begun was undone.
    Failed(Failure),
}

/// What an operation that ended well has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Outcome {
    /// The VM is as asked.
    Vm,
    /// This checkpoint exists.
    Checkpoint(CheckpointId),
    /// What was to go is gone.
    Gone,
    /// The export lies in this folder.
    Exported(String),
}

/// One operation, as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What it does.
    pub kind: OperationKind,
    /// Whose VM it works on.
    pub vm: VmId,
    /// The checkpoint it makes, applies, deletes or exports, if any.
    pub checkpoint: Option<CheckpointId>,
    /// Where it stands.
    pub state: OperationState,
    /// The phase it is in; empty before the first and after the last.
    pub phase: PhaseName,
    /// How far that phase is.
    pub progress: Progress,
    /// Phases that have ended, in order.
    pub phases: Vec<PhaseRecord>,
    /// What the caller should know although the operation went well.
    pub warnings: Vec<String>,
    /// What an apply has changed in the VM's definition.
    #[serde(default)]
    pub changes: Vec<DefinitionChange>,
    /// The checkpoint of Now that an apply has made first.
    #[serde(default)]
    pub first_checkpoint: Option<CheckpointId>,
    /// When it was accepted.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
}
