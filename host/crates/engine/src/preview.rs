//! What a deletion would do to the layers, before anything is done. Pure.
//!
//! The forest is collected in thought, by the same rules as in truth, so that the preview names the merges that will be.
//! Sizes are those of the files as they are; a merged layer may be as large as both were.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use stillpoint_common::{CheckpointId, DiskName, Layer, LayerFile, LayerId, MergeDirection};

use crate::{
    direction::{Sizes, direction},
    forest::{Collect, Forest},
};

/// What a deletion would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeletePreview {
    /// Checkpoints that go.
    pub checkpoints: Vec<CheckpointId>,
    /// Merges, in the order they will be done, with those that are to be done anyway.
    pub merges: Vec<PlannedMerge>,
    /// Files of layers that nothing lies on: they are removed without a merge.
    pub removed: Vec<LayerFile>,
    /// Layers that nothing needs and that several others lie on: they stay until one is left.
    pub kept: Vec<LayerFile>,
    /// Bytes of memory states that are removed; what other checkpoints share with them stays.
    pub memory_bytes: u64,
    /// Bytes that the host's disks must have free for it, at most, at one time.
    pub space_needed: u64,
    /// Bytes of layers that are free again afterwards, at least.
    pub freed: u64,
    /// How long the merges will take; `None`: nothing was merged yet that it could be told from.
    pub takes: Option<Duration>,
}

/// One merge of two neighbouring layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedMerge {
    /// Of which disk.
    pub disk: DiskName,
    /// The layer whose data moves, and which then goes.
    pub from: LayerFile,
    /// The layer that takes the data.
    pub into: LayerFile,
    /// Bytes to move.
    pub bytes: u64,
    /// Bytes by which the receiving file grows, at most.
    pub grows: u64,
    /// Which way the data goes.
    pub direction: MergeDirection,
}

/// The layers of a VM as they will be when a deletion has been marked.
pub(crate) struct Plan<'a> {
    pub(crate) forest: &'a Forest,
    /// Layers that a checkpoint or Now refers to then.
    pub(crate) needed: BTreeSet<LayerId>,
    /// Layers that a running VM writes to.
    pub(crate) live: BTreeSet<LayerId>,
    /// Layers whose files are not there.
    pub(crate) missing: &'a BTreeSet<LayerId>,
    /// Bytes that each file takes.
    pub(crate) sizes: BTreeMap<LayerId, u64>,
}

impl Plan<'_> {
    /// What will be done. `speed` is in bytes a second.
    pub(crate) fn preview(mut self, speed: Option<u64>) -> DeletePreview {
        let (mut forest, mut preview, mut used) = (self.forest.clone(), DeletePreview::default(), Use::default());
        while let Some(next) = forest.collect(&self.needed, self.missing) {
            match next {
                Collect::Remove(layer) => {
                    forest.take(layer.file.id);
                    used.frees(self.size(&layer));
                    preview.removed.push(layer.file);
                }
                Collect::Merge { parent, child } => {
                    let merge = self.merge(&mut forest, &parent, &child);
                    used.takes(merge.grows);
                    used.frees(merge.bytes);
                    preview.merges.push(merge);
                }
            }
        }
        let hidden = |layer: &&Layer| layer.backing.is_some() && !self.needed.contains(&layer.file.id);
        preview.kept = forest.iter().filter(hidden).map(|layer| layer.file.clone()).collect();
        let moved = preview.merges.iter().map(|merge| merge.bytes).fold(0, u64::saturating_add);
        let at = |speed: u64| Duration::from_millis(moved.saturating_mul(1000) / speed.max(1));
        preview.takes = if moved == 0 { Some(Duration::ZERO) } else { speed.map(at) };
        DeletePreview { space_needed: used.most, freed: used.freed.saturating_sub(used.taken), ..preview }
    }

    /// Merges in thought.
    fn merge(&mut self, forest: &mut Forest, parent: &Layer, child: &Layer) -> PlannedMerge {
        let is_live = self.live.contains(&child.file.id);
        let sizes = Sizes { parent: self.size(parent), child: self.size(child), is_live };
        let direction = direction(parent, sizes);
        let (from, into) = match direction {
            MergeDirection::Down => (child, parent),
            MergeDirection::Up => (parent, child),
        };
        let grows = self.size(from).min(into.virtual_size.saturating_sub(self.size(into)));
        *self.sizes.entry(into.file.id).or_default() += grows;
        match direction {
            MergeDirection::Down => {
                forest.replace(child, Some(parent.file.id));
                if self.needed.remove(&child.file.id) {
                    self.needed.insert(parent.file.id);
                }
                if self.live.remove(&child.file.id) {
                    self.live.insert(parent.file.id);
                }
            }
            MergeDirection::Up => forest.replace(parent, parent.backing),
        }
        let (disk, bytes) = (child.disk.clone(), sizes.moved(direction));
        PlannedMerge { disk, from: from.file.clone(), into: into.file.clone(), bytes, grows, direction }
    }

    fn size(&self, layer: &Layer) -> u64 {
        self.sizes.get(&layer.file.id).copied().unwrap_or_default()
    }
}

/// Bytes taken and freed, one after the other.
#[derive(Default)]
struct Use {
    taken: u64,
    freed: u64,
    most: u64,
}

impl Use {
    const fn takes(&mut self, bytes: u64) {
        self.taken = self.taken.saturating_add(bytes);
        let now = self.taken.saturating_sub(self.freed);
        if now > self.most {
            self.most = now;
        }
    }

    const fn frees(&mut self, bytes: u64) {
        self.freed = self.freed.saturating_add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forest::tests::forest;

    const NONE: &BTreeSet<LayerId> = &BTreeSet::new();

    /// Layers with these parents and sizes, of which some are needed.
    fn preview(layers: &[(Option<usize>, u64)], needed: &[usize], speed: Option<u64>) -> (DeletePreview, Vec<LayerId>) {
        let (forest, ids) = forest(&layers.iter().map(|(backing, _)| *backing).collect::<Vec<_>>());
        let sizes = ids.iter().copied().zip(layers.iter().map(|(_, size)| *size)).collect();
        let needed = needed.iter().map(|at| ids[*at]).collect();
        (Plan { forest: &forest, needed, live: BTreeSet::new(), missing: NONE, sizes }.preview(speed), ids)
    }

    #[test]
    fn each_merge_is_named_with_what_moves_and_what_it_needs() {
        let (preview, ids) = preview(&[(None, 100), (Some(0), 10), (Some(1), 5), (Some(0), 7)], &[2], Some(5));
        let moves: Vec<_> = preview.merges.iter().map(|m| (m.from.id, m.into.id, m.bytes, m.grows)).collect();
        assert_eq!(moves, [(ids[1], ids[0], 10, 10), (ids[2], ids[0], 5, 5)]);
        assert_eq!(preview.removed.iter().map(|file| file.id).collect::<Vec<_>>(), [ids[3]]);
        // 7 bytes are free again before 10 are taken; the file of 10 is gone before 5 are taken.
        assert_eq!((preview.space_needed, preview.freed), (3, 7));
        assert_eq!(preview.takes, Some(Duration::from_secs(3)));
        assert_eq!(preview.kept, []);
    }

    #[test]
    fn the_smaller_of_two_layers_moves_and_of_a_run_of_layers_each_block_as_few_times_as_can_be() {
        let (preview, ids) = preview(&[(None, 100), (Some(0), 10), (Some(1), 5), (Some(2), 70)], &[0, 3], Some(5));
        let moves: Vec<_> = preview.merges.iter().map(|m| (m.direction, m.from.id, m.into.id, m.bytes)).collect();
        use MergeDirection::{Down, Up};
        assert_eq!(moves, [(Down, ids[2], ids[1], 5), (Up, ids[1], ids[3], 15)]);
        assert_eq!((preview.space_needed, preview.freed), (15, 0));
    }

    #[test]
    fn a_layer_that_several_lie_on_stays_and_nothing_that_moves_takes_no_time() {
        let (preview, ids) = preview(&[(None, 100), (Some(0), 10), (Some(1), 5), (Some(1), 7)], &[0, 2, 3], None);
        assert_eq!((preview.merges, preview.takes), (vec![], Some(Duration::ZERO)));
        assert_eq!(preview.kept.iter().map(|file| file.id).collect::<Vec<_>>(), [ids[1]]);
    }

    #[test]
    fn a_file_never_grows_past_the_disk_and_without_an_earlier_merge_the_time_is_not_known() {
        let (preview, _) = preview(&[(None, (1 << 30) - 3), (Some(0), 10)], &[1], None);
        assert_eq!((preview.merges[0].grows, preview.takes), (3, None));
    }
}
