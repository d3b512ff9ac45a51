//! The checkpoints of a VM as a tree, and what becomes of it when some of them go. Pure.

use std::collections::BTreeSet;

use stillpoint_common::{Checkpoint, CheckpointId, CheckpointState};

/// A checkpoint and all that came after it, as far as they are not gone already.
pub(crate) fn subtree(checkpoints: &[Checkpoint], root: CheckpointId) -> BTreeSet<CheckpointId> {
    let mut found = BTreeSet::from([root]);
    loop {
        let child = |checkpoint: &&Checkpoint| {
            checkpoint.parent.is_some_and(|parent| found.contains(&parent)) && !found.contains(&checkpoint.id)
        };
        let Some(child) = checkpoints.iter().find(child) else { break };
        found.insert(child.id);
    }
    // One of a backup goes with its session.
    let is_ready =
        |checkpoint: &&Checkpoint| checkpoint.state == CheckpointState::Ready && checkpoint.remarks.backup.is_none();
    let ready: BTreeSet<_> = checkpoints.iter().filter(is_ready).map(|checkpoint| checkpoint.id).collect();
    found.intersection(&ready).copied().collect()
}

/// Where what came after these checkpoints belongs when they are gone: the nearest one above that stays.
pub(crate) fn heir(
    checkpoints: &[Checkpoint],
    going: &BTreeSet<CheckpointId>,
    mut above: Option<CheckpointId>,
) -> Option<CheckpointId> {
    for _ in 0..=checkpoints.len() {
        match above.filter(|id| going.contains(id)) {
            Some(gone) => above = checkpoints.iter().find(|checkpoint| checkpoint.id == gone)?.parent,
            None => return above,
        }
    }
    None
}

/// The nearest one, from here upwards, that people are shown: not one of a backup.
pub(crate) fn shown(checkpoints: &[Checkpoint], from: Option<CheckpointId>) -> Option<CheckpointId> {
    let of_backups = checkpoints.iter().filter(|checkpoint| checkpoint.remarks.backup.is_some());
    heir(checkpoints, &of_backups.map(|checkpoint| checkpoint.id).collect(), from)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A checkpoint with this parent.
    pub(crate) fn checkpoint(parent: Option<CheckpointId>) -> Checkpoint {
        let json = serde_json::json!({
            "id": CheckpointId::generate(), "vm": "web", "name": "x", "parent": parent,
            "created": "2026-01-01T00:00:00Z", "kind": "PRODUCTION", "requested_policy": "PRODUCTION",
            "consistency": "CRASH", "fallback": null, "fallback_detail": "", "disks": {}, "memory": null,
            "was_running": true, "file_systems": [], "writers": [], "phases": [], "left_out": [], "state": "READY",
            "definition": {
                "cpus": 1, "memory_mib": 16, "accelerator": "AUTO", "boot": "BIOS", "disks": [], "pass_through": [],
                "nics": [], "serial_log": null, "extra_arguments": [],
            },
        });
        serde_json::from_value(json).unwrap()
    }

    /// `a ── b ── c`, and `d` beside `c`.
    fn tree() -> Vec<Checkpoint> {
        let a = checkpoint(None);
        let b = checkpoint(Some(a.id));
        let (c, d) = (checkpoint(Some(b.id)), checkpoint(Some(b.id)));
        vec![a, b, c, d]
    }

    fn ids(tree: &[Checkpoint], at: &[usize]) -> BTreeSet<CheckpointId> {
        at.iter().map(|at| tree[*at].id).collect()
    }

    #[test]
    fn a_subtree_is_a_checkpoint_and_all_that_came_after_it() {
        let mut tree = tree();
        assert_eq!(subtree(&tree, tree[0].id), ids(&tree, &[0, 1, 2, 3]));
        assert_eq!(subtree(&tree, tree[1].id), ids(&tree, &[1, 2, 3]));
        assert_eq!(subtree(&tree, tree[3].id), ids(&tree, &[3]));
        tree[2].state = CheckpointState::Deleting;
        assert_eq!(subtree(&tree, tree[1].id), ids(&tree, &[1, 3]), "what is gone does not go again");
    }

    #[test]
    fn what_came_after_something_gone_belongs_to_the_nearest_that_stays() {
        let tree = tree();
        let heir = |going: &[usize], of: usize| heir(&tree, &ids(&tree, going), tree[of].parent);
        assert_eq!(heir(&[1], 2), Some(tree[0].id));
        assert_eq!(heir(&[0, 1], 2), None);
        assert_eq!(heir(&[0], 3), Some(tree[1].id));
        assert_eq!(heir(&[0, 1, 2, 3], 3), None);
    }

    #[test]
    fn a_tree_that_bites_its_tail_ends_all_the_same() {
        let mut tree = tree();
        tree[0].parent = Some(tree[2].id);
        assert_eq!(subtree(&tree, tree[0].id).len(), 4);
        assert_eq!(heir(&tree, &ids(&tree, &[0, 1, 2]), Some(tree[0].id)), None);
    }
}
