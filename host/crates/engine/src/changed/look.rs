//! Reading what the layers on a way hold of a part of a disk.

use std::ops::Range;

use stillpoint_common::Layer;

use super::{blocks::Blocks, path::Path};
use crate::{context::Ports, error::StepError, forest::Forest, ports::Extent, truth::wrongs};

/// The blocks of a part of the disk in which the two ends of a way may differ; those that hold data, if it begins below
/// everything. A layer whose file is not what it should be is refused, before it is read and after.
pub(super) async fn differing(
    ports: &Ports,
    forest: &Forest,
    path: &Path,
    part: &Range<u64>,
) -> Result<Blocks, StepError> {
    let mut found = Blocks::default();
    if part.is_empty() {
        return Ok(found);
    }
    for layer in path.layers() {
        let extents = extents(ports, forest, layer, part).await?;
        found = match path.common {
            Some(_) => found.and(held(extents)),
            None => over(found, extents),
        };
    }
    Ok(found)
}

/// What a layer's own data makes different from the layer below.
pub(crate) fn held(extents: Vec<Extent>) -> Blocks {
    Blocks::touched(extents.into_iter().map(|extent| extent.bytes))
}

/// What holds data when a layer is laid over what holds data below it.
fn over(below: Blocks, extents: Vec<Extent>) -> Blocks {
    let (zeros, data): (Vec<_>, Vec<_>) = extents.into_iter().partition(|extent| extent.zero);
    let bytes = |extents: Vec<Extent>| extents.into_iter().map(|extent| extent.bytes);
    below.without(&Blocks::inside(bytes(zeros))).and(Blocks::touched(bytes(data)))
}

/// What a layer itself holds of a part of its disk.
async fn extents(ports: &Ports, forest: &Forest, layer: &Layer, part: &Range<u64>) -> Result<Vec<Extent>, StepError> {
    is_right(ports, forest, layer).await?;
    let extents = ports.images.extents(&layer.file, part).await?;
    is_right(ports, forest, layer).await?;
    Ok(extents)
}

async fn is_right(ports: &Ports, forest: &Forest, layer: &Layer) -> Result<(), StepError> {
    let seen = ports.images.look(&layer.file).await;
    match wrongs(layer, &forest.below(layer), seen.as_ref()).first() {
        Some(wrong) => Err(wrong.failure(layer).into()),
        None => Ok(()),
    }
}
