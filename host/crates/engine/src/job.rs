//! Jobs: operations as they are journalled.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stillpoint_common::{
    Checkpoint, CheckpointId, DiskName, Failure, InstanceId, LayerFile, LayerId, Operation, OperationId, OperationKind,
    OperationState, Outcome, Progress, SessionId, VmId,
};
use uuid::Uuid;

use crate::Request;

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
    /// An export.
    Export {
        /// The temporary folder.
        staged: std::path::PathBuf,
    },
}

/// What an attempt to create a checkpoint has decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CreateFacts {
    /// The checkpoint as it will be published.
    pub(crate) checkpoint: Checkpoint,
    /// The process whose disks are cut; `None` if the VM is off.
    pub(crate) instance: Option<InstanceId>,
    /// The new layer of each disk, and the layer it lies on.
    pub(crate) overlays: BTreeMap<DiskName, PlannedOverlay>,
    /// The quiesce session of a production attempt.
    pub(crate) session: SessionId,
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
    /// The process to be, if the checkpoint has memory.
    pub(crate) new: Option<InstanceId>,
    /// The generation id to be.
    pub(crate) generation_id: Uuid,
}

impl Job {
    /// A job that has just been accepted.
    pub(crate) fn new(kind: OperationKind, vm: VmId, request: Option<Request>, now: Timestamp) -> Self {
        let checkpoint = match &request {
            Some(
                Request::Apply(id)
                | Request::DeleteCheckpoint(id)
                | Request::DeleteSubtree(id)
                | Request::DeleteMemory(id)
                | Request::Export { checkpoint: id, .. },
            ) => Some(*id),
            Some(
                Request::Start
                | Request::Stop(_)
                | Request::Pause
                | Request::Resume
                | Request::Revert
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
