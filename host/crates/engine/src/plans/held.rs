//! A memory state that a VM still takes in while it runs is kept under a name of its own: whatever becomes of the checkpoint
//! or the saved state that it was, none of its pages goes before it is in.
//!
//! It is made before the load, noted in the VM's record by the commit, and let go of when the VM has all of it or has no
//! process any more.

use stillpoint_common::{HeldMemory, MemoryId, MemoryState, Vm};

use crate::{catalogue::Changes, context::Cx, error::StepError, ports::Intake, saga::up_to};

/// Where a second name of this state lies.
pub(super) fn held_as(memory: &MemoryState, id: MemoryId) -> HeldMemory {
    HeldMemory { id, folder: memory.path.parent().unwrap_or(&memory.path).to_owned() }
}

/// Lets go of the memory that is held for a VM, if it is not needed any more. None held is fine.
pub(crate) async fn release(cx: &Cx) -> Result<(), StepError> {
    let vm = cx.catalogue().vm(&cx.vm).await?;
    let Some(held) = &vm.held else { return Ok(()) };
    if let Some(instance) = vm.instance
        && matches!(cx.ports().hypervisor.observe(instance).await?.intake, Intake::Active(_))
    {
        return Ok(());
    }
    cx.ports().memory.remove(&held.folder, held.id).await?;
    let vm = cx.catalogue().vm(&cx.vm).await?;
    Ok(cx.catalogue().commit(Changes::default().set_vm(&Vm { held: None, ..vm })).await?)
}

/// Removes a held memory that the record does not know any more. A failure is told: the file stays.
pub(super) async fn drop_held(cx: &Cx, held: &HeldMemory) {
    let remove = || cx.ports().memory.remove(&held.folder, held.id);
    if let Err(error) = up_to(5, "removing a held memory", remove).await {
        let folder = held.folder.display();
        cx.reporter.warn(format!(
            "the memory {} in {folder} is of no use any more and could not be removed: {error}",
            held.id
        ));
    }
}
