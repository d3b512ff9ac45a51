//! VMs whose own description is lost: what their checkpoints tell, and the files beside their layers.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use stillpoint_common::{Failure, Layer, VmId};
use uuid::Uuid;

use super::Engine;
use crate::{
    describe::{CHECKPOINT_ENDING, CheckpointDescription, VmDescription, read, vm_file},
    error::StepError,
    rebuild::{FoundLayer, LeftFile, by_name, put_together},
    record::new_vm,
};

/// A VM that only its checkpoints tell of.
pub(super) struct Told {
    pub(super) id: VmId,
    /// The description of the newest.
    pub(super) file: PathBuf,
    /// What they make together, or why they do not.
    pub(super) vm: Result<VmDescription, String>,
    /// What has to be said about it.
    pub(super) note: String,
}

type Group = Vec<(PathBuf, CheckpointDescription)>;

impl Engine {
    /// VMs that have no description that can be read, and that the catalogue does not have.
    pub(super) async fn told_by_checkpoints(
        &self,
        folders: &[PathBuf],
        described: &BTreeSet<VmId>,
        left: &mut Vec<LeftFile>,
    ) -> Result<Vec<Told>, Failure> {
        let mut told = Vec::new();
        for ((id, _), mut group) in self.groups(folders, left).await? {
            if described.contains(&id) || self.world.catalogue.vm(&id).await.is_ok() {
                continue;
            }
            group.sort_by_key(|(_, told)| (told.checkpoint.created, told.checkpoint.id));
            let Some((file, newest)) = group.last().cloned() else { continue };
            let found = self.unknown_beside(group.iter().flat_map(|(_, told)| &told.layers)).await?;
            let location = &newest.vm.checkpoint_location;
            let names = self.world.ports.descriptions.names(location).await.map_err(StepError::from)?;
            let blank = new_vm(&self.world, id.clone(), newest.checkpoint.definition);
            let vm = put_together(blank, group.into_iter().map(|(_, told)| told).collect(), &found, &names);
            let note = format!(
                "made from the descriptions of its checkpoints, since {} is lost: its definition is that of the newest \
                 checkpoint, its settings are those of a new VM",
                vm_file(&id)
            );
            told.push(Told { id, file, vm, note });
        }
        Ok(told)
    }

    async fn groups(
        &self,
        folders: &[PathBuf],
        left: &mut Vec<LeftFile>,
    ) -> Result<BTreeMap<(VmId, Uuid), Group>, Failure> {
        let (mut groups, mut done) = (BTreeMap::<_, Group>::new(), BTreeSet::new());
        for found in self.descriptions_in(folders, CHECKPOINT_ENDING).await? {
            if !done.insert(found.path.clone()) {
                continue;
            }
            let read = |bytes: Vec<u8>| read::<CheckpointDescription>(&bytes).map_err(|failure| failure.message);
            match found.content.map_err(|why| format!("it cannot be read: {why}")).and_then(read) {
                Ok(told) => groups.entry((told.vm.id.clone(), told.vm.uid)).or_default().push((found.path, told)),
                Err(why) => left.push(LeftFile { file: found.path, why }),
            }
        }
        Ok(groups)
    }

    /// Files in the folders of these layers that have the name of a layer and are none of these.
    async fn unknown_beside<'a>(&self, layers: impl Iterator<Item = &'a Layer>) -> Result<Vec<FoundLayer>, Failure> {
        let known: BTreeSet<&Path> = layers.map(|layer| layer.file.path.as_path()).collect();
        let folders: BTreeSet<&Path> = known.iter().filter_map(|path| path.parent()).collect();
        let (images, mut found) = (&self.world.ports.images, Vec::new());
        for folder in folders {
            // A folder that is gone is said by its layers.
            for (path, seen) in images.beside(folder).await.unwrap_or_default() {
                let (Some(file), Some(backing)) = (by_name(&path), seen.backing) else { continue };
                if known.contains(path.as_path()) {
                    continue;
                }
                let facts = images.stat(&file.path, file.format).await.map_err(StepError::from)?;
                found.push(FoundLayer { file, identity: facts.identity, virtual_size: facts.virtual_size, backing });
            }
        }
        Ok(found)
    }
}
