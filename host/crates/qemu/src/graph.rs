//! Reads QEMU's block graph: which layers make up which disk.

use std::collections::{BTreeMap, BTreeSet};

use stillpoint_common::{DiskName, LayerId};

use crate::{
    nodes::{disk_of, layer_of},
    qmp::commands::BlockGraph,
};

/// The layers of an instance.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Layers {
    /// For each disk its layers, from the head down.
    pub(crate) chains: BTreeMap<DiskName, Vec<LayerId>>,
    /// Layers that are open and in no chain.
    pub(crate) attached: BTreeSet<LayerId>,
}

impl Layers {
    pub(crate) fn of(graph: &BlockGraph) -> Self {
        let mut layers = Self::default();
        for backend in graph.nodes.iter().filter(|node| node.kind == "block-backend") {
            if let Some(disk) = disk_of(&backend.name) {
                layers.chains.insert(disk, chain(graph, backend.id));
            }
        }
        let used: BTreeSet<_> = layers.chains.values().flatten().copied().collect();
        let open = graph.nodes.iter().filter_map(|node| layer_of(&node.name));
        layers.attached = open.filter(|layer| !used.contains(layer)).collect();
        layers
    }

    /// The layer is part of what a guest sees.
    pub(crate) fn in_use(&self, layer: LayerId) -> bool {
        self.chains.values().any(|chain| chain.contains(&layer))
    }
}

/// Walks down from a block backend. Filters that a job puts between layers are passed.
fn chain(graph: &BlockGraph, backend: u64) -> Vec<LayerId> {
    let mut chain = Vec::new();
    let mut at = child(graph, backend, &["root"]);
    for _ in 0..=graph.nodes.len() {
        let Some(node) = at.and_then(|id| graph.nodes.iter().find(|node| node.id == id)) else { break };
        at = if let Some(layer) = layer_of(&node.name) {
            chain.push(layer);
            child(graph, node.id, &["backing"])
        } else {
            child(graph, node.id, &["backing", "file"])
        };
    }
    chain
}

fn child(graph: &BlockGraph, parent: u64, names: &[&str]) -> Option<u64> {
    let find = |name: &&str| graph.edges.iter().find(|edge| edge.parent == parent && edge.name == *name);
    names.iter().find_map(find).map(|edge| edge.child)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOP: &str = "000000000000000000000001";
    const BASE: &str = "000000000000000000000002";
    const LOOSE: &str = "000000000000000000000003";

    fn graph() -> BlockGraph {
        serde_json::from_value(json!({
            "nodes": [
                {"id": 1, "type": "block-backend", "name": "/machine/peripheral/disk-system/virtio-backend"},
                {"id": 2, "type": "block-driver", "name": "#block99"},
                {"id": 3, "type": "block-driver", "name": format!("L{TOP}")},
                {"id": 4, "type": "block-driver", "name": format!("F{TOP}")},
                {"id": 5, "type": "block-driver", "name": format!("L{BASE}")},
                {"id": 6, "type": "block-driver", "name": format!("L{LOOSE}")},
                {"id": 7, "type": "block-job", "name": "merge"},
                {"id": 8, "type": "block-backend", "name": ""},
            ],
            "edges": [
                {"parent": 1, "child": 2, "name": "root", "perm": []},
                {"parent": 2, "child": 3, "name": "backing", "perm": []},
                {"parent": 3, "child": 4, "name": "file", "perm": []},
                {"parent": 3, "child": 5, "name": "backing", "perm": []},
                {"parent": 7, "child": 3, "name": "main node", "perm": []},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn a_chain_is_read_through_a_filter_down_to_the_base() {
        let layers = Layers::of(&graph());
        let ids = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<LayerId>>();
        assert_eq!(layers.chains, BTreeMap::from([("system".parse().unwrap(), ids(&[TOP, BASE]))]));
        assert_eq!(layers.attached.iter().copied().collect::<Vec<_>>(), ids(&[LOOSE]));
        assert!(layers.in_use(BASE.parse().unwrap()) && !layers.in_use(LOOSE.parse().unwrap()));
    }

    #[test]
    fn a_graph_that_turns_in_circles_ends() {
        let mut graph = graph();
        for edge in &mut graph.edges {
            if edge.child == 5 {
                edge.child = 3;
            }
        }
        assert!(Layers::of(&graph).chains[&"system".parse().unwrap()].len() <= 10);
    }
}
