//! Telling the catalogue where the files of layers are now.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use stillpoint_common::{DiskDefinition, Failure, FileIdentity, Layer, LayerFile, LayerId, Reason, Vm};

use super::VmActor;
use crate::{
    Reconnect, Reconnected,
    catalogue::Changes,
    error::StepError,
    forest::Forest,
    points::lost_above,
    truth::{Proof, proof},
};

/// Layers in a transaction. Each is three writes at most, and a store takes 128.
const AT_ONCE: usize = 40;

impl VmActor {
    /// Checks the files first, all of them; then writes the new names into the files that lie on them, then the records.
    /// Whatever a crash leaves is put right by the same request again.
    pub(super) async fn reconnect(&mut self, asked: &Reconnect) -> Result<Vec<LayerId>, Failure> {
        let vm = self.idle_vm().await?;
        if vm.instance.is_some() {
            return Err(Failure::new(Reason::VmRunning, format!("VM {} is running", vm.id)));
        }
        let before = self.world.catalogue.forest(&vm.id).await?;
        let (mut moved, mut unproven) = (Vec::new(), Vec::new());
        for (layer, path) in targets(asked, &vm, &before)? {
            let (layer, is_proven) = self.at_new_path(layer, &path, &before, asked.accept_changed).await?;
            unproven.extend((!is_proven).then_some(layer.file.id));
            moved.push(layer);
        }
        let mut after = before.clone();
        after.extend(moved.iter().cloned());
        for parent in &moved {
            for child in after.clone().children(parent.file.id) {
                after.extend([self.onto(child, parent).await?]);
            }
        }
        self.stamp(&vm, &mut after).await?;
        self.lose_points(&before, &unproven).await?;
        let ids = moved.iter().map(|layer| layer.file.id).collect();
        for changes in changes(vm, &before, &after) {
            self.write(changes).await?;
        }
        Ok(ids)
    }

    /// What has changed since a reference point is not known any more where a layer was exchanged for another file.
    async fn lose_points(&self, forest: &Forest, exchanged: &[LayerId]) -> Result<(), Failure> {
        let tracked = self.world.catalogue.tracked(&self.vm).await?;
        let why = "a layer was exchanged for another file by hand";
        let lost = exchanged.iter().flat_map(|layer| lost_above(&tracked, forest, *layer, why));
        let changes = lost.fold(Changes::default(), |changes, lost| changes.set_tracked(&self.vm, &lost));
        Ok(self.world.catalogue.commit(changes).await.map_err(StepError::from)?)
    }

    /// The layer with this file, and whether that is proven, if the file is the one that is meant, or the caller says to take it all the same.
    async fn at_new_path(
        &self,
        layer: &Layer,
        path: &Path,
        forest: &Forest,
        accept_changed: bool,
    ) -> Result<(Layer, bool), Failure> {
        let images = &self.world.ports.images;
        let file = LayerFile { path: path.to_owned(), ..layer.file.clone() };
        let seen = images.look(&file).await.map_err(StepError::from)?;
        let facts = images.stat(path, file.format).await.map_err(StepError::from)?;
        let (id, shown) = (layer.file.id, path.display());
        if facts.virtual_size != layer.virtual_size || facts.corrupt {
            let message = format!("{shown} is damaged or of another size: it cannot be layer {id}");
            return Err(Failure::new(Reason::DiskFileUnusable, message).at("path"));
        }
        let other = forest.iter().any(|other| other.identity == seen.identity && other.file.id != id);
        let owner = self.world.catalogue.owner(seen.identity).await?.filter(|owner| *owner != self.vm);
        if other || owner.is_some() {
            return Err(Failure::new(Reason::DiskInUse, format!("{shown} is another layer already")).at("path"));
        }
        let is_proven = match proof(layer, &seen) {
            Proof::SameFile | Proof::SameStamp => true,
            Proof::None(why) if accept_changed => {
                tracing::warn!(vm = %self.vm, layer = %id, path = %shown, why, "taken without proof");
                false
            }
            Proof::None(why) => {
                let message = format!("{shown} {why}: it is not taken for layer {id} without --accept-changed");
                return Err(Failure::new(Reason::DiskChanged, message).at("path"));
            }
        };
        Ok((Layer { file, identity: seen.identity, frozen: None, ..layer.clone() }, is_proven))
    }

    /// The child, with the parent's new name in its file. That it is about to be written to by us is noted first.
    async fn onto(&self, child: &Layer, parent: &Layer) -> Result<Layer, Failure> {
        let images = &self.world.ports.images;
        let open = Layer { frozen: None, ..child.clone() };
        let seen = images.look(&child.file).await.map_err(StepError::from)?;
        if seen.backing.as_ref() == Some(&parent.file.path) {
            return Ok(child.clone());
        }
        let known = self.world.catalogue.forest(&self.vm).await?;
        if let Some(known) = known.get(child.file.id).filter(|known| known.frozen.is_some()) {
            let note = Changes::default().set_layer(&self.vm, &Layer { frozen: None, ..known.clone() });
            self.world.catalogue.commit(note).await.map_err(StepError::from)?;
        }
        images.repoint(&child.file, &parent.file).await.map_err(StepError::from)?;
        Ok(open)
    }

    /// Layers that are no heads, and of which it is not noted what they are like, are frozen as they are now.
    async fn stamp(&self, vm: &Vm, forest: &mut Forest) -> Result<(), Failure> {
        let is_head = |id: LayerId| vm.own_layers().any(|own| own == id);
        for layer in forest.clone().iter().filter(|layer| layer.frozen.is_none() && !is_head(layer.file.id)) {
            // Others may still be missing; they are reconnected in their turn.
            if let Ok(seen) = self.world.ports.images.look(&layer.file).await {
                forest.extend([Layer { frozen: Some(seen.stamp), ..layer.clone() }]);
            }
        }
        Ok(())
    }
}

/// Which layers go to which paths.
fn targets<'f>(asked: &Reconnect, vm: &Vm, forest: &'f Forest) -> Result<Vec<(&'f Layer, PathBuf)>, Failure> {
    match &asked.what {
        Reconnected::Layer(id) => {
            let absent = || Failure::new(Reason::LayerNotFound, format!("VM {} has no layer {id}", vm.id)).at("layer");
            let layer = forest.get(*id).ok_or_else(absent)?;
            let beside = forest.iter().filter(|other| other.disk == layer.disk && other.file.id != *id);
            let mut folders = beside.filter_map(|other| other.file.path.parent());
            if let Some(folder) = folders.find(|folder| Some(*folder) != asked.path.parent()) {
                let problem = format!(
                    "the layers of disk {} lie in {}, each beside the others; to move all of them, name the disk and \
                     the folder",
                    layer.disk,
                    folder.display()
                );
                return Err(Failure::field("path", problem));
            }
            Ok(vec![(layer, asked.path.clone())])
        }
        Reconnected::Disk(disk) => {
            let layers: Vec<_> = forest.iter().filter(|layer| layer.disk == *disk).collect();
            if layers.is_empty() {
                return Err(Failure::new(Reason::DiskNotFound, format!("VM {} has no disk {disk}", vm.id)).at("disk"));
            }
            let there = |layer: &Layer| asked.path.join(layer.file.path.file_name().unwrap_or_default());
            Ok(layers.into_iter().map(|layer| (layer, there(layer))).collect())
        }
    }
}

/// The records as they are to be, and where the disks themselves are, in transactions that a store takes. The user's own
/// images come first, with the VM that names them.
fn changes(mut vm: Vm, before: &Forest, after: &Forest) -> Vec<Changes> {
    let mut changed: Vec<(&Layer, &Layer)> =
        before.iter().filter_map(|old| Some((old, after.get(old.file.id)?))).filter(|(old, new)| old != new).collect();
    changed.sort_by_key(|(_, new)| new.backing.is_some());
    for (old, new) in changed.iter().filter(|(_, new)| new.backing.is_none()) {
        let of_root = |disk: &&mut DiskDefinition| disk.path == old.file.path;
        let detached = vm.detached.iter_mut().map(|detached| &mut detached.disk);
        for disk in vm.definition.disks.iter_mut().chain(detached).filter(of_root) {
            disk.path.clone_from(&new.file.path);
        }
        vm.definition.move_variables(&old.file.path, &new.file.path);
    }
    // A file that was one layer's may be another's by now.
    let in_use: HashSet<FileIdentity> = after.iter().map(|layer| layer.identity).collect();
    let record = |changes: Changes, (old, new): &(&Layer, &Layer)| match in_use.contains(&old.identity) {
        true => changes.set_layer(&vm.id, new),
        false => changes.delete_layer(&vm.id, old).set_layer(&vm.id, new),
    };
    let mut all: Vec<Changes> =
        changed.chunks(AT_ONCE).map(|some| some.iter().fold(Changes::default(), record)).collect();
    match all.first_mut() {
        Some(first) => *first = std::mem::take(first).set_vm(&vm),
        None => all.push(Changes::default().set_vm(&vm)),
    }
    all
}
