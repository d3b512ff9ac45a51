//! Merges that are whole, and writing them down.
//!
//! Whether a merge is whole is never remembered but seen: by the chain of the process that did it. What the files say of
//! their backing files is no proof, since a process that was killed may have said it before all of its data was in the
//! files. Of layers that no process has open the catalogue is right, and a merge is begun again: whatever had moved, both
//! layers are there until the catalogue lets one go.

use stillpoint_common::{Layer, LayerId, Vm};

use super::{
    merge::{Live, live_chain, replaced},
    missing, needed, remove,
};
use crate::{context::Cx, error::StepError, forest::Forest, ports::LiveMerge, truth};

/// Two neighbouring layers of which one takes in the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::plans) struct Merge {
    pub(in crate::plans) parent: Layer,
    pub(in crate::plans) child: Layer,
}

impl Merge {
    /// As a hypervisor is asked for it.
    pub(super) fn live(&self) -> LiveMerge {
        let (child, parent) = (self.child.file.id, self.parent.file.clone());
        LiveMerge { disk: self.child.disk.clone(), child, parent }
    }
}

/// Writes down every merge that is whole and that the catalogue does not know of.
pub(in crate::plans) async fn finish_whole(cx: &Cx) -> Result<(), StepError> {
    loop {
        let vm = cx.catalogue().vm(&cx.vm).await?;
        let forest = cx.catalogue().forest(&cx.vm).await?;
        let candidates = forest.merges(&needed(cx, &vm).await?, &missing(cx, &forest).await?);
        let mut found = None;
        for (parent, child) in candidates {
            let merge = Merge { parent: parent.clone(), child: child.clone() };
            if let Some(chain) = is_whole(cx, &vm, &merge).await? {
                found = Some((merge, chain));
                break;
            }
        }
        let Some((merge, chain)) = found else { return Ok(()) };
        tracing::info!(vm = %cx.vm, child = %merge.child.file.path.display(), "finishing a merge that was whole");
        let forest = truth::open(cx, &merge.parent, &merge.child).await?;
        write_down(cx, &forest, &chain, &merge).await?;
    }
}

/// The running chain (empty if there is none) if the merge is whole.
async fn is_whole(cx: &Cx, vm: &Vm, merge: &Merge) -> Result<Option<Vec<LayerId>>, StepError> {
    let (parent, child) = (merge.parent.file.id, merge.child.file.id);
    match live_chain(cx, vm, &merge.child).await? {
        Some(Live { chain, .. }) if chain.contains(&child) => Ok(None),
        Some(Live { instance, chain }) if chain.contains(&parent) => {
            // Closes what has left the chain.
            cx.ports().hypervisor.merge(instance, &merge.live(), &cx.reporter.progress()).await?;
            Ok(Some(chain))
        }
        Some(_) | None => Ok(None),
    }
}

/// Everything that lay on the child lies on the parent from now on; then the child's file goes.
pub(super) async fn write_down(cx: &Cx, forest: &Forest, chain: &[LayerId], merge: &Merge) -> Result<(), StepError> {
    repoint(cx, forest, chain, merge).await?;
    remove(cx, merge.child.clone(), replaced(cx, forest, &merge.parent, &merge.child).await?).await
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
