//! What a deletion would do, as clients ask for it.

use std::collections::{BTreeMap, BTreeSet};

use stillpoint_common::{Checkpoint, CheckpointId, CheckpointState, Failure, LayerId, Reason, VmId};

use super::Engine;
use crate::{
    DeletePreview, Doomed,
    admission::{of_no_backup, ready},
    backups::read_through,
    error::StepError,
    forest::Forest,
    points::kept_apart,
    preview::Plan,
    tree::subtree,
    truth::see,
};

impl Engine {
    /// What deleting these checkpoints would do to the layers, with the merges that are to be done anyway. Nothing is
    /// done. Sizes are those of now: what the guest writes until then moves too.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `CHECKPOINT_NOT_FOUND`, `CHECKPOINT_DELETING`.
    pub async fn preview_delete(&self, vm: &VmId, doomed: &Doomed) -> Result<DeletePreview, Failure> {
        let record = self.world.catalogue.vm(vm).await?;
        let checkpoints = self.world.catalogue.checkpoints(vm).await?;
        let going = going(vm, &checkpoints, doomed)?;
        let forest = self.world.catalogue.forest(vm).await?;
        let goes = |checkpoint: &&Checkpoint| going.contains(&checkpoint.id);
        let stays = |checkpoint: &&Checkpoint| checkpoint.state == CheckpointState::Ready && !goes(checkpoint);
        let tracked = self.world.catalogue.tracked(vm).await?;
        let apart = kept_apart(&tracked, &forest, &record.own_layers().collect());
        let heads = record.heads.values().copied().chain(apart);
        let needed = heads.chain(checkpoints.iter().filter(stays).flat_map(|stays| stays.disks.values().copied()));
        let needed = needed.chain(read_through(&checkpoints, &forest));
        let (sizes, missing) = self.sizes(&forest).await?;
        let live = record.instance.iter().flat_map(|_| record.heads.values().copied()).collect();
        let plan = Plan { forest: &forest, needed: needed.collect(), live, missing: &missing, sizes };
        let memories = checkpoints.iter().filter(goes).filter_map(|goes| goes.memory.as_ref());
        let memory_bytes = memories.map(|memory| memory.bytes).fold(0, u64::saturating_add);
        let checkpoints = checkpoints.iter().filter(goes).map(|goes| goes.id).collect();
        Ok(DeletePreview { checkpoints, memory_bytes, ..plan.preview(self.world.merge_speed.get()) })
    }

    /// Bytes that each layer's file takes, and those whose files are not there.
    async fn sizes(&self, forest: &Forest) -> Result<(BTreeMap<LayerId, u64>, BTreeSet<LayerId>), Failure> {
        let (mut sizes, mut missing) = (BTreeMap::new(), BTreeSet::new());
        for (layer, seen) in see(&self.world.ports, forest.iter()).await {
            match seen {
                Ok(seen) => drop(sizes.insert(layer.file.id, seen.allocated)),
                Err(crate::ports::ImageError::Missing { .. }) => drop(missing.insert(layer.file.id)),
                Err(error) => return Err(StepError::from(error).into()),
            }
        }
        Ok((sizes, missing))
    }
}

/// The checkpoints that go, if all that are named can be deleted.
fn going(vm: &VmId, all: &[Checkpoint], doomed: &Doomed) -> Result<BTreeSet<CheckpointId>, Failure> {
    let can_go = |id: &CheckpointId| match all.iter().find(|checkpoint| checkpoint.id == *id) {
        None => Err(Failure::new(Reason::CheckpointNotFound, format!("VM {vm} has no checkpoint {id}"))),
        Some(found) => ready(found).and_then(|()| of_no_backup(found)),
    };
    match doomed {
        Doomed::These(ids) => ids.iter().try_for_each(can_go).map(|()| ids.clone()),
        Doomed::Subtree(root) => can_go(root).map(|()| subtree(all, *root)),
    }
}
