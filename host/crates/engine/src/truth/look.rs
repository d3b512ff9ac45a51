//! Looking at a layer's file.

use stillpoint_common::Layer;

use super::{Wrong, wrongs};
use crate::{context::Ports, error::StepError};

/// The gravest thing that is wrong with a layer's file as it is now. `below` are the layers below it, the nearest first.
pub(crate) async fn wrong(ports: &Ports, layer: &Layer, below: &[&Layer]) -> Option<Wrong> {
    let seen = ports.images.look(&layer.file).await;
    wrongs(layer, below, seen.as_ref()).into_iter().next()
}

/// Refuses a layer whose file is not what the catalogue knows.
pub(crate) async fn is_right(ports: &Ports, layer: &Layer, below: &[&Layer]) -> Result<(), StepError> {
    wrong(ports, layer, below).await.map_or(Ok(()), |wrong| Err(wrong.failure(layer).into()))
}
