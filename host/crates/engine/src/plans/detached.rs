//! Letting go of images that are the user's own again.
//!
//! A disk that was taken out of a VM, or that an apply has taken out, may leave its image behind with nothing on it and
//! nothing that needs it. The file is the user's and stays; the record goes, so that it can be another VM's disk.

use stillpoint_common::Layer;

use crate::{catalogue::Changes, context::Cx, disks::needed_by_checkpoints, error::StepError};

/// Forgets images that neither a disk of Now nor a checkpoint needs.
pub(super) async fn release(cx: &Cx) -> Result<(), StepError> {
    let mut vm = cx.catalogue().vm(&cx.vm).await?;
    let forest = cx.catalogue().forest(&cx.vm).await?;
    let needed = needed_by_checkpoints(&cx.world, &cx.vm).await?;
    let is_free = |id| forest.is_free(id) && !needed.contains(&id);
    let before = vm.detached.len();
    vm.detached.retain(|detached| !is_free(detached.head));
    let own: Vec<_> = vm.own_layers().collect();
    let is_nobodys = |layer: &&Layer| is_free(layer.file.id) && !own.contains(&layer.file.id);
    let nobodys = forest.iter().filter(is_nobodys);
    let mut changes = nobodys.fold(Changes::default(), |changes, layer| changes.delete_layer(&cx.vm, layer));
    if vm.detached.len() < before {
        changes = changes.set_vm(&vm);
    }
    Ok(cx.catalogue().commit(changes).await?)
}
