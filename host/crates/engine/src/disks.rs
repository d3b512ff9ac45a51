//! Taking image files as the disks of a VM.
//!
//! A VM that has checkpoints may get and lose disks too. One that it loses keeps its layers, for the checkpoints and for
//! itself: put back under its name and path, it reads as it did. Nothing that a checkpoint needs is moved or taken twice.

use std::{collections::BTreeSet, path::Path};

use stillpoint_common::{
    DetachedDisk, DiskDefinition, DiskName, Failure, Layer, LayerFile, LayerId, Reason, Vm, VmDefinition, VmId,
};

use crate::{catalogue::Changes, context::World, error::StepError, forest::Forest, ports::ImageFacts};

/// Makes sure that each disk's image can be this VM's, and answers the first layer of each. Changes nothing.
pub(crate) async fn take_disks(
    world: &World,
    vm: Option<&VmId>,
    definition: &VmDefinition,
) -> Result<Vec<Layer>, Failure> {
    let mut layers = Vec::with_capacity(definition.disks.len());
    for (index, disk) in definition.layered().enumerate() {
        let field = format!("vm.spec.{}", definition.layered_field(index));
        layers.push(take_disk(world, vm, &disk).await.map_err(|failure| failure.at(field))?);
    }
    Ok(layers)
}

/// Gives a VM that has checkpoints other disks: those that stay keep their layers, those that go are detached, those that
/// come back are what they were, and new ones are taken. Answers the layers that are new to the catalogue.
pub(crate) async fn exchange_disks(world: &World, vm: &mut Vm, definition: &VmDefinition) -> Result<Changes, Failure> {
    let forest = world.catalogue.forest(&vm.id).await?;
    let mut kept: Vec<DetachedDisk> = std::mem::take(&mut vm.detached);
    for disk in vm.definition.layered() {
        let head = vm.heads.remove(&disk.name);
        kept.extend(head.map(|head| DetachedDisk { disk, head }));
    }
    let mut changes = Changes::default();
    for (index, disk) in definition.layered().enumerate() {
        let field = format!("vm.spec.{}", definition.layered_field(index));
        let head = match kept.iter().position(|known| known.disk == disk) {
            Some(known) => kept.remove(known).head,
            None => {
                is_no_layer(&forest, &disk).map_err(|failure| failure.at(field.clone()))?;
                let layer = take_disk(world, Some(&vm.id), &disk).await.map_err(|failure| failure.at(field))?;
                changes = changes.new_layer(&vm.id, &layer);
                layer.file.id
            }
        };
        vm.heads.insert(disk.name.clone(), head);
    }
    let needed = needed_by_checkpoints(world, &vm.id).await?;
    let free = |detached: &DetachedDisk| forest.is_free(detached.head) && !needed.contains(&detached.head);
    let (released, detached): (Vec<_>, Vec<_>) = kept.into_iter().partition(free);
    vm.detached = detached;
    let layers = released.iter().filter_map(|released| forest.get(released.head));
    Ok(layers.fold(changes, |changes, layer| changes.delete_layer(&vm.id, layer)))
}

/// The layers that a VM's checkpoints need.
pub(crate) async fn needed_by_checkpoints(world: &World, vm: &VmId) -> Result<BTreeSet<LayerId>, Failure> {
    let checkpoints = world.catalogue.checkpoints(vm).await?;
    Ok(checkpoints.iter().flat_map(|checkpoint| checkpoint.disks.values().copied()).collect())
}

/// A file that a checkpoint or a detached disk reads is not written to as a disk of its own.
fn is_no_layer(forest: &Forest, disk: &DiskDefinition) -> Result<(), Failure> {
    match forest.iter().find(|layer| layer.file.path == disk.path) {
        None => Ok(()),
        Some(layer) => {
            let (path, name) = (disk.path.display(), &layer.disk);
            let message = format!("{path} is a layer of this VM's disk {name}, which its checkpoints need as it is");
            Err(Failure::new(Reason::DiskIsBacking, message))
        }
    }
}

/// The image is whole, and needs no other.
pub(crate) fn stands_alone(path: &Path, facts: &ImageFacts) -> Result<(), Failure> {
    is_whole(path, facts)?;
    let Some(backing) = &facts.backing else { return Ok(()) };
    let (path, backing) = (path.display(), backing.display());
    let message = format!("{path} lies on {backing}; give an image that stands alone, made with `qemu-img convert`");
    Err(Failure::new(Reason::DiskFileUnusable, message))
}

/// The image is not one of qcow2 that is declared raw.
pub(crate) fn is_as_declared(path: &Path, facts: &ImageFacts) -> Result<(), Failure> {
    if !facts.begins_as_qcow2 {
        return Ok(());
    }
    let message = format!(
        "{} is declared raw and begins as a qcow2 image: a guest would see, and where it can write overwrite, what only \
         describes its content; declare it as qcow2",
        path.display()
    );
    Err(Failure::new(Reason::DiskFileUnusable, message))
}

/// The image's own header does not say that it is damaged.
pub(crate) fn is_whole(path: &Path, facts: &ImageFacts) -> Result<(), Failure> {
    if !facts.corrupt {
        return Ok(());
    }
    let message = format!("{} is damaged, its header says; run `qemu-img check`", path.display());
    Err(Failure::new(Reason::DiskFileUnusable, message))
}

async fn take_disk(world: &World, vm: Option<&VmId>, disk: &DiskDefinition) -> Result<Layer, Failure> {
    if disk.name == DiskName::uefi_variables() {
        world.ports.images.create_variables(&disk.path).await.map_err(StepError::from)?;
    }
    let facts = world.ports.images.stat(&disk.path, disk.format).await.map_err(StepError::from)?;
    let path = disk.path.display();
    stands_alone(&disk.path, &facts)?;
    is_as_declared(&disk.path, &facts)?;
    if let Some(owner) = world.catalogue.owner(facts.identity).await?.filter(|owner| Some(owner) != vm) {
        return Err(owned_by(world, &owner, disk, facts.identity).await?);
    }
    let overlays = world.ports.images.overlays_of(&disk.path).await.map_err(StepError::from)?;
    if let Some(overlay) = overlays.first() {
        let message = format!("{path} is the backing file of {}", overlay.display());
        return Err(Failure::new(Reason::DiskIsBacking, message));
    }
    let file = LayerFile { id: LayerId::generate(), path: disk.path.clone(), format: disk.format };
    let (identity, virtual_size) = (facts.identity, facts.virtual_size);
    Ok(Layer { file, disk: disk.name.clone(), backing: None, identity, virtual_size, frozen: None, made: None })
}

/// Why the disk of another VM cannot be taken.
async fn owned_by(
    world: &World,
    owner: &VmId,
    disk: &DiskDefinition,
    identity: stillpoint_common::FileIdentity,
) -> Result<Failure, Failure> {
    let forest = world.catalogue.forest(owner).await?;
    let path = disk.path.display();
    let layer = forest.iter().find(|layer| layer.identity == identity);
    Ok(match layer.filter(|layer| !forest.children(layer.file.id).is_empty()) {
        Some(_) => Failure::new(Reason::DiskIsBacking, format!("{path} is a layer under a disk of VM {owner}")),
        None => Failure::new(Reason::DiskInUse, format!("{path} is a disk of VM {owner}")),
    })
}
