//! Which checkpoints lack files.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use stillpoint_common::{Checkpoint, CheckpointId, Failure};

use crate::{context::World, error::StepError, forest::Forest};

/// For each of these checkpoints the files that it needs and that are not there. One look for all.
pub(crate) async fn missing_files(
    world: &World,
    forest: &Forest,
    checkpoints: &[Checkpoint],
) -> Result<BTreeMap<CheckpointId, Vec<PathBuf>>, Failure> {
    let needed: BTreeMap<CheckpointId, BTreeSet<PathBuf>> =
        checkpoints.iter().map(|checkpoint| (checkpoint.id, files_of(checkpoint, forest))).collect();
    let all: BTreeSet<&PathBuf> = needed.values().flatten().collect();
    let all: Vec<PathBuf> = all.into_iter().cloned().collect();
    let missing = world.ports.images.missing(&all).await.map_err(StepError::from)?;
    let lacks = |(id, files): (CheckpointId, BTreeSet<PathBuf>)| (id, files.intersection(&missing).cloned().collect());
    Ok(needed.into_iter().map(lacks).collect())
}

fn files_of(checkpoint: &Checkpoint, forest: &Forest) -> BTreeSet<PathBuf> {
    let layers = checkpoint.disks.values().filter_map(|layer| forest.chain(*layer)).flatten();
    let memory = checkpoint.memory.iter().map(|memory| memory.path.clone());
    layers.map(|layer| layer.file.path.clone()).chain(memory).collect()
}
