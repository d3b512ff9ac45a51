//! Who lies on a layer, by what the files beside it say.
//!
//! Somebody may have made an overlay of a layer, by hand, say. It reads what the layer reads as, so that neither the content
//! nor the file of that layer may go. We see those in the same folder; `host check` tells of them.

use std::{collections::BTreeSet, path::PathBuf};

use stillpoint_common::{Layer, LayerId};

use crate::{
    context::Cx,
    error::StepError,
    forest::{Collect, Forest},
    ports::ImageError,
};

/// The files that lie on a layer.
#[derive(Debug, Default)]
pub(super) struct Children {
    /// Layers of the VM.
    pub(super) ours: Vec<PathBuf>,
    /// Files that the VM does not know.
    pub(super) of_others: Vec<PathBuf>,
}

/// The layer that an act must leave as it is, because a file of somebody else lies on what would change or go.
pub(super) async fn kept_for_others(act: &Collect, forest: &Forest, cx: &Cx) -> Result<Option<LayerId>, StepError> {
    let (kept, touched) = match act {
        Collect::Remove(layer) => (layer.file.id, vec![layer]),
        Collect::Merge { parent, child } => (parent.file.id, vec![parent, child]),
    };
    for layer in touched {
        if let Some(other) = children(layer, forest, cx).await?.of_others.first() {
            let (layer, other) = (layer.file.path.display(), other.display());
            tracing::warn!(vm = %cx.vm, "{layer} stays as it is: {other} lies on it and is none of the VM's");
            return Ok(Some(kept));
        }
    }
    Ok(None)
}

/// What lies on this layer now. A file that was let go and is still there counts for nothing.
pub(super) async fn children(layer: &Layer, forest: &Forest, cx: &Cx) -> Result<Children, StepError> {
    let overlays = match cx.ports().images.overlays_of(&layer.file.path).await {
        // What nobody can read, nobody reads through us.
        Err(ImageError::Missing { .. }) => return Ok(Children::default()),
        found => found?,
    };
    let known: BTreeSet<_> = forest.iter().map(|layer| layer.file.path.clone()).collect();
    let (ours, mut of_others): (Vec<_>, Vec<_>) = overlays.into_iter().partition(|path| known.contains(path));
    if !of_others.is_empty() {
        let leftovers = cx.catalogue().leftovers(&cx.vm).await?;
        of_others.retain(|path| !leftovers.iter().any(|leftover| leftover.file.path == *path));
    }
    Ok(Children { ours, of_others })
}
