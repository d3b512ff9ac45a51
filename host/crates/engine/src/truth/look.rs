//! Looking at layers' files.

use stillpoint_common::{Layer, LayerFile};

use super::wrongs;
use crate::{
    context::Ports,
    error::StepError,
    forest::Forest,
    ports::{ImageError, Seen},
};

/// What is seen of the files of these layers, in their order.
pub(crate) async fn see<'l>(
    ports: &Ports,
    layers: impl IntoIterator<Item = &'l Layer> + Send,
) -> Vec<(&'l Layer, Result<Seen, ImageError>)> {
    let (layers, files): (Vec<&Layer>, Vec<LayerFile>) =
        layers.into_iter().map(|layer| (layer, layer.file.clone())).unzip();
    match ports.images.look_at(&files).await {
        Ok(seen) => layers.into_iter().zip(seen).collect(),
        Err(error) => {
            let unseen = || ImageError::Failed { what: "a glance".to_owned(), message: error.to_string() };
            layers.into_iter().map(|layer| (layer, Err(unseen()))).collect()
        }
    }
}

/// Refuses the first of these layers whose file is not what the catalogue knows.
pub(crate) async fn are_right<'l>(
    ports: &Ports,
    forest: &Forest,
    layers: impl IntoIterator<Item = &'l Layer> + Send,
) -> Result<(), StepError> {
    for (layer, seen) in see(ports, layers).await {
        if let Some(wrong) = wrongs(layer, &forest.below(layer), seen.as_ref()).into_iter().next() {
            return Err(wrong.failure(layer).into());
        }
    }
    Ok(())
}
