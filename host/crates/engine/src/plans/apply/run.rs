//! From the request of an apply to its plans: a checkpoint of Now, if it is kept, then the apply itself.
//!
//! Both are one operation. The checkpoint of Now is an ordinary one: once it is made it stays, whatever becomes of the
//! apply, and a failure says so. If it cannot be made, nothing is applied.

use stillpoint_common::{
    Checkpoint, CheckpointId, CheckpointName, Failure, InstanceId, MemoryId, PowerState, Reason, Vm,
};
use uuid::Uuid;

use super::{Apply, Landing, landing, warning};
use crate::{
    ApplyRequest, NewCheckpoint,
    context::Cx,
    job::ApplyFacts,
    plans::{
        disks::plan_overlays,
        execute::{create, tidy},
        hazards, room,
    },
    saga::{self, Journal},
    tpm::{has_tpm, new_folder},
    tree::shown,
};

/// Applies what is asked for. On failure the VM is as before, and a checkpoint of Now that was made stays.
pub(crate) async fn apply(
    request: &ApplyRequest,
    power: PowerState,
    journal: &mut Journal,
    cx: &Cx,
) -> Result<(), Failure> {
    let vm = cx.catalogue().vm(&cx.vm).await?;
    let nothing = || Failure::new(Reason::NoCheckpoint, format!("VM {} has no checkpoint to go back to", vm.id));
    // The parent of Now, before a checkpoint of Now takes its place.
    let id = match request.checkpoint {
        Some(id) => id,
        None => shown(&cx.catalogue().checkpoints(&cx.vm).await?, vm.parent).ok_or_else(nothing)?,
    };
    let checkpoint = cx.catalogue().checkpoint(&cx.vm, id).await?;
    hazards::repeat(&checkpoint, &vm, cx)?;
    cx.reporter.set_checkpoint(id);
    if request.now.is_kept(&vm) {
        let new = NewCheckpoint { name: Some(name_of_now(&checkpoint)?), ..NewCheckpoint::default() };
        let first = create(vm, power, new, journal, cx).await?;
        cx.reporter.set_first_checkpoint(first);
        cx.reporter.set_checkpoint(id);
        journal.next_plan();
    }
    let applied = apply_now(&checkpoint, request, journal, cx).await;
    let first = cx.reporter.now().first_checkpoint;
    applied.map_err(|failure| what_remains(failure, first))
}

async fn apply_now(
    checkpoint: &Checkpoint,
    request: &ApplyRequest,
    journal: &mut Journal,
    cx: &Cx,
) -> Result<(), Failure> {
    let vm = cx.catalogue().vm(&cx.vm).await?;
    let landing = landing(checkpoint, request.machine)?;
    warning(checkpoint, landing).into_iter().for_each(|warning| cx.reporter.warn(warning));
    let facts = facts(&vm, checkpoint, landing, cx).await?;
    room::for_apply(cx, &facts).await?;
    saga::run(&mut Apply::new(facts, checkpoint.clone()), journal, cx).await?;
    tidy(cx).await;
    Ok(())
}

async fn facts(vm: &Vm, checkpoint: &Checkpoint, landing: Landing, cx: &Cx) -> Result<ApplyFacts, Failure> {
    let forest = cx.catalogue().forest(&cx.vm).await?;
    Ok(ApplyFacts {
        checkpoint: checkpoint.id,
        overlays: plan_overlays(&forest, &checkpoint.disks)?,
        old: vm.instance,
        old_saved: vm.saved.clone(),
        new: (landing == Landing::Process).then(InstanceId::generate),
        new_saved: (landing == Landing::Saved).then(MemoryId::generate),
        held: (landing == Landing::Process && may_run_early(checkpoint, cx).await?).then(MemoryId::generate),
        old_held: vm.held.clone(),
        old_tpm: vm.tpm.clone(),
        new_tpm: has_tpm(&checkpoint.definition).then(|| new_folder(vm)),
        generation_id: Uuid::new_v4(),
    })
}

/// Whether the machine may run before its memory is in. One that stays paused wins nothing by it; and where a memory did not
/// come in the last time, it is looked at as a whole before anything is given up for it.
async fn may_run_early(checkpoint: &Checkpoint, cx: &Cx) -> Result<bool, Failure> {
    let failure = cx.catalogue().failure(&cx.vm).await?;
    Ok(checkpoint.was_running && failure.is_none_or(|failure| failure.reason != Reason::MemoryLost))
}

/// Says of a failure that the checkpoint of Now, if one was made, is there.
pub(crate) fn what_remains(mut failure: Failure, first: Option<CheckpointId>) -> Failure {
    if let Some(first) = first {
        failure.message += &format!("; the checkpoint of Now that was made first remains: {first}");
    }
    failure
}

/// `Before going back to "clean install"`, as far as a name may be long.
fn name_of_now(checkpoint: &Checkpoint) -> Result<CheckpointName, Failure> {
    const LONGEST: usize = 70;
    let called = checkpoint.name.as_str();
    let short: String = called.chars().take(LONGEST).collect();
    let more = if short.len() < called.len() { "…" } else { "" };
    let name = format!("Before going back to \"{short}{more}\"");
    name.parse().map_err(|problem| Failure::field("now", problem))
}
