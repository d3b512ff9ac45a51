//! Automatic checkpoints: made when a VM starts, if it has none, and gone when it stops cleanly.
//!
//! The VM is off when one is made, so it is of disks alone and holds nobody up. It is a plan of its own before the plan
//! of the start: a service that dies in between leaves the checkpoint and a VM that is off.
//!
//! ```text
//!  off ── start ── automatic ── running ─┬─ clean stop (asked for, or by the guest) ── automatic goes, is merged
//!                                        └─ crash, pulled plug, apply ── automatic stays, until the next clean stop
//! ```
//!
//! A user's own checkpoint made in the same run changes nothing about that: it keeps its data, and comes after what the
//! automatic one came after. An automatic one that cannot be made is a warning: the VM starts all the same.

use std::collections::BTreeSet;

use stillpoint_common::{
    Checkpoint, CheckpointId, CheckpointPolicy, CheckpointState, Event, EventKind, Failure, InstanceId, PowerState,
    Remarks, Vm,
};

use super::{
    execute::{How, attempt, draft, run},
    power::{Power, PowerPlan},
    unsupported,
};
use crate::{NewCheckpoint, catalogue::Changes, context::Cx, error::StepError, saga::Journal};

/// Starts a VM that is off, after its automatic checkpoint if one is due.
pub(super) async fn start(vm: &Vm, journal: &mut Journal, cx: &Cx) -> Result<(), Failure> {
    let made = make(vm, journal, cx).await?;
    let started = run(PowerPlan::new(Power::Start(InstanceId::generate())), journal, cx).await;
    if started.is_err() && made {
        take_back(cx).await;
    }
    started
}

/// Makes the checkpoint, if one is due. Answers whether it did.
async fn make(vm: &Vm, journal: &mut Journal, cx: &Cx) -> Result<bool, Failure> {
    if !is_due(vm, &cx.catalogue().checkpoints(&cx.vm).await?) {
        return Ok(false);
    }
    let remarks = Remarks { automatic: true, ..Remarks::default() };
    let new = NewCheckpoint { remarks, ..NewCheckpoint::default() };
    let draft = draft(vm, PowerState::Off, new, cx.ports().clock.now())?;
    let draft = match unsupported::note(draft, vm, cx).await {
        Ok(draft) => draft,
        Err(failure) => {
            cx.reporter.warn(format!("no automatic checkpoint was made: {failure}"));
            return Ok(false);
        }
    };
    let made = attempt(&draft, How::AsPlanned, PowerState::Off, journal, cx).await;
    journal.next_plan();
    match made {
        Ok(()) => {
            journal.add(self::made(cx, &draft));
            Ok(true)
        }
        Err(error @ StepError::Cancelled) => Err(error.into()),
        Err(error) => {
            cx.reporter.warn(format!("no automatic checkpoint was made: {}", Failure::from(error)));
            Ok(false)
        }
    }
}

fn is_due(vm: &Vm, checkpoints: &[Checkpoint]) -> bool {
    vm.settings.automatic_checkpoints
        && vm.checkpoint_policy != CheckpointPolicy::Disabled
        && checkpoints.iter().all(|known| known.state == CheckpointState::Deleting || known.remarks.backup.is_some())
}

/// The VM has not started: what was made for this start has no use.
async fn take_back(cx: &Cx) {
    let gone = async {
        let mut vm = cx.catalogue().vm(&cx.vm).await?;
        let changes = at_clean_stop(cx, &mut vm).await?;
        Ok::<_, StepError>(cx.catalogue().commit(changes.set_vm(&vm)).await?)
    };
    match gone.await {
        Ok(()) => {}
        Err(error) => cx.reporter.warn(format!("the automatic checkpoint stays: {}", Failure::from(error))),
    }
}

/// What becomes of the checkpoints of a VM that has stopped cleanly; the VM's record is changed, and written by the
/// caller. The layers are collected later.
pub(super) async fn at_clean_stop(cx: &Cx, vm: &mut Vm) -> Result<Changes, StepError> {
    let checkpoints = cx.catalogue().checkpoints(&cx.vm).await?;
    let is_automatic = |checkpoint: &&Checkpoint| checkpoint.remarks.automatic;
    let going: BTreeSet<_> = checkpoints.iter().filter(is_automatic).map(|checkpoint| checkpoint.id).collect();
    vm.parent = above(&checkpoints, &going, vm.parent);
    let mut changes = Changes::default();
    for checkpoint in &checkpoints {
        let state = if going.contains(&checkpoint.id) { CheckpointState::Deleting } else { checkpoint.state };
        let parent = above(&checkpoints, &going, checkpoint.parent);
        if going.contains(&checkpoint.id) && checkpoint.state == CheckpointState::Ready {
            let text = format!("{:?} is gone: the VM has stopped cleanly", checkpoint.name.as_str());
            changes = changes.event(&event(cx, EventKind::CheckpointDeleted, checkpoint, text));
        }
        if (state, parent) != (checkpoint.state, checkpoint.parent) {
            changes = changes.set_checkpoint(&Checkpoint { state, parent, ..checkpoint.clone() });
        }
    }
    Ok(changes)
}

/// What is told of an automatic checkpoint that was made.
pub(super) fn made(cx: &Cx, checkpoint: &Checkpoint) -> Changes {
    let text = format!("{:?} was made", checkpoint.name.as_str());
    Changes::default().event(&event(cx, EventKind::CheckpointCreated, checkpoint, text))
}

fn event(cx: &Cx, kind: EventKind, checkpoint: &Checkpoint, text: String) -> Event {
    Event { checkpoint: Some(checkpoint.id), ..Event::of_vm(cx.ports().clock.now(), kind, &cx.vm, text) }
}

/// The nearest one, from `id` upwards, that does not go.
fn above(
    checkpoints: &[Checkpoint],
    going: &BTreeSet<CheckpointId>,
    mut id: Option<CheckpointId>,
) -> Option<CheckpointId> {
    // As many steps as there are checkpoints: a catalogue that contradicts itself must not hold us up.
    for _ in checkpoints {
        let Some(gone) = id.filter(|id| going.contains(id)) else { break };
        id = checkpoints.iter().find(|checkpoint| checkpoint.id == gone).and_then(|checkpoint| checkpoint.parent);
    }
    id
}
