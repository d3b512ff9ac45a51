//! Which layers can hold a difference between two of them. Pure.

use stillpoint_common::{Layer, LayerId};

use crate::forest::Forest;

/// From one layer to another: down to what both lie on, and up again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    /// What both lie on, or is one of them; `None` where the way begins below everything.
    pub(super) common: Option<Layer>,
    /// The layers from there to where it began, the lowest first.
    pub(super) down: Vec<Layer>,
    /// The layers from there to where it leads, the lowest first.
    pub(super) up: Vec<Layer>,
}

impl Path {
    /// The layers whose own data makes the difference.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.down.iter().chain(&self.up)
    }
}

/// The way between two layers; without `from` that from an empty disk. `None` if they have nothing in common, or the
/// catalogue contradicts itself.
///
/// A layer's own data is all in which a disk read through it may differ from one read through the layer below. So what is
/// not in the own data of any layer on the way reads the same at both ends.
pub(super) fn path(forest: &Forest, from: Option<LayerId>, to: LayerId) -> Option<Path> {
    let to = forest.chain(to)?;
    let from = from.map_or(Some(Vec::new()), |from| forest.chain(from));
    let from = from?;
    let same = from.iter().zip(&to).take_while(|(one, other)| one.file.id == other.file.id).count();
    let layers = |chain: &[&Layer]| chain.iter().map(|layer| (*layer).clone()).collect();
    let common = same.checked_sub(1).map(|last| to[last].clone());
    match (&common, from.as_slice()) {
        (None, [_, ..]) => None,
        (Some(_), _) | (None, []) => Some(Path { common, down: layers(&from[same..]), up: layers(&to[same..]) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forest::tests::forest;

    /// The indices of the common layer, of those down and of those up.
    fn between(
        edges: &[Option<usize>],
        from: Option<usize>,
        to: usize,
    ) -> Option<(Option<usize>, Vec<usize>, Vec<usize>)> {
        let (forest, ids) = forest(edges);
        let at = |layer: &Layer| ids.iter().position(|id| *id == layer.file.id).unwrap();
        let found = path(&forest, from.map(|from| ids[from]), ids[to])?;
        let all = |layers: &[Layer]| layers.iter().map(at).collect();
        Some((found.common.as_ref().map(at), all(&found.down), all(&found.up)))
    }

    /// 0 ← 1 ← 2 ← 3, and 1 ← 4 ← 5; another image, 6.
    const FOREST: [Option<usize>; 7] = [None, Some(0), Some(1), Some(2), Some(1), Some(4), None];

    #[test]
    fn the_way_leads_over_what_both_lie_on() {
        let between = |from, to| between(&FOREST, from, to);
        assert_eq!(between(Some(1), 3), Some((Some(1), vec![], vec![2, 3])));
        assert_eq!(between(Some(3), 1), Some((Some(1), vec![2, 3], vec![])), "backwards, after an apply");
        assert_eq!(between(Some(3), 5), Some((Some(1), vec![2, 3], vec![4, 5])), "to another branch");
        assert_eq!(between(Some(3), 3), Some((Some(3), vec![], vec![])));
        assert_eq!(between(None, 4), Some((None, vec![], vec![0, 1, 4])), "from nothing: all there is");
    }

    #[test]
    fn there_is_no_way_to_another_image() {
        assert_eq!(between(&FOREST, Some(6), 3), None);
        assert_eq!(between(&FOREST, Some(3), 6), None);
    }
}
