//! The two ends as the catalogue has them, and what lies between them.

use std::ops::Range;

use stillpoint_common::{Checkpoint, CheckpointId, Failure, Layer, LayerId, Reason, ReferencePointId};

use super::{
    ChangedFrom, ChangedRequest, Found, TRIES,
    blocks::Blocks,
    look::differing,
    path::{Path, path},
    restless,
};
use crate::{
    admission::ready,
    context::{Ports, World},
    error::StepError,
    forest::Forest,
    points::Tracked,
};

/// From one point to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    forest: Forest,
    path: Path,
    /// What is known of the reference point that it begins at.
    point: Option<Tracked>,
}

/// How large the disk is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Where the way begins; 0 below everything.
    pub(super) from: u64,
    /// Where it leads.
    pub(super) to: u64,
    /// The least of all on the way: what lies behind it was cut off there, or was not there yet.
    least: u64,
}

impl Way {
    /// By the catalogue as it is.
    pub(super) async fn find(world: &World, asked: &ChangedRequest) -> Result<Self, Failure> {
        for _ in 0..TRIES {
            let forest = world.catalogue.forest(&asked.vm).await?;
            let to = layer_of(world, asked, asked.to).await.map_err(|failure| failure.at("to"))?;
            let (from, point) = beginning(world, asked).await.map_err(|failure| failure.at("from"))?;
            // A merge that is written down between two looks gives a checkpoint another layer.
            if world.catalogue.forest(&asked.vm).await? != forest {
                continue;
            }
            let path = path(&forest, from, to).ok_or_else(|| unrelated(asked))?;
            return Ok(Self { forest, path, point });
        }
        Err(restless(&asked.vm))
    }

    pub(super) async fn look(&self, world: &World, part: &Range<u64>) -> Result<Found, StepError> {
        let sizes = self.sizes(world).await?;
        let mut blocks = differing(&world.ports, &self.forest, &self.path, part).await?;
        if self.path.common.is_some() {
            let new = sizes.least.max(part.start)..sizes.to.min(part.end);
            blocks = blocks.and(Blocks::touched([new]));
        }
        if let Some(point) = &self.point {
            blocks = blocks.and(point.changed.within(part));
        }
        Ok(Found { sizes, blocks })
    }

    async fn sizes(&self, world: &World) -> Result<Sizes, StepError> {
        let common = sizes(&world.ports, &self.path.common).await?;
        let (down, up) = (sizes(&world.ports, &self.path.down).await?, sizes(&world.ports, &self.path.up).await?);
        let end = |way: &[u64]| way.last().or(common.last()).copied().unwrap_or_default();
        let least = common.iter().chain(&down).chain(&up).min().copied().unwrap_or_default();
        let point = self.point.as_ref().map(|point| point.size);
        Ok(Sizes { from: point.unwrap_or_else(|| end(&down)), to: end(&up), least: point.unwrap_or(least).min(least) })
    }
}

async fn sizes(ports: &Ports, layers: impl IntoIterator<Item = &Layer>) -> Result<Vec<u64>, StepError> {
    let mut sizes = Vec::new();
    for layer in layers {
        sizes.push(ports.images.stat(&layer.file.path, layer.file.format).await?.virtual_size);
    }
    Ok(sizes)
}

/// The layer that the way begins at, and the point if it begins at one.
async fn beginning(world: &World, asked: &ChangedRequest) -> Result<(Option<LayerId>, Option<Tracked>), Failure> {
    match asked.from {
        ChangedFrom::Nothing => Ok((None, None)),
        ChangedFrom::Checkpoint(id) => Ok((Some(layer_of(world, asked, id).await?), None)),
        ChangedFrom::Point(id) => {
            let point = point_of(world, asked, id).await?;
            Ok((Some(point.layer), Some(point)))
        }
    }
}

/// What is known of the disk at a reference point.
async fn point_of(world: &World, asked: &ChangedRequest, id: ReferencePointId) -> Result<Tracked, Failure> {
    let point = world.catalogue.point(&asked.vm, id).await?;
    let all = world.catalogue.tracked(&asked.vm).await?;
    let found = all.into_iter().find(|tracked| tracked.point == point.id && tracked.disk == asked.disk);
    let disk = &asked.disk;
    let absent = || Failure::new(Reason::DiskNotFound, format!("reference point {id} has no disk {disk}"));
    let found = found.ok_or_else(absent)?;
    match &found.lost {
        None => Ok(found),
        Some(why) => {
            let message = format!("what has changed on disk {disk} since reference point {id} is not known: {why}");
            Err(Failure::new(Reason::ChangesUnknown, message))
        }
    }
}

/// The layer of the disk in a checkpoint.
async fn layer_of(world: &World, asked: &ChangedRequest, id: CheckpointId) -> Result<LayerId, Failure> {
    let checkpoint: Checkpoint = world.catalogue.checkpoint(&asked.vm, id).await?;
    ready(&checkpoint)?;
    let disk = &asked.disk;
    let absent = || Failure::new(Reason::DiskNotFound, format!("checkpoint {id} has no disk {disk}"));
    checkpoint.disks.get(disk).copied().ok_or_else(absent)
}

fn unrelated(asked: &ChangedRequest) -> Failure {
    let message = format!("disk {} was another image then: all of it has to be read", asked.disk);
    Failure::new(Reason::ChangesUnknown, message).at("from")
}
