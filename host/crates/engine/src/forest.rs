//! The layers of a VM as a forest, and what has become superfluous in it. Pure.
//!
//! A layer is *needed* if a checkpoint or Now refers to it. Of those that are not:
//! no child → removed; one child → the child is merged down into it; several children → it stays, unseen.
//! The user's own image, the root, is never removed.

use std::collections::{BTreeMap, BTreeSet};

use stillpoint_common::{Layer, LayerId};

/// All layers of a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Forest {
    layers: BTreeMap<LayerId, Layer>,
}

/// What to do next about superfluous layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Collect {
    /// Nothing reads through this layer: remove its file.
    Remove(Layer),
    /// Only `child` reads through `parent`: move the child's data down and let the parent take its place.
    Merge { parent: Layer, child: Layer },
}

impl Forest {
    pub(crate) fn new(layers: impl IntoIterator<Item = Layer>) -> Self {
        Self { layers: layers.into_iter().map(|layer| (layer.file.id, layer)).collect() }
    }

    /// Adds layers that the catalogue does not have yet.
    pub(crate) fn extend(&mut self, layers: impl IntoIterator<Item = Layer>) {
        self.layers.extend(layers.into_iter().map(|layer| (layer.file.id, layer)));
    }

    /// The forest without this layer.
    pub(crate) fn take(&mut self, id: LayerId) {
        self.layers.remove(&id);
    }

    /// The forest without this layer; what lay on it lies on another from now on.
    pub(crate) fn replace(&mut self, gone: &Layer, by: Option<LayerId>) {
        self.take(gone.file.id);
        let onto = self.layers.values_mut().filter(|layer| layer.backing == Some(gone.file.id));
        onto.for_each(|layer| layer.backing = by);
    }

    pub(crate) fn get(&self, id: LayerId) -> Option<&Layer> {
        self.layers.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Layer> {
        self.layers.values()
    }

    /// The layers that record changes directly over this one.
    pub(crate) fn children(&self, id: LayerId) -> Vec<&Layer> {
        self.layers.values().filter(|layer| layer.backing == Some(id)).collect()
    }

    /// These layers and all that read through one of them.
    pub(crate) fn above(&self, ids: &BTreeSet<LayerId>) -> BTreeSet<LayerId> {
        let mut above = BTreeSet::new();
        let mut next: Vec<LayerId> = ids.iter().copied().collect();
        let children = self.by_parent();
        while let Some(id) = next.pop() {
            if above.insert(id) {
                next.extend(children.get(&id).into_iter().flatten());
            }
        }
        above
    }

    fn by_parent(&self) -> BTreeMap<LayerId, Vec<LayerId>> {
        let mut children = BTreeMap::<_, Vec<_>>::new();
        for layer in self.iter() {
            if let Some(parent) = layer.backing {
                children.entry(parent).or_default().push(layer.file.id);
            }
        }
        children
    }

    /// The layers below this one, the nearest first. Those that there are, if the catalogue contradicts itself.
    pub(crate) fn below(&self, layer: &Layer) -> Vec<&Layer> {
        let mut below: Vec<&Layer> = Vec::new();
        let mut next = layer.backing;
        while let Some(found) = next.and_then(|id| self.get(id)).filter(|_| below.len() < self.layers.len()) {
            below.push(found);
            next = found.backing;
        }
        below
    }

    /// Whether a layer is an image of the user's that nothing lies on.
    pub(crate) fn is_free(&self, id: LayerId) -> bool {
        self.get(id).is_some_and(|layer| layer.backing.is_none()) && self.children(id).is_empty()
    }

    /// All layers that a disk with this head reads through.
    pub(crate) fn read_through(&self, head: LayerId) -> impl Iterator<Item = LayerId> {
        self.chain(head).unwrap_or_default().into_iter().map(|layer| layer.file.id)
    }

    /// From the user's image up to `head`. `None` if the catalogue contradicts itself.
    pub(crate) fn chain(&self, head: LayerId) -> Option<Vec<&Layer>> {
        let mut chain = Vec::new();
        let mut next = Some(head);
        while let Some(id) = next {
            let layer = self.get(id)?;
            if chain.len() > self.layers.len() {
                return None;
            }
            chain.push(layer);
            next = layer.backing;
        }
        chain.reverse();
        Some(chain)
    }

    /// The next thing to do, if any. Removals first; of merges the lowest first, so that each block moves once. A merge
    /// that would read a file which is `missing` waits until it is back.
    pub(crate) fn collect(&self, needed: &BTreeSet<LayerId>, missing: &BTreeSet<LayerId>) -> Option<Collect> {
        let superfluous = || self.layers.values().filter(|layer| !needed.contains(&layer.file.id));
        let leaf = superfluous().find(|l| l.backing.is_some() && self.children(l.file.id).is_empty());
        if let Some(layer) = leaf {
            return Some(Collect::Remove(layer.clone()));
        }
        let (parent, child) = self.merges(needed, missing).into_iter().next()?;
        Some(Collect::Merge { parent: parent.clone(), child: child.clone() })
    }

    /// All pairs of a superfluous parent and its only child, the lowest first, that read no file which is missing.
    pub(crate) fn merges(&self, needed: &BTreeSet<LayerId>, missing: &BTreeSet<LayerId>) -> Vec<(&Layer, &Layer)> {
        let superfluous = self.layers.values().filter(|layer| !needed.contains(&layer.file.id));
        let pairs = superfluous.filter_map(|parent| self.only_child(parent));
        let is_there = |(_, parent, child): &(usize, &Layer, &Layer)| {
            let read = self.below(parent).into_iter().chain([*parent, *child]);
            !read.into_iter().any(|layer| missing.contains(&layer.file.id))
        };
        let mut merges: Vec<_> = pairs.filter(is_there).collect();
        merges.sort_by_key(|(depth, ..)| *depth);
        merges.into_iter().map(|(_, parent, child)| (parent, child)).collect()
    }

    fn only_child<'a>(&'a self, parent: &'a Layer) -> Option<(usize, &'a Layer, &'a Layer)> {
        let children = self.children(parent.file.id);
        let [child] = children.as_slice() else { return None };
        Some((self.chain(parent.file.id)?.len(), parent, child))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use stillpoint_common::{DiskFormat, FileIdentity, LayerFile};

    use super::*;

    /// Layers, each over the one of this index.
    pub(crate) fn forest(edges: &[Option<usize>]) -> (Forest, Vec<LayerId>) {
        let ids: Vec<_> = edges.iter().map(|_| LayerId::generate()).collect();
        let layers = edges.iter().enumerate().map(|(i, backing)| Layer {
            file: LayerFile { id: ids[i], path: format!("/{i}").into(), format: DiskFormat::Qcow2 },
            disk: "system".parse().unwrap(),
            backing: backing.map(|b| ids[b]),
            identity: FileIdentity { device: 1, inode: i as u64 },
            virtual_size: 1 << 30,
            frozen: None,
            made: None,
        });
        (Forest::new(layers), ids)
    }

    /// Which indices are merged or removed, in order, until nothing is left to do.
    fn collect_all(edges: &[Option<usize>], needed: &[usize]) -> Vec<String> {
        let (mut forest, ids) = forest(edges);
        let mut needed: BTreeSet<_> = needed.iter().map(|i| ids[*i]).collect();
        let at = |id: LayerId| ids.iter().position(|known| *known == id).unwrap();
        let mut done = Vec::new();
        while let Some(next) = forest.collect(&needed, &BTreeSet::new()) {
            match next {
                Collect::Remove(layer) => {
                    forest.take(layer.file.id);
                    done.push(format!("remove {}", at(layer.file.id)));
                }
                Collect::Merge { parent, child } => {
                    done.push(format!("{} into {}", at(child.file.id), at(parent.file.id)));
                    forest.replace(&child, Some(parent.file.id));
                    if needed.remove(&child.file.id) {
                        needed.insert(parent.file.id);
                    }
                }
            }
        }
        done
    }

    #[test]
    fn nothing_is_done_while_everything_is_needed() {
        assert_eq!(collect_all(&[None, Some(0), Some(1)], &[0, 1, 2]), [""; 0]);
    }

    #[test]
    fn a_leaf_off_the_path_is_removed_without_a_merge() {
        assert_eq!(collect_all(&[None, Some(0), Some(0)], &[0, 1]), ["remove 2"]);
    }

    #[test]
    fn the_parent_of_now_takes_the_data_of_now() {
        assert_eq!(collect_all(&[None, Some(0)], &[1]), ["1 into 0"]);
    }

    #[test]
    fn a_run_of_superfluous_layers_is_merged_from_below() {
        assert_eq!(collect_all(&[None, Some(0), Some(1), Some(2)], &[3]), ["1 into 0", "2 into 0", "3 into 0"]);
    }

    #[test]
    fn a_branch_point_waits_until_one_child_is_left() {
        assert_eq!(collect_all(&[None, Some(0), Some(0)], &[1, 2]), [""; 0]);
        assert_eq!(collect_all(&[None, Some(0), Some(0)], &[2]), ["remove 1", "2 into 0"]);
    }

    #[test]
    fn what_is_missing_is_removed_but_never_merged() {
        let (forest, ids) = forest(&[None, Some(0), Some(1), Some(2)]);
        let set = |of: &[usize]| of.iter().map(|i| ids[*i]).collect::<BTreeSet<_>>();
        let next = |needed: &[usize], missing: &[usize]| forest.collect(&set(needed), &set(missing));
        assert!(matches!(next(&[0, 1, 2], &[3]), Some(Collect::Remove(layer)) if layer.file.id == ids[3]));
        for missing in [0, 1, 2] {
            assert_eq!(next(&[0, 3], &[missing]), None, "{missing} would be read by 2 into 1");
        }
        assert!(matches!(next(&[0, 3], &[3]), Some(Collect::Merge { .. })), "3 is not read");
    }

    #[test]
    fn the_users_image_is_never_removed() {
        assert_eq!(collect_all(&[None], &[]), [""; 0]);
    }

    #[test]
    fn what_reads_through_a_layer_lies_above_it() {
        let (mut forest, ids) = forest(&[None, Some(0), Some(1), Some(1), Some(0), Some(3)]);
        let above = |forest: &Forest, of: &[usize]| {
            let above = forest.above(&of.iter().map(|i| ids[*i]).collect());
            ids.iter().enumerate().filter(|(_, id)| above.contains(id)).map(|(i, _)| i).collect::<Vec<_>>()
        };
        assert_eq!(above(&forest, &[]), [0; 0]);
        assert_eq!(above(&forest, &[2, 3]), [2, 3, 5]);
        assert_eq!(above(&forest, &[1]), [1, 2, 3, 5]);
        assert_eq!(above(&forest, &[0]), [0, 1, 2, 3, 4, 5]);
        forest.layers.get_mut(&ids[0]).unwrap().backing = Some(ids[1]);
        assert_eq!(above(&forest, &[4]), [4], "and it ends");
        assert_eq!(above(&forest, &[3]), [3, 5]);
        assert_eq!(above(&forest, &[1]), [0, 1, 2, 3, 4, 5], "as it does for one that bites its tail");
    }

    #[test]
    fn a_chain_that_bites_its_tail_is_no_chain() {
        let (mut forest, ids) = forest(&[None, Some(0)]);
        forest.layers.get_mut(&ids[0]).unwrap().backing = Some(ids[1]);
        assert_eq!(forest.chain(ids[1]), None);
        assert_eq!(forest.chain(LayerId::generate()), None);
    }
}
