//! An operation, and what it made.

use jiff::Timestamp;
use prost_types::Any;
use serde::Serialize;
use stillpoint_common::{CheckpointId, Failure, OperationId, VmId};
use stillpoint_proto::{
    convert::{failure::Refusal, names, operation},
    longrunning, v1 as pb,
};

use super::{Checkpoint, Vm, read_checkpoint_id, read_time, read_took};

/// One piece of long-running work.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Operation {
    /// `operations/{operation}`
    pub name: String,
    /// The {operation} in it.
    pub id: OperationId,
    /// What it does: `CREATE_CHECKPOINT`, …
    pub kind: String,
    /// The VM it works on.
    pub vm: Option<VmId>,
    /// The checkpoint it makes, applies, deletes or exports.
    pub checkpoint: Option<CheckpointId>,
    /// The phase it is in; empty before the first and after the last.
    pub phase: String,
    /// Bytes done in this phase.
    pub done_bytes: u64,
    /// Bytes to do in this phase; 0: not known.
    pub total_bytes: u64,
    /// Phases that have ended, in order.
    pub phases: Vec<Phase>,
    /// What the caller should know although it goes well.
    pub warnings: Vec<String>,
    /// What an apply has changed in the VM's spec.
    pub spec_changes: Vec<SpecChange>,
    /// The checkpoint of Now that an apply has made first.
    pub first_checkpoint: Option<CheckpointId>,
    /// When it was accepted.
    pub start_time: Option<Timestamp>,
    /// When it ended.
    pub end_time: Option<Timestamp>,
    /// False while it runs.
    pub done: bool,
    /// How it ended: `error` or `response`, or neither.
    #[serde(flatten)]
    pub ended: Ended,
}

/// How an operation ended; neither while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct Ended {
    /// Why it failed.
    pub error: Option<OperationError>,
    /// What it made.
    pub response: Option<Response>,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperationError {
    /// The stable reason.
    pub reason: String,
    /// What went wrong.
    pub message: String,
    /// What to do about it.
    pub advice: Option<String>,
    #[serde(skip)]
    refusal: Refusal,
}

/// What an operation made.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The VM as it is now.
    Vm(Box<Vm>),
    /// The checkpoint.
    Checkpoint(Box<Checkpoint>),
    /// The export.
    Export(Export),
    /// There is nothing to answer.
    Empty {},
}

/// A finished export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Export {
    /// The folder.
    pub folder: String,
    /// What is in it.
    pub files: Vec<ExportFile>,
}

/// A file of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportFile {
    /// Relative to the folder.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// BLAKE3, hexadecimal; empty for the manifest itself.
    pub blake3: String,
}

/// A field of a VM's spec that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpecChange {
    /// Its path.
    pub field: String,
    /// What it was; empty: there was none.
    pub from: String,
    /// What it is; empty: there is none any more.
    pub to: String,
}

/// A phase that has ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub took_ms: f64,
}

impl Operation {
    /// Why it failed, if it did.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        self.ended.error.as_ref().map(|error| &error.refusal)
    }

    /// The checkpoint it made, if it made one.
    #[must_use]
    pub fn checkpoint_response(&self) -> Option<&Checkpoint> {
        match self.ended.response.as_ref()? {
            Response::Checkpoint(checkpoint) => Some(checkpoint),
            Response::Vm(_) | Response::Export(_) | Response::Empty {} => None,
        }
    }

    /// The VM it answered, if it did.
    #[must_use]
    pub fn vm_response(&self) -> Option<&Vm> {
        match self.ended.response.as_ref()? {
            Response::Vm(vm) => Some(vm),
            Response::Checkpoint(_) | Response::Export(_) | Response::Empty {} => None,
        }
    }

    /// The export it made, if it made one.
    #[must_use]
    pub fn export_response(&self) -> Option<&Export> {
        match self.ended.response.as_ref()? {
            Response::Export(export) => Some(export),
            Response::Vm(_) | Response::Checkpoint(_) | Response::Empty {} => None,
        }
    }

    /// How long the phase of this name took, if it has ended.
    #[must_use]
    pub fn phase_took_ms(&self, name: &str) -> Option<f64> {
        self.phases.iter().find(|phase| phase.name == name).map(|phase| phase.took_ms)
    }
}

impl TryFrom<longrunning::Operation> for Operation {
    type Error = Failure;

    fn try_from(message: longrunning::Operation) -> Result<Self, Failure> {
        let metadata = operation::read_metadata(&message);
        let vm = Some(metadata.vm.as_str()).filter(|name| !name.is_empty());
        Ok(Self {
            id: names::parse_operation(&message.name, "operation.name")?,
            vm: vm.map(|name| names::parse_vm(name, "operation.vm")).transpose()?,
            checkpoint: read_checkpoint_id(&metadata.checkpoint, "operation.checkpoint")?,
            ended: ended(operation::read_result(&message))?,
            done: message.done,
            name: message.name,
            kind: metadata.kind,
            phase: metadata.phase,
            done_bytes: metadata.done_bytes,
            total_bytes: metadata.total_bytes,
            phases: metadata.phases.into_iter().map(Phase::from).collect(),
            warnings: metadata.warnings,
            spec_changes: metadata.spec_changes.into_iter().map(SpecChange::from).collect(),
            first_checkpoint: read_checkpoint_id(&metadata.first_checkpoint, "operation.first_checkpoint")?,
            start_time: read_time(metadata.start_time.as_ref()),
            end_time: read_time(metadata.end_time.as_ref()),
        })
    }
}

fn ended(result: Option<Result<Any, Refusal>>) -> Result<Ended, Failure> {
    Ok(match result {
        None => Ended::default(),
        Some(Ok(any)) => Ended { error: None, response: Some(response(&any)?) },
        Some(Err(refusal)) => Ended { error: Some(OperationError::from(refusal)), response: None },
    })
}

/// A response of a type that this version does not know is no error: the operation has ended well.
fn response(any: &Any) -> Result<Response, Failure> {
    if let Ok(vm) = any.to_msg::<pb::Vm>() {
        return Ok(Response::Vm(Box::new(vm.try_into()?)));
    }
    if let Ok(checkpoint) = any.to_msg::<pb::Checkpoint>() {
        return Ok(Response::Checkpoint(Box::new(checkpoint.try_into()?)));
    }
    Ok(any.to_msg::<pb::Export>().map_or(Response::Empty {}, |export| Response::Export(export.into())))
}

impl From<Refusal> for OperationError {
    fn from(refusal: Refusal) -> Self {
        let Refusal { reason, message, advice, .. } = refusal.clone();
        Self { reason, message, advice, refusal }
    }
}

impl From<pb::Export> for Export {
    fn from(export: pb::Export) -> Self {
        let file = |pb::ExportFile { path, bytes, blake3 }| ExportFile { path, bytes, blake3 };
        Self { folder: export.folder, files: export.files.into_iter().map(file).collect() }
    }
}

impl From<pb::Phase> for Phase {
    fn from(phase: pb::Phase) -> Self {
        Self { took_ms: read_took(phase.took.as_ref()), name: phase.name }
    }
}

impl From<pb::SpecChange> for SpecChange {
    fn from(pb::SpecChange { field, from, to }: pb::SpecChange) -> Self {
        Self { field, from, to }
    }
}
