//! Reading what the layers on a way hold of a part of a disk.

use std::ops::Range;

use stillpoint_common::{Layer, LayerFile};

use super::{PART, blocks::Blocks, path::Path};
use crate::{context::Ports, error::StepError, forest::Forest, ports::Extent, truth::are_right};

/// Ranges that are kept of all that a layer holds, at most: memory is bounded whatever the layer.
const HELD: usize = 1 << 16;

/// The blocks of a part of the disk in which the two ends of a way may differ; those that hold data, if it begins below
/// everything. A layer whose file is not what it should be is refused, before it is read and after.
pub(super) async fn differing(
    ports: &Ports,
    forest: &Forest,
    path: &Path,
    part: &Range<u64>,
) -> Result<Blocks, StepError> {
    let mut found = Blocks::default();
    // What lies below is read through both ends: if it has changed, what they read as is not what it was.
    let below = path.common.iter().flat_map(|common| forest.below(common)).chain(&path.common);
    let all: Vec<&Layer> = below.chain(path.layers()).collect();
    are_right(ports, forest, all.iter().copied()).await?;
    if part.is_empty() {
        return Ok(found);
    }
    for layer in path.layers() {
        let extents = ports.images.extents(&layer.file, part).await?;
        found = match path.common {
            Some(_) => found.and(held(extents)),
            None => over(found, extents),
        };
    }
    are_right(ports, forest, all.iter().copied()).await?;
    Ok(found)
}

/// What a layer's own data makes different from the layer below.
fn held(extents: Vec<Extent>) -> Blocks {
    Blocks::touched(extents.into_iter().map(|extent| extent.bytes))
}

/// All that a layer itself holds; of a layer in very many pieces, more.
pub(crate) async fn held_by(ports: &Ports, layer: &LayerFile) -> Result<Blocks, StepError> {
    let size = ports.images.stat(&layer.path, layer.format).await?.virtual_size;
    let (mut found, mut at) = (Blocks::default(), 0);
    while at < size {
        let part = at..at.saturating_add(PART).min(size);
        at = part.end;
        found = found.and(held(ports.images.extents(layer, &part).await?)).in_at_most(HELD);
    }
    Ok(found)
}

/// What holds data when a layer is laid over what holds data below it.
fn over(below: Blocks, extents: Vec<Extent>) -> Blocks {
    let (zeros, data): (Vec<_>, Vec<_>) = extents.into_iter().partition(|extent| extent.zero);
    let bytes = |extents: Vec<Extent>| extents.into_iter().map(|extent| extent.bytes);
    below.without(&Blocks::inside(bytes(zeros))).and(Blocks::touched(bytes(data)))
}
