//! Telling a guest that it was brought back to a checkpoint.
//!
//! The note is written in the transaction that moves Now, and goes when the agent has accepted it: at once if the machine
//! goes on, with the first sign of life if it boots. Until then nothing is lost by a crash; a crash in between tells twice,
//! which the agent knows by the restore's id.

use stillpoint_common::{GuestService, Vm};

use crate::{catalogue::Changes, context::World, ports::QuiesceError};

/// Tells it, if there is something to tell. A guest that cannot be told now is told later.
pub(crate) async fn tell(world: &World, vm: &Vm) {
    let Some(instance) = vm.instance else { return };
    if vm.settings.services_off.contains(&GuestService::Quiesce) {
        return;
    }
    let Ok(Some((restore, revision))) = world.catalogue.restore(&vm.id).await else { return };
    match world.ports.guest.restored(instance, &restore).await {
        Ok(()) => tracing::info!(vm = %vm.id, checkpoint = %restore.checkpoint, "the guest was told of its restore"),
        Err(error @ (QuiesceError::Unknown { .. } | QuiesceError::Incompatible { .. })) => {
            tracing::warn!(vm = %vm.id, %error, "writers of the guest will not be told of its restore");
        }
        Err(error) => return tracing::info!(vm = %vm.id, %error, "the guest will be told of its restore later"),
    }
    // Not forgotten, it is told once more.
    if let Err(error) = world.catalogue.commit(Changes::default().clear_restore(&vm.id, revision)).await {
        tracing::info!(vm = %vm.id, %error, "the guest may be told of its restore again");
    }
}
