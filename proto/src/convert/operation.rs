//! Operations as `google.longrunning.Operation`.

use prost::Name;
use prost_types::Any;
use stillpoint_common::{DefinitionChange, Operation, OperationKind, OperationState};

use super::{
    failure::{self, Refusal},
    names, time,
};
use crate::{
    longrunning::{self, operation::Result as Ended},
    v1 as pb,
};

/// The operation as it travels. `response` is what an operation that is done answers (`Vm`, `Checkpoint`, `Export`; see
/// [`any`]); without one it is `google.protobuf.Empty`. It is passed over while the operation runs or if it failed.
#[must_use]
pub fn operation(operation: &Operation, response: Option<Any>) -> longrunning::Operation {
    let result = match &operation.state {
        OperationState::Running => None,
        OperationState::Done(_) => Some(Ended::Response(response.unwrap_or_else(|| any(&())))),
        OperationState::Failed(failure) => Some(Ended::Error(failure::rpc_status(failure))),
    };
    longrunning::Operation {
        name: names::operation(operation.id),
        metadata: Some(any(&metadata(operation))),
        done: result.is_some(),
        result,
    }
}

/// What an operation tells about itself.
#[must_use]
pub fn metadata(operation: &Operation) -> pb::OperationMetadata {
    let name = |checkpoint| names::checkpoint(&operation.vm, checkpoint);
    let (checkpoint, first) = (operation.checkpoint.map(name), operation.first_checkpoint.map(name));
    pb::OperationMetadata {
        kind: kind(operation.kind).to_owned(),
        vm: names::vm(&operation.vm),
        checkpoint: checkpoint.unwrap_or_default(),
        phase: operation.phase.clone(),
        done_bytes: operation.progress.done,
        total_bytes: operation.progress.total,
        phases: phases(&operation.phases),
        warnings: operation.warnings.clone(),
        start_time: Some(time::timestamp(operation.started)),
        end_time: operation.ended.map(time::timestamp),
        spec_changes: operation.changes.iter().map(spec_change).collect(),
        first_checkpoint: first.unwrap_or_default(),
    }
}

fn spec_change(change: &DefinitionChange) -> pb::SpecChange {
    pb::SpecChange { field: change.field.clone(), from: change.from.clone(), to: change.to.clone() }
}

/// Phases as they travel.
#[must_use]
pub fn phases(phases: &[stillpoint_common::PhaseRecord]) -> Vec<pb::Phase> {
    phases.iter().map(|p| pb::Phase { name: p.name.clone(), took: Some(time::duration(p.took)) }).collect()
}

/// The name of a kind of operation on the wire.
#[must_use]
pub const fn kind(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::StartVm => "START_VM",
        OperationKind::StopVm => "STOP_VM",
        OperationKind::PauseVm => "PAUSE_VM",
        OperationKind::ResumeVm => "RESUME_VM",
        OperationKind::SaveVm => "SAVE_VM",
        OperationKind::DiscardSavedState => "DISCARD_SAVED_STATE",
        OperationKind::CreateCheckpoint => "CREATE_CHECKPOINT",
        OperationKind::ApplyCheckpoint => "APPLY_CHECKPOINT",
        OperationKind::DeleteCheckpoint => "DELETE_CHECKPOINT",
        OperationKind::DeleteMemoryState => "DELETE_MEMORY_STATE",
        OperationKind::CollectLayers => "COLLECT_LAYERS",
        OperationKind::ExportCheckpoint => "EXPORT_CHECKPOINT",
        OperationKind::ImportVm => "IMPORT_VM",
    }
}

/// A finished export: the folder, and `(path, bytes, blake3)` of each file.
#[must_use]
pub fn export(folder: &str, files: impl IntoIterator<Item = (String, u64, String)>) -> pb::Export {
    let files = files.into_iter().map(|(path, bytes, blake3)| pb::ExportFile { path, bytes, blake3 });
    pb::Export { folder: folder.to_owned(), files: files.collect() }
}

/// A message packed into an `Any`.
#[must_use]
pub fn any<M: Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

/// The metadata that came with an operation; empty metadata if none came.
#[must_use]
pub fn read_metadata(operation: &longrunning::Operation) -> pb::OperationMetadata {
    operation.metadata.as_ref().and_then(|any| any.to_msg().ok()).unwrap_or_default()
}

/// How an operation that came has ended: its response, its refusal, or `None` while it runs.
#[must_use]
pub fn read_result(operation: &longrunning::Operation) -> Option<Result<Any, Refusal>> {
    match &operation.result {
        _ if !operation.done => None,
        Some(Ended::Error(status)) => Some(Err(Refusal::from(status))),
        Some(Ended::Response(response)) => Some(Ok(response.clone())),
        None => Some(Ok(Any::default())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use stillpoint_common::{Failure, OperationId, Outcome, PhaseRecord, Progress, Reason};

    use super::*;

    fn at(state: OperationState) -> Operation {
        Operation {
            id: OperationId::generate(),
            kind: OperationKind::StopVm,
            vm: "web".parse().unwrap(),
            checkpoint: None,
            state,
            phase: "shut-down".into(),
            progress: Progress { done: 1, total: 2 },
            phases: vec![PhaseRecord { name: "ask".into(), took: Duration::from_micros(1500) }],
            warnings: vec!["slow".into()],
            changes: vec![DefinitionChange { field: "cpus".into(), from: "1".into(), to: "2".into() }],
            first_checkpoint: None,
            started: Timestamp::UNIX_EPOCH,
            ended: None,
        }
    }

    #[test]
    fn an_operation_carries_its_metadata_and_how_it_ended() {
        let running = at(OperationState::Running);
        let message = operation(&running, Some(any(&pb::Vm::default())));
        assert_eq!(read_metadata(&message), metadata(&running));
        assert_eq!((message.done, read_result(&message)), (false, None));

        let vm = pb::Vm { name: "vms/web".into(), ..pb::Vm::default() };
        let message = operation(&at(OperationState::Done(Outcome::Vm)), Some(any(&vm)));
        assert_eq!(read_result(&message).unwrap().unwrap().to_msg(), Ok(vm));
        let message = operation(&at(OperationState::Done(Outcome::Gone)), None);
        assert_eq!(read_result(&message).unwrap().unwrap().type_url, "type.googleapis.com/google.protobuf.Empty");

        let failure = Failure::new(Reason::GuestTimedOut, "web did not switch off within 60 s");
        let message = operation(&at(OperationState::Failed(failure.clone())), None);
        assert_eq!(read_result(&message), Some(Err(failure.into())));
    }
}
