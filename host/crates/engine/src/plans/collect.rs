//! Collecting layers that nothing needs, one at a time, until nothing is left to do.
//!
//! Each act leaves what everybody reads as it was, and may be begun again at any point: the data of a child is in both
//! layers until the catalogue says that the parent has taken its place; the child's file goes last.
//!
//! The one delicate moment is the end of a merge into the parent of Now. Had the guest written to the parent before the
//! catalogue knows of it, a crash would leave two heads. So the VM stands still from just before the parent takes over
//! until the catalogue has it written down; a note of this hold is durable first, and recovery lets the VM go on.

use std::{collections::BTreeSet, path::PathBuf};

use stillpoint_common::{CheckpointState, InstanceId, Layer, LayerFile, LayerId, Vm};
use tokio::time::Instant;

use super::{disks::verify_at_a_glance, room};
use crate::{
    catalogue::Changes,
    context::Cx,
    describe,
    error::StepError,
    forest::{Collect, Forest},
    ports::{DescriptionError, LiveMerge, OfflineMerge, RunState},
    saga::up_to,
    truth::{self, freeze},
};

/// Does everything there is to do. Answers how many layers it removed.
pub(super) async fn collect(cx: &Cx) -> Result<usize, StepError> {
    let mut removed = 0;
    remove_leftovers(cx).await?;
    forget_deleted(cx).await?;
    while let Some(next) = next(cx).await? {
        match next {
            Collect::Remove(layer) => remove(cx, layer, Changes::default()).await?,
            Collect::Merge { parent, child } => merge(cx, parent, child).await?,
        }
        removed += 1;
    }
    Ok(removed)
}

/// Whether there is something to do.
pub(super) async fn is_due(cx: &Cx) -> Result<bool, StepError> {
    let checkpoints = cx.catalogue().checkpoints(&cx.vm).await?;
    let deleted = checkpoints.iter().any(|checkpoint| checkpoint.state == CheckpointState::Deleting);
    let leftovers = !cx.catalogue().leftovers(&cx.vm).await?.is_empty();
    Ok(deleted || leftovers || next(cx).await?.is_some())
}

async fn next(cx: &Cx) -> Result<Option<Collect>, StepError> {
    let vm = cx.catalogue().vm(&cx.vm).await?;
    let mut needed: BTreeSet<LayerId> = vm.heads.values().copied().collect();
    for checkpoint in cx.catalogue().checkpoints(&cx.vm).await? {
        match checkpoint.state {
            CheckpointState::Ready => needed.extend(checkpoint.disks.values()),
            CheckpointState::Deleting => {}
        }
    }
    let forest = cx.catalogue().forest(&cx.vm).await?;
    match forest.collect(&needed, &BTreeSet::new()) {
        Some(Collect::Merge { .. }) => Ok(forest.collect(&needed, &missing(cx, &forest).await?)),
        other @ (Some(Collect::Remove(_)) | None) => Ok(other),
    }
}

/// Layers whose files are not there.
async fn missing(cx: &Cx, forest: &Forest) -> Result<BTreeSet<LayerId>, StepError> {
    let paths: Vec<PathBuf> = forest.iter().map(|layer| layer.file.path.clone()).collect();
    let missing = cx.ports().images.missing(&paths).await?;
    Ok(forest.iter().filter(|layer| missing.contains(&layer.file.path)).map(|layer| layer.file.id).collect())
}

/// Removes checkpoints that were only waiting for their layers to be merged, and their memory.
async fn forget_deleted(cx: &Cx) -> Result<(), StepError> {
    let vm = cx.catalogue().vm(&cx.vm).await?;
    for checkpoint in cx.catalogue().checkpoints(&cx.vm).await? {
        if checkpoint.state == CheckpointState::Deleting {
            cx.ports().memory.remove(&vm.checkpoint_location, checkpoint.id).await?;
            cx.catalogue().commit(Changes::default().delete_checkpoint(&cx.vm, checkpoint.id)).await?;
        }
    }
    Ok(())
}

/// The catalogue lets go of the layer first, and notes that its file is left over: a record without a file would be a
/// loss.
async fn remove(cx: &Cx, layer: Layer, changes: Changes) -> Result<(), StepError> {
    cx.catalogue().commit(changes.retire_layer(&cx.vm, &layer)).await?;
    remove_leftovers(cx).await
}

/// Removes the files of layers that were let go, once the descriptions say so too. Where there is no space to write
/// them, making space comes first.
pub(super) async fn remove_leftovers(cx: &Cx) -> Result<(), StepError> {
    let leftovers = cx.catalogue().leftovers(&cx.vm).await?;
    if !leftovers.is_empty() {
        match describe::settle(&cx.world, &cx.vm).await {
            Ok(settled) => cx.catalogue().commit(settled).await?,
            Err(StepError::Description(DescriptionError::NoSpace { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    for layer in leftovers {
        cx.ports().images.remove(&layer.file.path, layer.identity).await?;
        cx.catalogue().commit(Changes::default().forget_leftover(&cx.vm, &layer)).await?;
    }
    Ok(())
}

async fn merge(cx: &Cx, parent: Layer, child: Layer) -> Result<(), StepError> {
    let vm = cx.catalogue().vm(&cx.vm).await?;
    verify_at_a_glance(cx.ports(), &cx.catalogue().forest(&cx.vm).await?, &child).await?;
    let forest = truth::open(cx, &parent, &child).await?;
    room::for_merge(cx, &parent, &child).await?;
    let phase = cx.reporter.begin("merge");
    match live_chain(cx, &vm, &child).await? {
        Some(live) => merge_live(cx, &live, &forest, &parent, &child).await?,
        None => {
            let below = forest.chain(parent.file.id).unwrap_or_default();
            let below: Vec<LayerFile> = below.iter().rev().skip(1).map(|layer| layer.file.clone()).collect();
            let merge = OfflineMerge { child: child.file.clone(), parent: parent.file.clone(), below };
            cx.ports().images.merge_offline(&merge, &cx.reporter.progress()).await?;
            repoint(cx, &forest, &[], &parent, &child).await?;
            remove(cx, child.clone(), replaced(cx, &forest, &parent, &child).await?).await?;
        }
    }
    cx.reporter.end(phase);
    Ok(())
}

/// A running process and the layers of one of its disks, head first.
struct Live {
    instance: InstanceId,
    chain: Vec<LayerId>,
}

/// The running process, if the child's or the parent's file is open there.
async fn live_chain(cx: &Cx, vm: &Vm, child: &Layer) -> Result<Option<Live>, StepError> {
    let Some(instance) = vm.instance else { return Ok(None) };
    let observed = cx.ports().hypervisor.observe(instance).await?;
    if observed.run == RunState::Gone {
        return Ok(None);
    }
    let chain = observed.chains.get(&child.disk).cloned().unwrap_or_default();
    let open = chain.iter().any(|layer| *layer == child.file.id || Some(*layer) == child.backing);
    Ok(open.then_some(Live { instance, chain }))
}

async fn merge_live(cx: &Cx, live: &Live, forest: &Forest, parent: &Layer, child: &Layer) -> Result<(), StepError> {
    let instance = live.instance;
    let merge = LiveMerge { disk: child.disk.clone(), child: child.file.id, parent: parent.file.clone() };
    let hypervisor = &cx.ports().hypervisor;
    if let Err(error) = hypervisor.merge(instance, &merge, &cx.reporter.progress()).await {
        let _ = hypervisor.cancel_merge(instance, &merge).await;
        return Err(error.into());
    }
    repoint(cx, forest, &live.chain, parent, child).await?;
    if live.chain.first() != Some(&child.file.id) {
        return remove(cx, child.clone(), replaced(cx, forest, parent, child).await?).await;
    }
    let was_running = hypervisor.observe(instance).await?.run == RunState::Running;
    let since = Instant::now();
    if was_running {
        cx.catalogue().commit(Changes::default().set_hold(&cx.vm, instance)).await?;
        hypervisor.pause(instance).await?;
    }
    let switched = switch_to_parent(cx, instance, &merge, forest, (parent, child)).await;
    if was_running {
        // If this fails, the note of the hold stays, and the VM goes on as soon as it can be told to.
        up_to(5, "letting the VM go on", || hypervisor.resume(instance)).await?;
        cx.reporter.record("merge-pause", since);
    }
    // If the catalogue could not be written, `settle` sees the running chain and writes it later.
    switched?;
    if was_running {
        cx.catalogue().commit(Changes::default().clear_hold(&cx.vm)).await?;
    }
    remove_leftovers(cx).await
}

/// Between pause and resume: the parent takes over, and the catalogue says so.
async fn switch_to_parent(
    cx: &Cx,
    instance: InstanceId,
    merge: &LiveMerge,
    forest: &Forest,
    (parent, child): (&Layer, &Layer),
) -> Result<(), StepError> {
    cx.ports().hypervisor.finish_merge(instance, merge).await?;
    let changes = replaced(cx, forest, parent, child).await?.retire_layer(&cx.vm, child);
    cx.catalogue().commit(changes).await?;
    // From now on the guest writes to the parent alone.
    describe::now_only(cx).await;
    Ok(())
}

/// Layers of other branches that lay on the child lie on the parent from now on. Those of the running chain know.
async fn repoint(cx: &Cx, forest: &Forest, chain: &[LayerId], parent: &Layer, child: &Layer) -> Result<(), StepError> {
    for layer in forest.children(child.file.id) {
        if !chain.contains(&layer.file.id) {
            cx.ports().images.repoint(&layer.file, &parent.file).await?;
        }
    }
    Ok(())
}

/// Whoever referred to the child refers to the parent.
pub(super) async fn replaced(cx: &Cx, forest: &Forest, parent: &Layer, child: &Layer) -> Result<Changes, StepError> {
    let (from, to) = (child.file.id, parent.file.id);
    let mut vm = cx.catalogue().vm(&cx.vm).await?;
    let onto_parent = forest.children(from).into_iter().map(|layer| Layer { backing: Some(to), ..layer.clone() });
    let onto_parent: Vec<Layer> = onto_parent.collect();
    let mut changes = onto_parent.iter().fold(Changes::default(), |changes, layer| changes.set_layer(&cx.vm, layer));
    let is_head = |id: LayerId| vm.heads.values().any(|head| *head == id);
    let mut closed: Vec<Layer> = onto_parent.into_iter().filter(|layer| !is_head(layer.file.id)).collect();
    closed.extend((!is_head(from)).then(|| parent.clone()));
    for layer in freeze(cx, closed).await? {
        changes = changes.set_layer(&cx.vm, &layer);
    }
    for mut checkpoint in cx.catalogue().checkpoints(&cx.vm).await? {
        if checkpoint.disks.get(&child.disk) == Some(&from) {
            checkpoint.disks.insert(child.disk.clone(), to);
            changes = changes.set_checkpoint(&checkpoint);
        }
    }
    if vm.heads.get(&child.disk) == Some(&from) {
        vm.heads.insert(child.disk.clone(), to);
        changes = changes.set_vm(&vm);
    }
    Ok(changes)
}
