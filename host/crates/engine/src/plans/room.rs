//! Making sure, before anything is begun, that there is room for it.

use stillpoint_common::{Checkpoint, Kind, Layer, MemoryFormat, MemoryState, Vm};

use super::disks::chain_layers;
use crate::{
    context::Cx,
    error::StepError,
    forest::Forest,
    job::{ApplyFacts, CreateFacts, ImportFacts},
    space::{self, Need},
};

/// Bytes by which a flattened disk may be larger than what its layers take.
const EXPORT_OVERHEAD: u64 = 1 << 20;

/// Refuses what there is no room for. A file system that does not say how much it has is no reason to refuse: then the
/// act itself will find out.
pub(super) async fn make_sure(cx: &Cx, needs: Vec<Need>, keep_free: u64) -> Result<(), StepError> {
    let mut known = Vec::with_capacity(needs.len());
    for need in needs {
        match cx.ports().images.space(&need.path).await {
            Ok(space) => known.push((need, space)),
            Err(error) => tracing::warn!(vm = %cx.vm, path = %need.path.display(), %error, "no free space was told"),
        }
    }
    Ok(space::room_for(&known, keep_free)?)
}

/// A layer for each disk, and for a standard checkpoint of a VM that is on its memory.
pub(super) async fn for_create(cx: &Cx, vm: &Vm, facts: &CreateFacts) -> Result<(), StepError> {
    let mut needs = space::of_overlays(&facts.overlays, cx.world.config.space.layer_room);
    needs.extend(captured(facts, vm));
    make_sure(cx, needs, cx.world.config.space.keep_free).await
}

fn captured(facts: &CreateFacts, vm: &Vm) -> Option<Need> {
    let captured = match (facts.instance, facts.checkpoint.kind) {
        (Some(_), Kind::Standard) => true,
        (Some(_), Kind::Production) => facts.with_memory,
        (None, Kind::Production | Kind::Standard) => false,
    };
    captured.then(|| space::of_memory(&vm.checkpoint_location, vm.definition.memory_mib))
}

/// Its memory.
pub(super) async fn for_save(cx: &Cx, vm: &Vm) -> Result<(), StepError> {
    let memory = space::of_memory(&vm.checkpoint_location, vm.definition.memory_mib);
    make_sure(cx, vec![memory], cx.world.config.space.keep_free).await
}

/// A layer for each disk.
pub(super) async fn for_apply(cx: &Cx, facts: &ApplyFacts) -> Result<(), StepError> {
    let space = cx.world.config.space;
    make_sure(cx, space::of_overlays(&facts.overlays, space.layer_room), space.keep_free).await
}

/// What the parent grows by: at most what the child takes. Only where there may be no room for that it is looked at in
/// earnest, which takes longer. Nothing is kept free: a merge gives back more than it takes.
pub(super) async fn for_merge(cx: &Cx, parent: &Layer, child: (&Layer, u64)) -> Result<(), StepError> {
    let (child, takes) = child;
    let grows_by = |bytes| {
        let what = format!("the data of {}", child.file.path.display());
        make_sure(cx, vec![Need::new(what, parent.file.path.clone(), bytes)], 0)
    };
    if grows_by(takes).await.is_ok() {
        return Ok(());
    }
    match cx.ports().images.merge_growth(&child.file, &parent.file).await {
        Ok(grows) => grows_by(grows).await,
        Err(error) => {
            tracing::warn!(vm = %cx.vm, %error, "it is not known how much room a merge needs");
            Ok(())
        }
    }
}

/// What the child grows by at most, if the parent's data moves up into it.
pub(super) async fn for_merge_up(cx: &Cx, child: &Layer, bytes: u64) -> Result<(), StepError> {
    let what = format!("the data below {}", child.file.path.display());
    make_sure(cx, vec![Need::new(what, child.file.path.clone(), bytes)], 0).await
}

/// Copies of the disks, as large as what their layers take or as the guest sees them, and of the memory.
pub(super) async fn for_export(cx: &Cx, checkpoint: &Checkpoint, target: &std::path::Path) -> Result<(), StepError> {
    let folder = target.parent().unwrap_or(target);
    let forest = cx.catalogue().forest(&cx.vm).await?;
    let mut needs = Vec::new();
    for (disk, head) in &checkpoint.disks {
        let bytes = flattened(cx, &forest, disk, *head).await?;
        needs.push(Need::new(format!("a copy of disk {disk}"), folder, bytes));
    }
    let memory = checkpoint.memory.as_ref();
    needs.extend(memory.map(|memory| Need::new("a copy of the memory", folder, stream_bytes(memory, checkpoint))));
    make_sure(cx, needs, cx.world.config.space.keep_free).await
}

/// The disks of an export, and its memory.
pub(super) async fn for_import(cx: &Cx, facts: &ImportFacts) -> Result<(), StepError> {
    let copies = facts.target.iter().flat_map(|target| {
        let folder = target.parent().unwrap_or(target);
        facts.disks.iter().map(move |disk| Need::new(format!("a copy of disk {}", disk.disk), folder, disk.bytes))
    });
    let vm = &facts.vm;
    let memory = facts.memory.as_ref().map(|_| space::of_memory(&vm.checkpoint_location, vm.definition.memory_mib));
    make_sure(cx, copies.chain(memory).collect(), cx.world.config.space.keep_free).await
}

/// A copy is a plain stream: at most all of the memory.
fn stream_bytes(memory: &MemoryState, checkpoint: &Checkpoint) -> u64 {
    match memory.format {
        MemoryFormat::Stream => memory.bytes,
        MemoryFormat::Pages => checkpoint.definition.memory_mib.saturating_mul(1 << 20),
    }
}

async fn flattened(
    cx: &Cx,
    forest: &Forest,
    disk: &stillpoint_common::DiskName,
    head: stillpoint_common::LayerId,
) -> Result<u64, StepError> {
    let (mut allocated, mut size) = (0_u64, 0);
    for layer in chain_layers(forest, disk, head)? {
        let facts = cx.ports().images.stat(&layer.file.path, layer.file.format).await?;
        (allocated, size) = (allocated.saturating_add(facts.allocated), facts.virtual_size);
    }
    Ok(allocated.min(size).saturating_add(EXPORT_OVERHEAD))
}
