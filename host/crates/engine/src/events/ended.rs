//! What is told of an operation that has ended. Pure.

use stillpoint_common::{Event, EventKind, OperationKind, OperationState, Outcome};

use crate::job::{Facts, Job};

/// The phase in which layers are merged.
const MERGE: &str = "merge";

/// The events of a job that has ended, in the order in which it happened.
pub(crate) fn of(job: &Job) -> Vec<Event> {
    kept(job).into_iter().chain(end(job)).collect()
}

/// An apply has made a checkpoint of what was Now first. It is there however the apply ended.
fn kept(job: &Job) -> Option<Event> {
    let operation = &job.operation;
    let (time, checkpoint, kind) = (operation.ended?, operation.first_checkpoint, EventKind::CheckpointCreated);
    checkpoint?;
    let (vm, operation, reason) = (Some(operation.vm.clone()), Some(operation.id), None);
    let text = "what was Now is kept, before the VM is brought back".to_owned();
    Some(Event { time, kind, vm, checkpoint, operation, reason, text })
}

fn end(job: &Job) -> Option<Event> {
    let operation = &job.operation;
    let time = operation.ended?;
    let (kind, reason, text) = match &operation.state {
        OperationState::Running => return None,
        OperationState::Failed(failure) => {
            (EventKind::OperationFailed, Some(failure.reason), format!("{} failed: {failure}", operation.kind))
        }
        OperationState::Done(outcome) => {
            let (kind, text) = done(job, outcome)?;
            (kind, None, text)
        }
    };
    let checkpoint = operation.checkpoint.or_else(|| applied(job));
    let text = with_warnings(text, &operation.warnings);
    let vm = Some(operation.vm.clone());
    Some(Event { time, kind, vm, checkpoint, operation: Some(operation.id), reason, text })
}

/// The checkpoint that a revert has found.
fn applied(job: &Job) -> Option<stillpoint_common::CheckpointId> {
    match &job.facts {
        Facts::Apply(facts) => Some(facts.checkpoint),
        Facts::None
        | Facts::Start { .. }
        | Facts::Create(_)
        | Facts::Save(_)
        | Facts::Wake { .. }
        | Facts::Discard(_)
        | Facts::Export { .. }
        | Facts::Import(_) => None,
    }
}

fn done(job: &Job, outcome: &Outcome) -> Option<(EventKind, String)> {
    let vm = &job.operation.vm;
    Some(match job.operation.kind {
        OperationKind::StartVm => (EventKind::VmStarted, format!("{vm} was started")),
        OperationKind::StopVm => (EventKind::VmStopped, format!("{vm} was stopped")),
        OperationKind::PauseVm => (EventKind::VmPaused, format!("{vm} was paused")),
        OperationKind::ResumeVm => (EventKind::VmResumed, format!("{vm} was resumed")),
        OperationKind::SaveVm => (EventKind::VmSaved, format!("{vm} was saved")),
        OperationKind::DiscardSavedState => {
            (EventKind::SavedStateDiscarded, format!("the saved state of {vm} was given up"))
        }
        OperationKind::CreateCheckpoint => created(job),
        OperationKind::ApplyCheckpoint => (EventKind::CheckpointApplied, format!("{vm} was brought back")),
        // What is gone was told of when it went, and what is new when it came.
        OperationKind::DeleteMemoryState | OperationKind::ImportVm => return None,
        OperationKind::DeleteCheckpoint | OperationKind::CollectLayers => {
            job.operation.phases.iter().find(|phase| phase.name == MERGE)?;
            (EventKind::LayersMerged, format!("layers of {vm} that nothing needs were merged"))
        }
        OperationKind::ExportCheckpoint => {
            let folder = match outcome {
                Outcome::Exported(folder) => folder.as_str(),
                Outcome::Vm | Outcome::Checkpoint(_) | Outcome::Gone => "",
            };
            (EventKind::CheckpointExported, format!("copied to {folder}"))
        }
    })
}

fn created(job: &Job) -> (EventKind, String) {
    let checkpoint = match &job.facts {
        Facts::Create(facts) => Some(&facts.checkpoint),
        Facts::None
        | Facts::Start { .. }
        | Facts::Apply(_)
        | Facts::Save(_)
        | Facts::Wake { .. }
        | Facts::Discard(_)
        | Facts::Export { .. }
        | Facts::Import(_) => None,
    };
    match checkpoint.map(|made| (made, made.fallback)) {
        Some((made, Some(fallback))) => {
            let text =
                format!("{:?} is a standard checkpoint ({fallback}): {}", made.name.as_str(), made.fallback_detail);
            (EventKind::CheckpointFellBack, text)
        }
        Some((made, None)) => (EventKind::CheckpointCreated, format!("{:?} was made", made.name.as_str())),
        None => (EventKind::CheckpointCreated, "a checkpoint was made".to_owned()),
    }
}

fn with_warnings(text: String, warnings: &[String]) -> String {
    warnings.iter().fold(text, |text, warning| format!("{text}; {warning}"))
}
