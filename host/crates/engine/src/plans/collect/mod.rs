//! Collecting layers that nothing needs, one at a time, until nothing is left to do.
//!
//! Each act leaves what everybody reads as it was, and may be begun again at any point: the data of a child is in both
//! layers until the catalogue says that the parent has taken its place; the child's file goes last.
//!
//! The one delicate moment is the end of a merge into the parent of Now. Had the guest written to the parent before the
//! catalogue knows of it, a crash would leave two heads. So the VM stands still from just before the parent takes over
//! until the catalogue has it written down; a note of this hold is durable first, and recovery lets the VM go on.

mod leftovers;
mod merge;
mod strangers;
mod whole;

use std::{collections::BTreeSet, path::PathBuf};

use stillpoint_common::{CheckpointState, Layer, LayerId, Vm};

use self::{leftovers::remove_leftovers, merge::merge};
pub(super) use self::{merge::replaced, whole::settle_merges};
use super::detached::release;
use crate::{
    backups::read_through,
    catalogue::Changes,
    context::Cx,
    describe,
    error::StepError,
    forest::{Collect, Forest},
    points::{after_removal, kept_apart},
    ports::{DescriptionError, Moved},
};

/// How far a collection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Collected {
    /// Nothing is left to do.
    All,
    /// It stopped for something more urgent; what it was at is as good as not begun.
    MadeWay,
    /// Merges of this VM are suspended, and there is one to do.
    Suspended,
}

/// Does everything there is to do, until it is asked to make way.
pub(super) async fn collect(cx: &Cx) -> Result<Collected, StepError> {
    remove_leftovers(cx).await?;
    // A memory that cannot be removed does not keep layers from being merged.
    let forgotten = forget_deleted(cx).await.and(remove_memories(cx).await);
    let collected = loop {
        match next(cx).await? {
            None => break Collected::All,
            Some(Collect::Remove(layer)) => {
                let points = after_removal(cx, &layer).await?;
                remove(cx, layer, points).await?;
            }
            Some(Collect::Merge { .. }) if cx.way.stop().is_asked() => break Collected::MadeWay,
            Some(Collect::Merge { .. }) if cx.catalogue().vm(&cx.vm).await?.merges.is_suspended() => {
                break Collected::Suspended;
            }
            Some(Collect::Merge { parent, child }) => match merge(cx, parent, child).await? {
                Moved::Whole => {}
                Moved::Stopped => break Collected::MadeWay,
            },
        }
    };
    release(cx).await?;
    forgotten.map(|()| collected)
}

/// Whether there is something that may be done now.
pub(super) async fn is_due(cx: &Cx) -> Result<bool, StepError> {
    let checkpoints = cx.catalogue().checkpoints(&cx.vm).await?;
    let deleted = checkpoints.iter().any(|checkpoint| checkpoint.state == CheckpointState::Deleting);
    let files = !cx.catalogue().leftovers(&cx.vm).await?.is_empty();
    if deleted || files || !cx.catalogue().leftover_memories(&cx.vm).await?.is_empty() {
        return Ok(true);
    }
    Ok(match next(cx).await? {
        None => false,
        Some(Collect::Remove(_)) => true,
        Some(Collect::Merge { .. }) => !cx.catalogue().vm(&cx.vm).await?.merges.is_suspended(),
    })
}

async fn next(cx: &Cx) -> Result<Option<Collect>, StepError> {
    let vm = cx.catalogue().vm(&cx.vm).await?;
    let forest = cx.catalogue().forest(&cx.vm).await?;
    let mut needed = needed(cx, &vm, &forest).await?;
    let mut missing_ones = None;
    loop {
        let act = match (forest.collect(&needed, &BTreeSet::new()), &missing_ones) {
            (Some(Collect::Merge { .. }), None) => {
                let missing = missing_ones.insert(missing(cx, &forest).await?);
                forest.collect(&needed, missing)
            }
            (Some(Collect::Merge { .. }), Some(missing)) => forest.collect(&needed, missing),
            (other @ (Some(Collect::Remove(_)) | None), _) => other,
        };
        let Some(act) = act else { return Ok(None) };
        match strangers::kept_for_others(&act, &forest, cx).await? {
            None => return Ok(Some(act)),
            Some(kept) => needed.insert(kept),
        };
    }
}

/// Layers whose files are not there.
async fn missing(cx: &Cx, forest: &Forest) -> Result<BTreeSet<LayerId>, StepError> {
    let paths: Vec<PathBuf> = forest.iter().map(|layer| layer.file.path.clone()).collect();
    let missing = cx.ports().images.missing(&paths).await?;
    Ok(forest.iter().filter(|layer| missing.contains(&layer.file.path)).map(|layer| layer.file.id).collect())
}

/// The layers that Now, a detached disk or a checkpoint refers to, and those that stay apart for a reference point,
/// and all that a backup reads through.
async fn needed(cx: &Cx, vm: &Vm, forest: &Forest) -> Result<BTreeSet<LayerId>, StepError> {
    let mut needed: BTreeSet<LayerId> = vm.own_layers().collect();
    let checkpoints = cx.catalogue().checkpoints(&cx.vm).await?;
    needed.extend(read_through(&checkpoints, forest));
    for checkpoint in &checkpoints {
        match checkpoint.state {
            CheckpointState::Ready => needed.extend(checkpoint.disks.values()),
            CheckpointState::Deleting => {}
        }
    }
    let tracked = cx.catalogue().tracked(&cx.vm).await?;
    needed.extend(kept_apart(&tracked, forest, &vm.own_layers().collect()));
    Ok(needed)
}

/// Removes checkpoints that were deleted, and their memory.
async fn forget_deleted(cx: &Cx) -> Result<(), StepError> {
    let vm = cx.catalogue().vm(&cx.vm).await?;
    for checkpoint in cx.catalogue().checkpoints(&cx.vm).await? {
        if checkpoint.state == CheckpointState::Deleting {
            cx.ports().memory.remove(&vm.checkpoint_location, checkpoint.id.into()).await?;
            cx.catalogue().commit(Changes::default().delete_checkpoint(&cx.vm, checkpoint.id)).await?;
        }
    }
    Ok(())
}

/// Removes memories that were let go, once the descriptions do not promise them any more.
pub(super) async fn remove_memories(cx: &Cx) -> Result<(), StepError> {
    let memories = cx.catalogue().leftover_memories(&cx.vm).await?;
    if memories.is_empty() {
        return Ok(());
    }
    settle_descriptions(cx).await?;
    let vm = cx.catalogue().vm(&cx.vm).await?;
    for id in memories {
        cx.ports().memory.remove(&vm.checkpoint_location, id.into()).await?;
        cx.catalogue().commit(Changes::default().forget_memory(&cx.vm, id)).await?;
    }
    Ok(())
}

/// The catalogue lets go of the layer first, and notes that its file is left over: a record without a file would be a
/// loss.
async fn remove(cx: &Cx, layer: Layer, changes: Changes) -> Result<(), StepError> {
    cx.catalogue().commit(changes.retire_layer(&cx.vm, &layer)).await?;
    remove_leftovers(cx).await
}

/// Brings the descriptions in line. Where there is no space to write them, making space comes first.
async fn settle_descriptions(cx: &Cx) -> Result<(), StepError> {
    match describe::settle(&cx.world, &cx.vm).await {
        Ok(settled) => Ok(cx.catalogue().commit(settled).await?),
        Err(StepError::Description(DescriptionError::NoSpace { .. })) => Ok(()),
        Err(error) => Err(error),
    }
}
