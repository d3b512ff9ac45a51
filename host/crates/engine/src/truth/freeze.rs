//! Noting what frozen layers are like, and that one is about to be written to by us.

use stillpoint_common::Layer;

use crate::{catalogue::Changes, context::Cx, error::StepError, forest::Forest};

/// These layers as they are now that nobody writes to them any more.
pub(crate) async fn freeze(cx: &Cx, mut layers: Vec<Layer>) -> Result<Vec<Layer>, StepError> {
    for layer in &mut layers {
        layer.frozen = Some(cx.ports().images.look(&layer.file).await?.stamp);
    }
    Ok(layers)
}

/// Notes that a merge of our own is about to write to the parent, and to the heads of files that lie on the child.
/// Answers the layers as they are written down then.
pub(crate) async fn open(cx: &Cx, parent: &Layer, child: &Layer) -> Result<Forest, StepError> {
    let forest = cx.catalogue().forest(&cx.vm).await?;
    let written = forest.children(child.file.id).into_iter().chain(forest.get(parent.file.id)).cloned().collect();
    note_open(cx, forest, written).await
}

/// Notes that a merge of our own is about to write to this layer. Answers the layers as they are written down then.
pub(crate) async fn open_one(cx: &Cx, layer: &Layer) -> Result<Forest, StepError> {
    let forest = cx.catalogue().forest(&cx.vm).await?;
    note_open(cx, forest, vec![layer.clone()]).await
}

async fn note_open(cx: &Cx, mut forest: Forest, layers: Vec<Layer>) -> Result<Forest, StepError> {
    let frozen = layers.into_iter().filter(|layer| layer.frozen.is_some());
    let opened: Vec<Layer> = frozen.map(|layer| Layer { frozen: None, ..layer }).collect();
    if !opened.is_empty() {
        let changes = opened.iter().fold(Changes::default(), |changes, layer| changes.set_layer(&cx.vm, layer));
        cx.catalogue().commit(changes).await?;
        forest.extend(opened);
    }
    Ok(forest)
}
