//! What several plans do with the layers of a VM's disks.

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;
use stillpoint_common::{DiskFormat, DiskName, Failure, FileIdentity, Layer, LayerFile, LayerId, Reason, Vm};

use crate::{
    context::{Cx, Ports},
    error::StepError,
    forest::Forest,
    job::PlannedOverlay,
    ports::{DiskChain, ImageError, Overlay},
    truth,
};

/// A new layer over each of these layers: beside it, named after the user's image, with its id in the name.
pub(super) fn plan_overlays(
    forest: &Forest,
    bases: &BTreeMap<DiskName, LayerId>,
) -> Result<BTreeMap<DiskName, PlannedOverlay>, Failure> {
    let plan = |(disk, backing): (&DiskName, &LayerId)| {
        let chain = forest.chain(*backing).ok_or_else(|| contradiction(disk))?;
        let root = chain.first().ok_or_else(|| contradiction(disk))?;
        let id = LayerId::generate();
        let stem = root.file.path.file_stem().map_or_else(|| disk.to_string(), |s| s.to_string_lossy().into_owned());
        let path = root.file.path.with_file_name(format!("{stem}-{id}.qcow2"));
        let file = LayerFile { id, path, format: DiskFormat::Qcow2 };
        Ok((disk.clone(), PlannedOverlay { file, backing: *backing }))
    };
    bases.iter().map(plan).collect()
}

/// Makes the files of planned overlays, after making sure that what they lie on is what we know. Answers the layers.
pub(super) async fn create_overlays(
    cx: &Cx,
    forest: &Forest,
    overlays: &BTreeMap<DiskName, PlannedOverlay>,
) -> Result<Vec<Layer>, StepError> {
    let mut made = Vec::with_capacity(overlays.len());
    for (disk, planned) in overlays {
        let backing = forest.get(planned.backing).ok_or_else(|| contradiction(disk))?;
        verify_at_a_glance(cx.ports(), forest, backing).await?;
        let facts = verify_content(cx.ports(), backing).await?;
        let identity = cx.ports().images.create_overlay(&planned.file.path, &backing.file, facts).await?;
        made.push(layer_of(disk, planned, identity, facts, cx.ports().clock.now()));
    }
    Ok(made)
}

pub(super) fn layer_of(
    disk: &DiskName,
    planned: &PlannedOverlay,
    identity: FileIdentity,
    virtual_size: u64,
    made: Timestamp,
) -> Layer {
    let (file, backing) = (planned.file.clone(), Some(planned.backing));
    Layer { file, disk: disk.clone(), backing, identity, virtual_size, frozen: None, made: Some(made) }
}

/// Removes the files of planned overlays that have not become layers of the VM.
pub(super) async fn remove_overlays(cx: &Cx, overlays: &BTreeMap<DiskName, PlannedOverlay>) -> Result<(), StepError> {
    let forest = cx.catalogue().forest(&cx.vm).await?;
    for planned in overlays.values().filter(|planned| forest.get(planned.file.id).is_none()) {
        match cx.ports().images.stat(&planned.file.path, planned.file.format).await {
            Ok(facts) => cx.ports().images.remove(&planned.file.path, facts.identity).await?,
            Err(ImageError::Missing { .. }) => cx.ports().images.clear_unfinished(&planned.file.path).await?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// As the hypervisor wants them.
pub(super) fn as_overlays(overlays: &BTreeMap<DiskName, PlannedOverlay>) -> Vec<Overlay> {
    let overlay = |(disk, planned): (&DiskName, &PlannedOverlay)| Overlay {
        disk: disk.clone(),
        backing: planned.backing,
        file: planned.file.clone(),
    };
    overlays.iter().map(overlay).collect()
}

/// The layers of a chain, from the user's image up.
pub(crate) fn chain_layers<'a>(forest: &'a Forest, disk: &DiskName, head: LayerId) -> Result<Vec<&'a Layer>, Failure> {
    forest.chain(head).ok_or_else(|| contradiction(disk))
}

/// The files of a chain, from the user's image up.
pub(crate) fn chain_files(forest: &Forest, disk: &DiskName, head: LayerId) -> Result<Vec<LayerFile>, Failure> {
    Ok(chain_layers(forest, disk, head)?.into_iter().map(|layer| layer.file.clone()).collect())
}

/// The chains of a VM's disks as a launch wants them, in the order of its definition.
pub(super) fn launch_chains(forest: &Forest, vm: &Vm) -> Result<Vec<DiskChain>, Failure> {
    let chain = |name: &DiskName| {
        let head = vm.heads.get(name).ok_or_else(|| contradiction(name))?;
        Ok(DiskChain { disk: name.clone(), layers: chain_files(forest, name, *head)? })
    };
    vm.definition.layered().map(|disk| chain(&disk.name)).collect()
}

/// Makes sure that every file which these heads read through is the one we know.
pub(crate) async fn verify_layers(
    ports: &Ports,
    forest: &Forest,
    heads: impl IntoIterator<Item = (&DiskName, &LayerId)>,
) -> Result<(), StepError> {
    for (disk, head) in heads {
        let chain = chain_layers(forest, disk, *head)?;
        truth::are_right(ports, forest, chain.iter().copied().rev()).await?;
        for layer in chain.into_iter().rev() {
            verify_content(ports, layer).await?;
        }
    }
    Ok(())
}

/// The same for a layer and all below it, without a look at what is in them: quick.
pub(super) async fn verify_at_a_glance(ports: &Ports, forest: &Forest, layer: &Layer) -> Result<(), StepError> {
    let chain = chain_layers(forest, &layer.disk, layer.file.id)?;
    truth::are_right(ports, forest, chain.into_iter().rev()).await
}

/// Makes sure that a layer's file is whole and of the size we know. Answers its virtual size.
async fn verify_content(ports: &Ports, layer: &Layer) -> Result<u64, StepError> {
    let facts = ports.images.stat(&layer.file.path, layer.file.format).await?;
    let path: PathBuf = layer.file.path.clone();
    if facts.corrupt {
        let message = "its header says that it is damaged; run `qemu-img check`".to_owned();
        return Err(ImageError::Unusable { path, message }.into());
    }
    if layer.backing.is_some() && facts.virtual_size != layer.virtual_size {
        return Err(resized(layer, facts.virtual_size).into());
    }
    Ok(facts.virtual_size)
}

/// A disk of which checkpoints read parts keeps its size. One that stands alone may be resized while its VM is off.
fn resized(layer: &Layer, size: u64) -> Failure {
    let (path, known) = (layer.file.path.display(), layer.virtual_size);
    let message = format!(
        "{path} (disk {}) was resized from {known} to {size} bytes outside of Stillpoint, and has layers below it: bring it \
         back with `qemu-img resize {path} {known}`",
        layer.disk
    );
    Failure::new(Reason::DiskHasLayers, message)
}

fn contradiction(disk: &DiskName) -> Failure {
    Failure::new(Reason::CatalogueDamaged, format!("the catalogue has no whole chain of layers for disk {disk}"))
}
