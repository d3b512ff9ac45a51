//! Operations as clients are told of them, with the response that their rpc promises.

use prost_types::Any;
use stillpoint_common::{CheckpointId, Operation, OperationState, Outcome, Vm, VmId};
use stillpoint_engine::{Advice, AdviceCode, Engine, Request, VmView};
use stillpoint_proto::{convert, longrunning, v1 as pb};
use tonic::{Response, Status};
use uuid::Uuid;

use super::refuse;

/// A VM as clients are told of it.
pub(super) fn vm(view: &VmView) -> pb::Vm {
    let record = Vm { parent: view.parent, ..view.vm.clone() };
    let mut vm = convert::vm::vm(&record, view.power, &view.disks, view.operation.as_ref());
    view.critical.iter().for_each(|critical| convert::vm::set_critical(&mut vm, critical));
    convert::vm::set_failure(&mut vm, &view.failures);
    if view.panicked {
        convert::vm::set_panicked(&mut vm);
    }
    vm
}

/// An advice as clients are told of it.
pub(super) fn advice(advice: &Advice) -> pb::CheckpointAdvice {
    let code = |code| match code {
        AdviceCode::VmOff => "VM_OFF",
        AdviceCode::GuestSilent => "GUEST_SILENT",
        AdviceCode::WritersPresent => "WRITERS_PRESENT",
        AdviceCode::NoWriter => "NO_WRITER",
        AdviceCode::FileSystemsHeld => "FILE_SYSTEMS_HELD",
        AdviceCode::NothingToFreeze => "NOTHING_TO_FREEZE",
    };
    let reasons = advice.reasons.iter();
    let reasons = reasons.map(|it| pb::AdviceReason { code: code(it.code).to_owned(), text: it.text.clone() });
    pb::CheckpointAdvice {
        policy: pb::CheckpointPolicy::from(advice.policy).into(),
        reasons: reasons.collect(),
        hazards: advice.hazards.iter().map(convert::advice::hazard).collect(),
        services: advice.services.iter().map(convert::advice::service).collect(),
    }
}

/// Begins an operation on a VM and answers how it stands.
pub(super) async fn submit(
    engine: &Engine,
    vm: &VmId,
    work: Request,
    request_id: Option<Uuid>,
) -> Result<Response<longrunning::Operation>, Status> {
    let begun = engine.submit(vm, work, request_id.map(|id| id.to_string())).await.map_err(refuse)?;
    Ok(Response::new(operation(engine, &begun).await))
}

/// An operation with its response, if it has ended well. What it made may be gone meanwhile; then the response is empty.
pub(super) async fn operation(engine: &Engine, operation: &Operation) -> longrunning::Operation {
    let response = match &operation.state {
        OperationState::Running | OperationState::Failed(_) => None,
        OperationState::Done(outcome) => Some(response(engine, &operation.vm, outcome).await.unwrap_or_else(empty)),
    };
    convert::operation::operation(operation, response)
}

async fn response(engine: &Engine, id: &VmId, outcome: &Outcome) -> Option<Any> {
    match outcome {
        Outcome::Gone => None,
        Outcome::Vm => Some(convert::operation::any(&vm(&engine.vm(id).await.ok()?))),
        Outcome::Checkpoint(checkpoint) => response_checkpoint(engine, id, *checkpoint).await,
        Outcome::Exported(folder) => {
            let files = engine.export_files(folder.as_ref()).await.ok()?;
            let files = files.into_iter().map(|file| (file.path, file.bytes, file.blake3));
            Some(convert::operation::any(&convert::operation::export(folder, files)))
        }
    }
}

async fn response_checkpoint(engine: &Engine, id: &VmId, checkpoint: CheckpointId) -> Option<Any> {
    let view = engine.checkpoint(id, checkpoint).await.ok()?;
    Some(convert::operation::any(&shown(&view)))
}

fn empty() -> Any {
    convert::operation::any(&())
}

/// A checkpoint as it is now.
pub(super) fn shown(view: &stillpoint_engine::CheckpointView) -> pb::Checkpoint {
    convert::checkpoint::with_missing(convert::checkpoint::checkpoint(&view.checkpoint, &view.files), &view.missing)
}
