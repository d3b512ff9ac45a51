//! A VM whose own description is lost, put together from those of its checkpoints and from the files beside its layers.
//! Pure.
//!
//! What a checkpoint does not know is what came after it: the layers that Now writes to. They lie on layers that are
//! described, and have a layer's id in their names. Where more than one could be what Now writes to, nobody guesses.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use stillpoint_common::{
    Checkpoint, CheckpointId, DiskFormat, DiskName, FileIdentity, Layer, LayerFile, LayerId, Vm, VmId,
};

use crate::{
    describe::{CheckpointDescription, VmDescription},
    tpm::{ENDING, has_tpm},
};

/// A file beside the layers that no description knows, and that has the name of a layer.
#[derive(Debug, Clone)]
pub(crate) struct FoundLayer {
    pub(crate) file: LayerFile,
    pub(crate) identity: FileIdentity,
    pub(crate) virtual_size: u64,
    /// The file that it names.
    pub(crate) backing: PathBuf,
}

/// The layer that a file is by its name: `<stem>-<id>.qcow2`.
pub(crate) fn by_name(path: &Path) -> Option<LayerFile> {
    const ID: usize = 24;
    let stem = path.file_stem()?.to_str()?;
    let (rest, id) = stem.split_at_checked(stem.len().checked_sub(ID)?)?;
    let is_ours = path.extension()? == "qcow2" && rest.len() > 1 && rest.ends_with('-');
    let id = id.parse().ok().filter(|_| is_ours)?;
    Some(LayerFile { id, path: path.to_owned(), format: DiskFormat::Qcow2 })
}

/// Puts a VM together; `blank` is one of its name that nobody has said more about. `told` is not empty, the oldest first.
/// `names` are those of the files in its checkpoint location.
///
/// # Errors
/// What cannot be told, and what to do.
pub(crate) fn put_together(
    blank: Vm,
    told: Vec<CheckpointDescription>,
    found: &[FoundLayer],
    names: &[String],
) -> Result<VmDescription, String> {
    let facts = told.last().ok_or("no checkpoint tells of it")?.vm.clone();
    let mut layers: BTreeMap<LayerId, Layer> = BTreeMap::new();
    let described = told.iter().flat_map(|told| &told.layers);
    layers.extend(described.map(|layer| (layer.file.id, layer.clone())));
    let checkpoints: Vec<Checkpoint> = told.into_iter().map(|told| told.checkpoint).collect();
    let new = attach(&mut layers, found);
    let mut heads = BTreeMap::new();
    for disk in blank.definition.layered() {
        heads.insert(disk.name.clone(), head(&disk.name, &layers, &new)?);
    }
    let tpm = match has_tpm(&blank.definition) {
        true => Some(facts.checkpoint_location.join(tpm(&blank.id, names)?)),
        false => None,
    };
    let vm = Vm {
        uid: facts.uid,
        checkpoint_policy: facts.checkpoint_policy,
        checkpoint_location: facts.checkpoint_location,
        created: facts.created,
        parent: parent(&heads, &layers, &new, &checkpoints),
        heads,
        tpm,
        ..blank
    };
    Ok(VmDescription::new(vm, checkpoints, layers.into_values().collect()))
}

/// Adds what was found and lies on a layer that is known by then.
fn attach(layers: &mut BTreeMap<LayerId, Layer>, found: &[FoundLayer]) -> BTreeSet<LayerId> {
    let mut new = BTreeSet::new();
    loop {
        let next = found.iter().filter(|found| !layers.contains_key(&found.file.id)).find_map(|found| {
            let below = layers.values().find(|layer| layer.file.path == found.backing)?;
            Some(Layer {
                file: found.file.clone(),
                disk: below.disk.clone(),
                backing: Some(below.file.id),
                identity: found.identity,
                virtual_size: found.virtual_size,
                frozen: None,
                made: None,
            })
        });
        let Some(layer) = next else { return new };
        new.insert(layer.file.id);
        layers.insert(layer.file.id, layer);
    }
}

/// The one layer that nothing lies on and no checkpoint knows.
fn head(disk: &DiskName, layers: &BTreeMap<LayerId, Layer>, new: &BTreeSet<LayerId>) -> Result<LayerId, String> {
    let has_child = |id: LayerId| layers.values().any(|layer| layer.backing == Some(id));
    let of_disk = layers.values().filter(|layer| layer.disk == *disk && new.contains(&layer.file.id));
    let heads: Vec<_> = of_disk.filter(|layer| !has_child(layer.file.id)).collect();
    match heads.as_slice() {
        [head] => Ok(head.file.id),
        [] => Err(format!(
            "the layer that disk {disk} writes to is not beside the others: bring it back. If it is lost, make an empty \
             one, whose name ends in 24 hexadecimal digits, on the layer of the checkpoint that the VM is to go on from \
             (`qemu-img create -f qcow2 -F qcow2 -b LAYER {disk}-000000000000000000000001.qcow2`), then rebuild again"
        )),
        several => {
            let paths: Vec<_> = several.iter().map(|layer| layer.file.path.display().to_string()).collect();
            let paths = paths.join(", ");
            Err(format!("disk {disk} may write to any of {paths}: move those away that it does not write to"))
        }
    }
}

/// The checkpoint whose layers are right below what is new.
fn parent(
    heads: &BTreeMap<DiskName, LayerId>,
    layers: &BTreeMap<LayerId, Layer>,
    new: &BTreeSet<LayerId>,
    checkpoints: &[Checkpoint],
) -> Option<CheckpointId> {
    let below = |head: LayerId| {
        let mut at = head;
        while new.contains(&at) {
            at = layers.get(&at)?.backing?;
        }
        Some(at)
    };
    let is_below = |checkpoint: &&Checkpoint| {
        heads.iter().all(|(disk, head)| below(*head).is_some_and(|layer| checkpoint.disks.get(disk) == Some(&layer)))
    };
    checkpoints.iter().rev().find(is_below).map(|checkpoint| checkpoint.id)
}

/// The folder of Now's TPM: that of a checkpoint is in its record.
fn tpm<'a>(vm: &VmId, names: &'a [String]) -> Result<&'a str, String> {
    let start = format!("{vm}.");
    let folders: Vec<_> = names.iter().filter(|name| name.starts_with(&start) && name.ends_with(ENDING)).collect();
    match folders.as_slice() {
        [folder] => Ok(folder.as_str()),
        [] => Err("the folder with the state of its TPM is not in its checkpoint location: bring it back".to_owned()),
        _ => Err(format!("the state of its TPM may be in any of {folders:?}: move the others away")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_known_by_its_name() {
        let id = LayerId::generate();
        let path = PathBuf::from(format!("/vm/web-data-{id}.qcow2"));
        assert_eq!(by_name(&path), Some(LayerFile { id, path: path.clone(), format: DiskFormat::Qcow2 }));
        for other in [
            format!("/vm/web-{id}.raw"),
            format!("/vm/{id}.qcow2"),
            format!("/vm/-{id}.qcow2"),
            format!("/vm/web{id}.qcow2"),
            format!("/vm/.web-{id}.qcow2.new"),
            "/vm/data.qcow2".to_owned(),
            "/vm/größer-als-vierundzwanzig-zeichen.qcow2".to_owned(),
        ] {
            assert_eq!(by_name(Path::new(&other)), None, "{other}");
        }
    }
}
