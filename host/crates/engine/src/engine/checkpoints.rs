//! Checkpoints as clients see them.

use std::{collections::BTreeMap, path::PathBuf};

use stillpoint_common::{Checkpoint, CheckpointId, DiskName, Failure, LayerId, Reason, VmId};

use super::Engine;
use crate::{CheckpointChange, CheckpointView, actor::Message, tree::shown, truth::missing_files};

impl Engine {
    /// One checkpoint.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `CHECKPOINT_NOT_FOUND`.
    pub async fn checkpoint(&self, vm: &VmId, id: CheckpointId) -> Result<CheckpointView, Failure> {
        let all = self.checkpoints(vm).await?;
        let absent = || Failure::new(Reason::CheckpointNotFound, format!("VM {vm} has no checkpoint {id}"));
        all.into_iter().find(|view| view.checkpoint.id == id).ok_or_else(absent)
    }

    /// A VM's checkpoints, oldest first.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`.
    pub async fn checkpoints(&self, vm: &VmId) -> Result<Vec<CheckpointView>, Failure> {
        self.world.catalogue.vm(vm).await?;
        let forest = self.world.catalogue.forest(vm).await?;
        let checkpoints = self.world.catalogue.checkpoints(vm).await?;
        let mut missing = missing_files(&self.world, &forest, &checkpoints).await?;
        let view = |checkpoint: Checkpoint| {
            let file = |(disk, layer): (&DiskName, &LayerId)| {
                forest.get(*layer).map(|layer| (disk.clone(), layer.file.path.clone()))
            };
            let files = checkpoint.disks.iter().filter_map(file).collect::<BTreeMap<_, PathBuf>>();
            CheckpointView { files, missing: missing.remove(&checkpoint.id).unwrap_or_default(), checkpoint }
        };
        Ok(checkpoints.into_iter().map(view).collect())
    }

    /// Those that people are shown: not those of backup sessions. What came after one of them comes after the nearest
    /// above that is shown.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`.
    pub async fn shown_checkpoints(&self, vm: &VmId) -> Result<Vec<CheckpointView>, Failure> {
        let mut views = self.checkpoints(vm).await?;
        if views.iter().any(|view| view.checkpoint.remarks.backup.is_some()) {
            let all: Vec<Checkpoint> = views.iter().map(|view| view.checkpoint.clone()).collect();
            views.retain(|view| view.checkpoint.remarks.backup.is_none());
            views.iter_mut().for_each(|view| view.checkpoint.parent = shown(&all, view.checkpoint.parent));
        }
        Ok(views)
    }

    /// Changes what is said about a checkpoint; its files, its id and its place in the tree stay.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `CHECKPOINT_NOT_FOUND`, `CHECKPOINT_DELETING`, `VM_BUSY`.
    pub async fn update_checkpoint(
        &self,
        vm: &VmId,
        id: CheckpointId,
        change: CheckpointChange,
    ) -> Result<CheckpointView, Failure> {
        self.ask(vm, |reply| Message::Remark { checkpoint: id, change, reply }).await??;
        self.checkpoint(vm, id).await
    }
}
