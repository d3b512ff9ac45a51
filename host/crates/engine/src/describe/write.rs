//! Bringing description files in line with the catalogue.

use std::collections::BTreeSet;

use stillpoint_common::{Checkpoint, CheckpointId, Failure, Vm, VmId};

use super::{
    debt::{Debt, owed},
    format::{Described, checkpoint_file, vm_file},
};
use crate::{
    catalogue::Changes,
    context::{Cx, World},
    error::StepError,
    forest::Forest,
};

/// Writes what is owed, if something is. Answers the changes that say so; until they are committed it stays owed.
pub(crate) async fn settle(world: &World, id: &VmId) -> Result<Changes, StepError> {
    let debts = world.catalogue.debts(id).await?;
    if debts.is_empty() {
        return Ok(Changes::default());
    }
    let vm = world.catalogue.vm(id).await?;
    let checkpoints = world.catalogue.checkpoints(id).await?;
    let forest = world.catalogue.forest(id).await?;
    write_owed(world, Described { vm: &vm, checkpoints: &checkpoints, forest: &forest }, &debts).await?;
    let is_there = |id: &CheckpointId| checkpoints.iter().any(|checkpoint| checkpoint.id == *id);
    for gone in debts.iter().filter_map(|debt| debt.checkpoint()).filter(|id| !is_there(id)) {
        world.ports.descriptions.remove(&vm.checkpoint_location, &checkpoint_file(gone)).await?;
    }
    Ok(Changes::default().settle(id, &debts))
}

/// The same, committed. Answers false, and logs why, if it could not be done: the debt stays.
pub(crate) async fn settled(world: &World, id: &VmId) -> bool {
    let settled = async { Ok::<(), StepError>(world.catalogue.commit(settle(world, id).await?).await?) };
    match settled.await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(vm = %id, error = %Failure::from(error), "the description files could not be written yet");
            false
        }
    }
}

/// Writes the VM's own file first, which says the most, and those of checkpoints that are owed.
pub(crate) async fn write_owed(world: &World, described: Described<'_>, debts: &[Debt]) -> Result<(), StepError> {
    let owed = owed(debts, described.checkpoints, described.forest);
    let files = owed.into_iter().map(|checkpoint| described.checkpoint_file(checkpoint));
    for (name, content) in std::iter::once(described.vm_file()).chain(files) {
        world.ports.descriptions.write(&described.vm.checkpoint_location, &name, &content).await?;
    }
    Ok(())
}

/// Writes the VM's own file alone, where a guest waits for it. Everything stays owed.
pub(crate) async fn now_only(cx: &Cx) {
    let written = async {
        let vm = cx.catalogue().vm(&cx.vm).await?;
        let checkpoints = cx.catalogue().checkpoints(&cx.vm).await?;
        let forest = cx.catalogue().forest(&cx.vm).await?;
        let (name, content) = Described { vm: &vm, checkpoints: &checkpoints, forest: &forest }.vm_file();
        Ok::<(), StepError>(cx.ports().descriptions.write(&vm.checkpoint_location, &name, &content).await?)
    };
    if let Err(error) = written.await {
        tracing::warn!(vm = %cx.vm, error = %Failure::from(error), "the VM's description could not be written yet");
    }
}

/// The files that there should be for a VM in this state: name and content.
pub(crate) fn expected(vm: &Vm, checkpoints: &[Checkpoint], forest: &Forest) -> Vec<(String, Vec<u8>)> {
    let described = Described { vm, checkpoints, forest };
    let files = checkpoints.iter().map(|checkpoint| described.checkpoint_file(checkpoint));
    std::iter::once(described.vm_file()).chain(files).collect()
}

/// Names of all files that a VM may have in its checkpoint location.
pub(crate) fn names_of(vm: &Vm, checkpoints: &[Checkpoint]) -> BTreeSet<String> {
    let of = |checkpoint: &Checkpoint| [checkpoint_file(checkpoint.id), format!("{}.memory", checkpoint.id)];
    let saved = vm.saved.iter().map(|saved| format!("{}.memory", saved.id));
    let held = vm.held.iter().map(|held| format!("{}.memory", held.id));
    checkpoints.iter().flat_map(of).chain(saved).chain(held).chain([vm_file(&vm.id)]).collect()
}

/// Undoes the description of a checkpoint that was not published.
pub(crate) async fn take_back(cx: &Cx, id: CheckpointId) -> Result<(), StepError> {
    let vm = cx.catalogue().vm(&cx.vm).await?;
    now_only(cx).await;
    Ok(cx.ports().descriptions.remove(&vm.checkpoint_location, &checkpoint_file(id)).await?)
}

/// Removes the description of a VM that has no checkpoints any more. The debt is durable first: if the VM stays after
/// all, it is described again.
pub(crate) async fn remove_all(world: &World, vm: &Vm) -> Result<(), StepError> {
    world.catalogue.commit(Changes::default().owe(&vm.id, Debt::All)).await?;
    let gone: Vec<Debt> = world.catalogue.debts(&vm.id).await?;
    let checkpoints = gone.iter().filter_map(|debt| debt.checkpoint()).map(checkpoint_file);
    for name in std::iter::once(vm_file(&vm.id)).chain(checkpoints) {
        world.ports.descriptions.remove(&vm.checkpoint_location, &name).await?;
    }
    let gone: Vec<Debt> = gone.into_iter().filter(|debt| *debt != Debt::All).collect();
    Ok(world.catalogue.commit(Changes::default().settle(&vm.id, &gone)).await?)
}
