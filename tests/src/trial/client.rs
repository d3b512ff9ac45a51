//! The client of a trial: asks for something, and remembers what it was told.

use stillpoint_common::{CheckpointId, Failure, OperationId, OperationState, Outcome, VmId};
use stillpoint_engine::{CheckpointChange, Engine, Request, VmChange};
use tokio::sync::watch;

/// What the client wishes.
#[derive(Debug, Clone)]
pub(super) enum Wish {
    /// An operation.
    Operation(Request),
    /// A change of the VM's record.
    Change(Box<VmChange>),
    /// Another name of a checkpoint.
    Rename(CheckpointId),
    /// That the VM is forgotten.
    DeleteVm,
}

/// What it was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The operation that was begun for it.
    pub(super) operation: Option<OperationId>,
    /// How it ended.
    pub(super) end: Option<Result<Outcome, Failure>>,
}

impl Told {
    pub(super) fn is_done(&self) -> bool {
        matches!(self.end, Some(Ok(_)))
    }
}

/// The name that a checkpoint is given.
pub(super) const RENAMED: &str = "renamed";

pub(super) async fn ask(engine: Engine, vm: VmId, wish: Wish, tell: watch::Sender<Told>) {
    let end = match wish {
        Wish::Operation(request) => operate(&engine, &vm, request, &tell).await,
        Wish::Change(change) => engine.update_vm(&vm, *change).await.map(|_| Outcome::Vm),
        Wish::Rename(id) => {
            let name = Some(RENAMED.parse().expect("a name"));
            let change = CheckpointChange { name, ..CheckpointChange::default() };
            engine.update_checkpoint(&vm, id, change).await.map(|_| Outcome::Vm)
        }
        Wish::DeleteVm => engine.delete_vm(&vm).await.map(|()| Outcome::Gone),
    };
    tell.send_modify(|told| told.end = Some(end));
}

async fn operate(engine: &Engine, vm: &VmId, request: Request, tell: &watch::Sender<Told>) -> Result<Outcome, Failure> {
    let operation = engine.submit(vm, request, None).await?;
    tell.send_modify(|told| told.operation = Some(operation.id));
    let mut watch = engine.watch_operation(operation.id).await?;
    let ended = watch.wait_for(|operation| operation.state != OperationState::Running).await;
    match ended.expect("the last state is kept").state.clone() {
        OperationState::Done(outcome) => Ok(outcome),
        OperationState::Failed(failure) => Err(failure),
        OperationState::Running => unreachable!("it has ended"),
    }
}
