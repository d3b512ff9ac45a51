//! Following reference points when layers are merged or taken away.

use stillpoint_common::{Layer, MergeDirection};

use super::track::{Tracked, moved, on};
use crate::{
    catalogue::Changes,
    changed::{Blocks, held_by},
    context::Cx,
    error::StepError,
    truth::wrongs,
};

/// What the child of a merge holds by itself, before the data of a parent with points on it moves up into it.
pub(crate) async fn held_above(cx: &Cx, parent: &Layer, child: &Layer) -> Result<Option<Blocks>, StepError> {
    let tracked = cx.catalogue().tracked(&cx.vm).await?;
    match on(&tracked, parent.file.id).next() {
        Some(_) => Ok(Some(held_by(cx.ports(), &child.file).await?)),
        None => Ok(None),
    }
}

/// Two layers have become one, which reads as the child did. `held`: what the child held before, if it was looked up.
pub(crate) async fn after_merge(
    cx: &Cx,
    parent: &Layer,
    child: &Layer,
    direction: MergeDirection,
    held: Option<Blocks>,
) -> Result<Changes, StepError> {
    let tracked = cx.catalogue().tracked(&cx.vm).await?;
    let stays = match direction {
        MergeDirection::Down => parent.file.id,
        MergeDirection::Up => child.file.id,
    };
    let changes = note(cx, moved(&tracked, child.file.id, stays, None));
    if on(&tracked, parent.file.id).next().is_none() {
        return Ok(changes);
    }
    if cx.catalogue().vm(&cx.vm).await?.own_layers().any(|own| own == child.file.id) {
        // Layers are kept apart so that this does not happen.
        let lost = on(&tracked, parent.file.id).map(|tracked| tracked.lost("its layer is written to"));
        return Ok(changes.and(note(cx, lost.collect())));
    }
    let held = match held {
        Some(held) => held,
        None => held_by(cx.ports(), &child.file).await?,
    };
    Ok(changes.and(note(cx, moved(&tracked, parent.file.id, stays, Some(&held)))))
}

/// A layer that nothing lies on is taken away: the points on it are as far from the layer below as the layer was.
pub(crate) async fn after_removal(cx: &Cx, layer: &Layer) -> Result<Changes, StepError> {
    let tracked = cx.catalogue().tracked(&cx.vm).await?;
    let Some(below) = layer.backing.filter(|_| on(&tracked, layer.file.id).next().is_some()) else {
        return Ok(Changes::default());
    };
    Ok(match held_if_right(cx, layer).await? {
        Ok(held) => note(cx, moved(&tracked, layer.file.id, below, Some(&held))),
        Err(why) => note(cx, on(&tracked, layer.file.id).map(|tracked| tracked.lost(&why)).collect()),
    })
}

/// What a layer holds, or why that is not known.
async fn held_if_right(cx: &Cx, layer: &Layer) -> Result<Result<Blocks, String>, StepError> {
    let forest = cx.catalogue().forest(&cx.vm).await?;
    let seen = cx.ports().images.look(&layer.file).await;
    if let Some(wrong) = wrongs(layer, &forest.below(layer), seen.as_ref()).first() {
        return Ok(Err(format!("{} {}", layer.file.path.display(), wrong.text())));
    }
    Ok(Ok(held_by(cx.ports(), &layer.file).await?))
}

fn note(cx: &Cx, tracked: Vec<Tracked>) -> Changes {
    tracked.iter().fold(Changes::default(), |changes, tracked| changes.set_tracked(&cx.vm, tracked))
}
