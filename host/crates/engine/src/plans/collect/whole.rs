//! Merges that are whole, and writing them down.
//!
//! Whether a merge is whole is never remembered but seen: by the chain of the process that did it. What the files say of
//! their backing files is no proof, since a process that was killed may have said it before all of its data was in the
//! files. So of layers that no process has open the catalogue is right: their headers are put back to what it says, and
//! the merge is begun again. That is right whatever had moved, for both layers are there until the catalogue lets one go.

use stillpoint_common::{DiskFormat, Layer, LayerFile, LayerId, MergeDirection, Vm};

use super::{
    merge::{live_chain, replaced},
    missing, needed, remove,
};
use crate::{
    changed::Blocks,
    context::Cx,
    error::StepError,
    forest::Forest,
    points::after_merge,
    ports::{LiveMerge, LiveStream, OfflineMerge},
    truth::{self, freeze},
};

/// Two neighbouring layers, of which one is to take in the other, and all that lie below them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::plans) struct Merge {
    pub(in crate::plans) parent: Layer,
    pub(in crate::plans) child: Layer,
    /// From right below the parent down to the user's image.
    below: Vec<LayerFile>,
    /// What the child held before the parent's data moved up into it, if a reference point needs to know.
    pub(super) held: Option<Blocks>,
}

impl Merge {
    pub(super) fn new(forest: &Forest, parent: Layer, child: Layer) -> Self {
        let chain = forest.chain(parent.file.id).unwrap_or_default();
        let below = chain.iter().rev().skip(1).map(|layer| layer.file.clone()).collect();
        Self { parent, child, below, held: None }
    }

    /// As a hypervisor is asked for it, downwards.
    pub(super) fn live(&self) -> LiveMerge {
        let (child, parent) = (self.child.file.id, self.parent.file.clone());
        LiveMerge { disk: self.child.disk.clone(), child, parent }
    }

    /// The same upwards; `None` if the parent is the user's image.
    pub(super) fn live_up(&self) -> Option<LiveStream> {
        let (child, parent) = (self.child.file.id, self.parent.file.id);
        let base = self.below.first()?.clone();
        Some(LiveStream { disk: self.child.disk.clone(), child, parent, base })
    }

    /// As it is asked for of files.
    pub(super) fn offline(&self) -> OfflineMerge {
        let (child, parent, below) = (self.child.file.clone(), self.parent.file.clone(), self.below.clone());
        OfflineMerge { child, parent, below }
    }
}

/// Writes down every merge that is whole and that the catalogue does not know of; puts back headers that are ahead of
/// the catalogue.
pub(in crate::plans) async fn settle_merges(cx: &Cx) -> Result<(), StepError> {
    loop {
        let vm = cx.catalogue().vm(&cx.vm).await?;
        let forest = cx.catalogue().forest(&cx.vm).await?;
        let mut written = false;
        for (parent, child) in forest.merges(&needed(cx, &vm, &forest).await?, &missing(cx, &forest).await?) {
            let merge = Merge::new(&forest, parent.clone(), child.clone());
            written = settle_merge(cx, &vm, &forest, &merge).await?;
            if written {
                break;
            }
        }
        if !written {
            return Ok(());
        }
    }
}

/// Answers whether it was whole, and has been written down.
async fn settle_merge(cx: &Cx, vm: &Vm, forest: &Forest, merge: &Merge) -> Result<bool, StepError> {
    let Some(live) = live_chain(cx, vm, &merge.child).await? else {
        put_back(cx, forest, merge).await?;
        return Ok(false);
    };
    let (has_parent, has_child) =
        (live.chain.contains(&merge.parent.file.id), live.chain.contains(&merge.child.file.id));
    let progress = cx.reporter.progress();
    match (has_parent, has_child, merge.live_up()) {
        (true, false, _) => {
            // Closes what has left the chain.
            cx.ports().hypervisor.merge(live.instance, &merge.live(), &progress).await?;
            let forest = truth::open(cx, &merge.parent, &merge.child).await?;
            write_down(cx, &forest, &live.chain, merge, MergeDirection::Down).await?;
        }
        (false, true, Some(stream)) => {
            cx.ports().hypervisor.stream(live.instance, &stream, &progress).await?;
            write_down(cx, forest, &live.chain, merge, MergeDirection::Up).await?;
        }
        (true, true, _) | (false, false, _) | (false, true, None) => return Ok(false),
    }
    tracing::info!(vm = %cx.vm, child = %merge.child.file.path.display(), "a merge was whole");
    Ok(true)
}

/// No process has these layers open: what lies on the child and on the parent says so.
async fn put_back(cx: &Cx, forest: &Forest, merge: &Merge) -> Result<(), StepError> {
    let images = &cx.ports().images;
    let mut claims = vec![(&merge.child.file, &merge.parent.file, merge.below.first())];
    let above = forest.children(merge.child.file.id);
    claims.extend(above.into_iter().map(|above| (&above.file, &merge.child.file, Some(&merge.parent.file))));
    for (file, backing, ahead) in claims {
        let Some(ahead) = ahead else { continue };
        let says = images.stat(&file.path, DiskFormat::Qcow2).await?.backing;
        if says.as_deref() == Some(ahead.path.as_path()) {
            tracing::info!(vm = %cx.vm, path = %file.path.display(), "a merge that was not written down is taken back");
            images.repoint(file, backing).await?;
        }
    }
    Ok(())
}

/// Down: everything that lay on the child lies on the parent from now on, and the child's file goes. Up: the child lies
/// on what was below the parent, whose file goes.
pub(super) async fn write_down(
    cx: &Cx,
    forest: &Forest,
    chain: &[LayerId],
    merge: &Merge,
    direction: MergeDirection,
) -> Result<(), StepError> {
    match direction {
        MergeDirection::Down => {
            repoint(cx, forest, chain, merge).await?;
            remove(cx, merge.child.clone(), replaced(cx, forest, &merge.parent, &merge.child).await?).await
        }
        MergeDirection::Up => {
            let vm = cx.catalogue().vm(&cx.vm).await?;
            let mut child = Layer { backing: merge.parent.backing, frozen: None, ..merge.child.clone() };
            if !vm.own_layers().any(|own| own == child.file.id) {
                child = freeze(cx, vec![child.clone()]).await?.pop().unwrap_or(child);
            }
            let points = after_merge(cx, &merge.parent, &merge.child, direction, merge.held.clone()).await?;
            remove(cx, merge.parent.clone(), points.set_layer(&cx.vm, &child)).await
        }
    }
}

/// Layers of other branches that lay on the child lie on the parent from now on. Those of the running chain know.
pub(super) async fn repoint(cx: &Cx, forest: &Forest, chain: &[LayerId], merge: &Merge) -> Result<(), StepError> {
    for layer in forest.children(merge.child.file.id) {
        if !chain.contains(&layer.file.id) {
            cx.ports().images.repoint(&layer.file, &merge.parent.file).await?;
        }
    }
    Ok(())
}
