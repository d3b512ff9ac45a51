//! Bringing description files in line with the catalogue.

use std::collections::BTreeSet;

use stillpoint_common::{Checkpoint, CheckpointId, Failure, Vm, VmId};

use super::format::{Described, checkpoint_file, vm_file};
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
    write_all(world, &vm, &checkpoints, &forest).await?;
    for gone in debts.iter().flatten() {
        world.ports.descriptions.remove(&vm.checkpoint_location, &checkpoint_file(*gone)).await?;
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

/// Writes the files of a VM in this state: its own first, which says the most.
pub(crate) async fn write_all(
    world: &World,
    vm: &Vm,
    checkpoints: &[Checkpoint],
    forest: &Forest,
) -> Result<(), StepError> {
    for (name, content) in expected(vm, checkpoints, forest) {
        world.ports.descriptions.write(&vm.checkpoint_location, &name, &content).await?;
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
    std::iter::once(described.vm_file()).chain(described.checkpoint_files()).collect()
}

/// Names of all files that a VM may have in its checkpoint location.
pub(crate) fn names_of(vm: &Vm, checkpoints: &[Checkpoint]) -> BTreeSet<String> {
    let of = |checkpoint: &Checkpoint| [checkpoint_file(checkpoint.id), format!("{}.memory", checkpoint.id)];
    let saved = vm.saved.iter().map(|saved| format!("{}.memory", saved.id));
    checkpoints.iter().flat_map(of).chain(saved).chain([vm_file(&vm.id)]).collect()
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
    world.catalogue.commit(Changes::default().owe(&vm.id)).await?;
    let gone = world.catalogue.debts(&vm.id).await?;
    let names = gone.iter().map(|gone| gone.map_or_else(|| vm_file(&vm.id), checkpoint_file));
    for name in names {
        world.ports.descriptions.remove(&vm.checkpoint_location, &name).await?;
    }
    let gone: Vec<_> = gone.into_iter().filter(Option::is_some).collect();
    Ok(world.catalogue.commit(Changes::default().settle(&vm.id, &gone)).await?)
}
