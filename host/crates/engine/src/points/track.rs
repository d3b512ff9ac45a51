//! Where reference points are, and how they move. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use stillpoint_common::{DiskName, LayerId, ReferencePointId};

use crate::{changed::Blocks, forest::Forest};

/// Ranges that are kept of one disk of a point, at most: of more, coarser ones are.
const RANGES: usize = 2048;

/// A disk of a reference point, as it is followed through merges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tracked {
    /// Of which point.
    pub(crate) point: ReferencePointId,
    /// Which disk.
    pub(crate) disk: DiskName,
    /// How large the disk was, in bytes.
    pub(crate) size: u64,
    /// The layer that reads nearest to it.
    pub(crate) layer: LayerId,
    /// The blocks in which that layer may read otherwise than the disk did.
    pub(crate) changed: Blocks,
    /// Why it is not known any more what has changed, if so.
    pub(crate) lost: Option<String>,
}

impl Tracked {
    /// On another layer, which holds all that differs from the one it was on.
    fn moved(&self, layer: LayerId, held: Option<&Blocks>) -> Self {
        let changed = match held {
            Some(held) => self.changed.clone().and(held.clone()).in_at_most(RANGES),
            None => self.changed.clone(),
        };
        Self { layer, changed, ..self.clone() }
    }

    /// Nothing is known any more.
    pub(super) fn lost(&self, why: &str) -> Self {
        let lost = self.lost.clone().or_else(|| Some(why.to_owned()));
        Self { changed: Blocks::default(), lost, ..self.clone() }
    }
}

/// What becomes of those on layer `from` when another one takes its place; with what the two may differ in.
pub(super) fn moved(tracked: &[Tracked], from: LayerId, to: LayerId, held: Option<&Blocks>) -> Vec<Tracked> {
    on(tracked, from).map(|tracked| tracked.moved(to, held)).collect()
}

/// Those on a layer.
pub(super) fn on(tracked: &[Tracked], layer: LayerId) -> impl Iterator<Item = &Tracked> {
    tracked.iter().filter(move |tracked| tracked.layer == layer)
}

/// Those whose layer is this one, or lies above it, when it has been exchanged for another file by hand.
pub(crate) fn lost_above(tracked: &[Tracked], forest: &Forest, exchanged: LayerId, why: &str) -> Vec<Tracked> {
    let reads = |layer: LayerId| forest.chain(layer).is_none_or(|chain| chain.iter().any(|it| it.file.id == exchanged));
    tracked.iter().filter(|tracked| tracked.lost.is_none() && reads(tracked.layer)).map(|it| it.lost(why)).collect()
}

/// Layers with a point on them, right below one that is written to: they stay apart from it. What is written to a layer is
/// not told from what was there, so that nothing would be known any more of a point on it.
pub(crate) fn kept_apart(tracked: &[Tracked], forest: &Forest, own: &BTreeSet<LayerId>) -> BTreeSet<LayerId> {
    let has_point = |layer: &LayerId| on(tracked, *layer).any(|tracked| tracked.lost.is_none());
    own.iter().filter_map(|own| forest.get(*own)?.backing).filter(has_point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forest::tests::forest;

    const BLOCK: u64 = 65_536;

    fn blocks(numbers: &[u64]) -> Blocks {
        Blocks::touched(numbers.iter().map(|at| at * BLOCK..(at + 1) * BLOCK))
    }

    fn tracked(layer: LayerId, changed: &[u64]) -> Tracked {
        let (point, disk) = (ReferencePointId::generate(), "data".parse().unwrap());
        Tracked { point, disk, size: 1 << 30, layer, changed: blocks(changed), lost: None }
    }

    #[test]
    fn a_point_moves_with_what_it_differs_in() {
        let (_, ids) = forest(&[None, Some(0)]);
        let all = [tracked(ids[0], &[1]), tracked(ids[1], &[7])];
        let joined = moved(&all, ids[0], ids[0], Some(&blocks(&[2, 3])));
        assert_eq!(joined, [Tracked { changed: blocks(&[1, 2, 3]), ..all[0].clone() }]);
        assert_eq!(moved(&all, ids[1], ids[0], None), [Tracked { layer: ids[0], ..all[1].clone() }]);
    }

    #[test]
    fn of_very_many_ranges_coarser_ones_are_kept_and_none_is_left_out() {
        let (_, ids) = forest(&[None]);
        let many: Vec<u64> = (0..100_000).map(|at| 7 * at + at / 100 * 900).collect();
        let found = moved(&[tracked(ids[0], &[])], ids[0], ids[0], Some(&blocks(&many)));
        let kept: Vec<_> = found[0].changed.bytes(u64::MAX).collect();
        assert_eq!(kept.len(), RANGES);
        let holds = |byte: u64| kept.iter().any(|range| range.contains(&byte));
        assert!(many.iter().all(|at| holds(at * BLOCK)));
        let told: u64 = kept.iter().map(|range| (range.end - range.start) / BLOCK).sum();
        assert!(told < 800_000, "{told} blocks of 1,600,000: the gaps between groups are left out");
        assert!(serde_json::to_vec(&found[0]).unwrap().len() < 64 << 10);
    }

    #[test]
    fn a_layer_with_a_point_stays_apart_from_one_that_is_written_to() {
        let (forest, ids) = forest(&[None, Some(0), Some(1)]);
        let apart = |on: usize, own: usize| kept_apart(&[tracked(ids[on], &[])], &forest, &[ids[own]].into());
        assert_eq!(apart(1, 2), [ids[1]].into());
        assert_eq!(apart(0, 2), [].into(), "there is a layer between them");
        let lost = tracked(ids[1], &[]).lost("gone");
        assert_eq!(kept_apart(&[lost], &forest, &[ids[2]].into()), [].into(), "nothing depends on it");
    }

    #[test]
    fn a_layer_that_is_exchanged_loses_the_points_that_read_through_it() {
        let (forest, ids) = forest(&[None, Some(0), Some(1), Some(0)]);
        let all: Vec<_> = ids.iter().map(|id| tracked(*id, &[])).collect();
        let lost: Vec<_> = lost_above(&all, &forest, ids[1], "why").iter().map(|lost| lost.layer).collect();
        assert_eq!(lost, [ids[1], ids[2]]);
    }
}
