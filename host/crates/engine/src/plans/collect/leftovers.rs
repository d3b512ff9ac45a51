//! Files of layers that the catalogue has let go. One that is not as it was left is told of and left alone, and keeps no
//! other from going.

use std::slice;

use stillpoint_common::Layer;

use super::{settle_descriptions, strangers::children};
use crate::{
    catalogue::Changes, context::Cx, error::StepError, plans::devices::is_the_same_elsewhere, ports::ImageError,
};

/// Removes the files of layers that were let go, once the descriptions say so too.
pub(super) async fn remove_leftovers(cx: &Cx) -> Result<(), StepError> {
    let leftovers = cx.catalogue().leftovers(&cx.vm).await?;
    if !leftovers.is_empty() {
        settle_descriptions(cx).await?;
    }
    for layer in leftovers {
        remove(&layer, cx).await?;
        cx.catalogue().commit(Changes::default().forget_leftover(&cx.vm, &layer)).await?;
    }
    Ok(())
}

/// Removes a file with the proof that it is the one that was let go, and that nothing lies on it now.
async fn remove(layer: &Layer, cx: &Cx) -> Result<(), StepError> {
    let path = layer.file.path.display();
    let on_it = children(layer, &cx.catalogue().forest(&cx.vm).await?, cx).await?;
    if let Some(ours) = on_it.ours.first() {
        let what = format!("removing {path}");
        let message = format!("{} still says that it lies on it", ours.display());
        return Err(ImageError::Failed { what, message }.into());
    }
    if let Some(other) = on_it.of_others.first() {
        tracing::warn!(vm = %cx.vm, "{path} is not needed any more, but {} lies on it: it stays", other.display());
        return Ok(());
    }
    match cx.ports().images.remove(&layer.file.path, layer.identity).await {
        Err(ImageError::Changed { .. }) => remove_elsewhere(layer, cx).await,
        removed => Ok(removed?),
    }
}

/// Another file has the name, or the file system has come back under another number.
async fn remove_elsewhere(layer: &Layer, cx: &Cx) -> Result<(), StepError> {
    let seen = cx.ports().images.look_at(slice::from_ref(&layer.file)).await?;
    let found = match seen.into_iter().next() {
        None | Some(Err(ImageError::Missing { .. })) => return Ok(()),
        Some(seen) => seen?.identity,
    };
    if is_the_same_elsewhere(layer.identity, found) {
        return Ok(cx.ports().images.remove(&layer.file.path, found).await?);
    }
    let path = layer.file.path.display();
    tracing::warn!(vm = %cx.vm, "{path} is another file than the layer that was let go: it stays");
    Ok(())
}
