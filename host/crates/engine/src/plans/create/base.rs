//! Which earlier memory state a new one is likeliest to have pages in common with.

use stillpoint_common::{Checkpoint, CheckpointId, CheckpointState, MemoryState};

/// The memory of the nearest checkpoint that Now comes from; if none of those has any, that of the newest checkpoint.
pub(in crate::plans) fn of(checkpoints: &[Checkpoint], parent: Option<CheckpointId>) -> Option<MemoryState> {
    let find = |id: CheckpointId| checkpoints.iter().find(|checkpoint| checkpoint.id == id);
    let mut ancestors = std::iter::successors(parent.and_then(find), |checkpoint| checkpoint.parent.and_then(find));
    let near = ancestors.by_ref().take(checkpoints.len()).find_map(memory);
    near.or_else(|| {
        let mut others: Vec<&Checkpoint> = checkpoints.iter().collect();
        others.sort_by_key(|checkpoint| checkpoint.created);
        others.into_iter().rev().find_map(memory)
    })
}

fn memory(checkpoint: &Checkpoint) -> Option<MemoryState> {
    match checkpoint.state {
        CheckpointState::Ready => checkpoint.memory.clone(),
        CheckpointState::Deleting => None,
    }
}
