//! Taking image files as the disks of a VM.

use stillpoint_common::{DiskDefinition, Failure, Layer, LayerFile, LayerId, Reason, VmDefinition, VmId};

use crate::{context::World, error::StepError};

/// Makes sure that each disk's image can be this VM's, and answers the first layer of each. Changes nothing.
pub(crate) async fn take_disks(
    world: &World,
    vm: Option<&VmId>,
    definition: &VmDefinition,
) -> Result<Vec<Layer>, Failure> {
    let mut layers = Vec::with_capacity(definition.disks.len());
    for (index, disk) in definition.disks.iter().enumerate() {
        let field = format!("vm.spec.disks[{index}].path");
        layers.push(take_disk(world, vm, disk).await.map_err(|failure| failure.at(field))?);
    }
    Ok(layers)
}

async fn take_disk(world: &World, vm: Option<&VmId>, disk: &DiskDefinition) -> Result<Layer, Failure> {
    let facts = world.ports.images.stat(&disk.path, disk.format).await.map_err(StepError::from)?;
    let path = disk.path.display();
    if facts.corrupt {
        let message = format!("{path} is damaged, its header says; run `qemu-img check`");
        return Err(Failure::new(Reason::DiskFileUnusable, message));
    }
    if let Some(backing) = &facts.backing {
        let message = format!(
            "{path} lies on {}; give an image that stands alone, made with `qemu-img convert`",
            backing.display()
        );
        return Err(Failure::new(Reason::DiskFileUnusable, message));
    }
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
